"""The reasons for which a gradient or an attribution is refused: a closed list, each with what can be done instead."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """A reason by its word: what it means, what to do instead, and how its messages read."""

    word: str
    meaning: str
    instead: str
    pattern: str


REFUSALS = (
    Refusal(
        "NO_PATH",
        "nothing leads from the tensor to the target, so that its derivative is zero everywhere",
        "choose a layer before the target, or another target; `layers` lists those between source and target",
        r"no way leads from|does not depend on the source|no float tensor leads to",
    ),
    Refusal(
        "ZERO_DERIVATIVE",
        "every way to the target goes through operators that are constant between jumps, compare, or give positions",
        "take the tensor before the named operator as target, or a method that needs no gradient (occlusion)",
        r"the derivative of .* is zero|it has no derivative",
    ),
    Refusal(
        "NOT_FLOAT",
        "the source, layer or target holds integers, text or truth values; only floats have a derivative",
        "take a float tensor: the embedding's output for tokens, the scores before a final ArgMax",
        r"only floats have a derivative",
    ),
    Refusal(
        "NO_RULE",
        "an operator on the way has no gradient: `onnx-attribution ops` lists those that have one",
        "choose a layer behind the named node, or a method that needs no gradient (occlusion)",
        r"no gradient rule for [\w.]+ \(node '[^']*', output ",
    ),
    Refusal(
        "NO_SECANT",
        "DeepLIFT cannot share the change among several inputs of this operator that move together",
        "use a gradient method (neuron_ig), or a layer behind the node",
        r"DeepLIFT has no rule for",
    ),
    Refusal(
        "INPUT_WITHOUT_RULE",
        "the operator has a gradient, but not at this input: regions, sizes and shapes are not differentiated",
        "keep that input fixed: a source or layer that leads to the operator by another input",
        r"no gradient rule for input ",
    ),
    Refusal(
        "FORM_WITHOUT_RULE",
        "the operator has a gradient, but not with these attributes or sizes",
        "export the model with the form that the message names, or choose a layer behind the node",
        r"no gradient rule for |is not supported|has no rule",
    ),
    Refusal(
        "UNKNOWN_RANK",
        "the rank or a size of a tensor cannot be inferred, nor was it seen in a run",
        "declare the shapes in the file (onnx.shape_inference), or state input shapes with --shape",
        r"(rank|number of units|size of a head|size of the kernel) .*is unknown|they are unknown",
    ),
    Refusal(
        "RANDOM",
        "the operator draws at random, so that two runs are two functions",
        "export the model for inference",
        r"at random",
    ),
    Refusal(
        "OLD_OPSET",
        "the file stays at an opset that lacks an operator of the backward pass",
        "convert the file to opset 16 or later",
        r"which opset \d+ lacks",
    ),
    Refusal(
        "SEQUENCE",
        "the value is a list of tensors whose length is known only when the model runs",
        "export the model with stacked tensors in place of lists, or choose a layer behind the node",
        r"is a sequence",
    ),
    Refusal(
        "NOT_RUNNABLE",
        "no input was found on which the model runs, or the program does not run",
        "give an example or input shapes (--shape)",
        r"no input was found on which|does not run",
    ),
    Refusal(
        "NOT_FINITE",
        "the gradient at the example holds NaN or infinite numbers",
        "give another example; report the model if its outputs are finite there",
        r"holds NaN or infinite",
    ),
    Refusal(
        "NOT_CONFIRMED",
        "the gradient differs from the difference of two runs along it",
        "report the model: either a rule is wrong or the function jumps there",
        r"the gradient says",
    ),
)
"""In the order in which they are tried: the first whose pattern is found in a message is its reason."""


def refusal_of(message: str) -> Refusal | None:
    """The reason that a message of NotDifferentiable or `check` stands for; None if it is not in the list."""
    return next((one for one in REFUSALS if re.search(one.pattern, message)), None)
