"""Methods that carry something else than the gradient back through a network. Needs numpy only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.parameters import Numbers, bounded
from onnx_attribution.register import Method, register

LrpRule = Literal["epsilon", "gamma", "zplus", "alpha_beta", "w2", "flat", "box", "identity"]
LrpFirst = Literal["same", "epsilon", "gamma", "zplus", "alpha_beta", "w2", "flat", "box", "identity"]
LrpComposite = Literal[
    "none",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
]
LrpForm = Literal["general", "captum"]
NUMBERED = ("epsilon", "gamma")
"""Rules that have a number of their own."""

MULTIPLY_BY_INPUTS = "Multiply by the activation."


@register("guided_backprop", captum="GuidedBackprop, NeuronGuidedBackprop", paper="arXiv 1412.6806")
@dataclass(frozen=True)
class GuidedBackprop(Method):
    """The gradient of which every rectifier lets pass only what is positive.

    Rectifiers are Relu, Clip from 0, ThresholdedRelu and Max of a tensor and 0; all other functions, LeakyRelu and Gelu
    too, keep their gradient.
    """

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})


@register("deconvnet", captum="Deconvolution, NeuronDeconvolution", paper="arXiv 1311.2901")
@dataclass(frozen=True)
class DeconvNet(Method):
    """The gradient in which every rectifier lets pass what is positive of what arrives, whatever its own input was.

    Rectifiers are those of guided_backprop.
    """

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})


@register("rectgrad", paper="arXiv 1902.04893")
@dataclass(frozen=True)
class RectGrad(Method):
    """The gradient of which rectifiers let pass only what is above a threshold when it is multiplied by their output;
    times the layer's values.

    Rectifiers are those of guided_backprop, which it is with a tau of 0, but for the last factor. The threshold is a
    quantile over all units of a layer in one sample, so that samples are evaluated one by one.
    """

    quantile: float = bounded(
        98.0, at_least=0, at_most=100, help="The threshold as a quantile, in percent; where tau is left open."
    )
    tau: float | None = bounded(None, help="The threshold as a number.")
    absolute: bool = bounded(
        False, help="Compare the absolute value of the product, so that what is negative may pass too."
    )
    proportional: bool = bounded(
        False,
        help="At max pools, hand what arrives to all elements of a window in proportion to their values, in place of "
        "the largest; meant behind rectifiers: where values of both signs cancel, shares have no bound.",
    )
    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")


@register("lrp", captum="LRP, LayerLRP", paper="10.1371/journal.pone.0130140")
@dataclass(frozen=True)
class Lrp(Method):
    """Layer-wise relevance propagation: the target's value, shared by every operator among its inputs. Sums to F(x)
    less what biases take.

    Rules are for operators with weights; every other linear operator follows epsilon, and activations pass relevance.
    A factor between two bounds, as a sigmoid, leaves all to the other factor of a product; other factors share evenly.
    LSTM, GRU and RNN follow epsilon, with their gates as constants. What has no rule (a softmax, a sigmoid by itself)
    is refused: `rules` may name one. A BatchNormalization that is not folded into its convolution follows epsilon as
    well.
    """

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})

    rule: LrpRule = bounded(
        "epsilon", help="The rule of all operators with weights, unless a composite is named."
    )
    composite: LrpComposite = bounded(
        "none",
        help="Rules by kind, as Zennit has them: epsilon for products of matrices, for convolutions zplus, alpha_beta "
        "or gamma, and flat or box for those that read the source.",
    )
    first: LrpFirst = bounded(
        "same", help="The rule of the operators with weights that read the source; same: that of their kind."
    )
    rules: str = bounded(
        "",
        help="Rules by name, of a node, its output or its operator: 'conv1=gamma(0.5); fc=identity; "
        "Softmax=epsilon'. Operators without weights may have identity, epsilon (the gradient times the values) or "
        "derivative.",
    )
    epsilon: float = bounded(1e-9, at_least=0, help="What is added to divisors, away from 0.")
    gamma: float = bounded(
        0.25, at_least=0, help="How much more the terms count that the rule gamma prefers."
    )
    alpha: float = bounded(2.0, at_least=1, help="The factor of the positive terms in the rule alpha_beta.")
    beta: float = bounded(1.0, at_least=0, help="That of the negative terms, alpha less 1.")
    low: Numbers | None = bounded(
        None,
        help="The least number that the source may hold, for the rule box; or one for each channel, or for each "
        "element of a sample.",
    )
    high: Numbers | None = bounded(None, help="The largest one, in the same form.")
    form: LrpForm = bounded(
        "general",
        help="What zplus, gamma and alpha_beta take for positive: the terms x w, or with captum the weights, whatever "
        "the sign of x.",
    )
    zero_bias: bool = bounded(False, help="Leave the biases out of divisors, so that they take nothing.")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if abs(self.alpha - self.beta - 1) > 1e-9:
            yield "beta", f"alpha less beta is 1, not {self.alpha - self.beta:g}"
        if self.composite != "none" and self.rule != "epsilon":
            yield (
                "rule",
                f"the composite {self.composite} says the rules; leave rule out, or name single ones by rules",
            )
        try:
            named = [rule for _, rule, _ in self.by_name()]
        except InvalidArgument as error:
            yield "rules", error.message
            return
        used = {self.rule, self.first, *named, *self.composite.split("_")}
        if "box" in used and not _is_box(self.low, self.high):
            yield "low", "the rule box needs low and high, the bounds of what the source may hold"
        betas = used & {"alpha_beta", "alpha2"}
        if self.form == "captum" and betas and (self.alpha, self.beta) != (1, 0):
            yield "form", "captum has alpha_beta with alpha 1 and beta 0 only"

    def by_name(self) -> list[tuple[str, str, float | None]]:
        """The rules that are named: the name of what follows it, the rule, its number.

        Raises:
            InvalidArgument: the text has another form.
        """
        known = (*get_args(LrpRule), "derivative")
        found = []
        for part in filter(str.strip, self.rules.split(";")):
            name, _, rule = (word.strip() for word in part.rpartition("="))
            form = re.fullmatch(r"(\w+)(?:\(([-+.\deE]+)\))?", rule)
            word, number = (form[1], form[2]) if form else ("", None)
            if not name or word not in known or (number is not None and word not in NUMBERED):
                raise InvalidArgument(
                    f"rules has {part.strip()!r}, which is not NAME=RULE, with {', '.join(known)} as RULE, or "
                    "gamma(0.5) and epsilon(0.1)"
                )
            found.append((name, word, None if number is None else _number(part, number)))
        return found


def _is_box(low: Numbers | None, high: Numbers | None) -> bool:
    if low is None or high is None:
        return False
    ends = np.atleast_1d(low), np.atleast_1d(high)
    if len({len(end) for end in ends} - {1}) > 1:
        return False
    return bool((ends[0] <= ends[1]).all() and (ends[0] < ends[1]).any())


def _number(part: str, text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not found >= 0:
        raise InvalidArgument(f"rules has {part.strip()!r}, whose number is none from 0 up")
    return found
