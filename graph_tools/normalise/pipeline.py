"""Brings a model to one form: sorted, functions inlined, opset 21 where possible, constants folded, types known.

Every step keeps the names of the tensors that stay. The result is run against the original before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.ir.edit import name_nodes
from onnx_attribution.graph_tools.ir.nodes import inner_graphs
from onnx_attribution.graph_tools.ir.runner import Runner
from onnx_attribution.graph_tools.ir.shapes import sizes_of
from onnx_attribution.graph_tools.ir.weights import Weights
from onnx_attribution.graph_tools.normalise.comparison import difference, restless
from onnx_attribution.graph_tools.normalise.flatten import flattened
from onnx_attribution.graph_tools.normalise.folding import folded, lifted
from onnx_attribution.graph_tools.normalise.function_bodies import expanded
from onnx_attribution.graph_tools.normalise.noise import stilled
from onnx_attribution.graph_tools.normalise.observed import cut_to
from onnx_attribution.graph_tools.normalise.open_optionals import opened
from onnx_attribution.graph_tools.normalise.opset import converted
from onnx_attribution.graph_tools.normalise.plain_form import declared
from onnx_attribution.graph_tools.normalise.squeezes import settled, settled_for_one
from onnx_attribution.graph_tools.normalise.types import typed
from onnx_attribution.graph_tools.normalise.unroll_sequences import unrolled, with_elements
from onnx_attribution.values import Array


@dataclass(frozen=True)
class Normalised:
    """The model in one form, and what could not be done to it, in words."""

    model: onnx.ModelProto
    notes: tuple[str, ...] = ()


def normalise(
    model: onnx.ModelProto,
    run: Runner,
    samples: Sequence[Mapping[str, Array]],
    weights: Weights | None = None,
    ranks: Mapping[str, int] | None = None,
) -> Normalised:
    """The model in one form, with the same outputs on every sample; large weights of inner graphs go to `weights`.

    `model` is in plain form, and each of `samples` has an array for each of its inputs. `ranks` are what the file says
    of tensors that no sample reaches. A step after which the outputs differ is undone, with a note.

    Raises:
        ModelError: the runner cannot run the model, or without its functions and old operators it is another one.
    """
    outputs = [o.name for o in model.graph.output]
    calm = stilled(model)
    expected = [run(calm, dict(sample), outputs) for sample in samples]
    flat = flattened(declared(model))
    if weights is not None:
        weights.take(flat.graph)

    loose = False  # about axes of size 1

    def right(changed: onnx.ModelProto) -> bool:
        return not difference(stilled(changed), run, samples, expected, loose)

    current, notes = _through_steps(flat, lambda _: True)
    if not right(current):  # some step is wrong for this file; find out which
        unsteady = restless(calm, run, samples, expected)
        expected = [{n: a for n, a in found.items() if n not in unsteady} for found in expected]
        if wrong := difference(stilled(flat), run, samples, expected):
            raise ModelError(
                f"without its functions and old operators the model differs from the file: {wrong}",
                reason=Reason.MODEL_INVALID,
            )
        current, notes = _through_steps(flat, right)
        if unsteady:
            listed = ", ".join(map(repr, unsteady))
            notes.append(f"the file itself gives other numbers in every run: {listed} could not be compared")
    current = with_elements(current)
    squeezed = settled(current, run, samples[0])
    if squeezed is not current:
        loose = not difference(stilled(squeezed), run, samples, expected, loose=True)
        if not loose:  # what follows counts axes as they are at one sample
            samples, expected = samples[:1], expected[:1]
            squeezed = settled_for_one(current, run, samples[0])
        if right(squeezed):
            current = squeezed
            notes += _at_one(calm, current, run, samples[0])
    known = typed(current, run, samples[0], ranks)
    plain = _decided(known)
    if plain is not known and right(plain):
        known = typed(plain, run, samples[0], ranks)
    return Normalised(known, tuple(notes))


def _decided(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with graphs inside of nodes, after what the shapes in these decide: lists and branches."""
    if not any(True for node in model.graph.node for _ in inner_graphs(node)):
        return model
    try:
        return lifted(folded(unrolled(model)))
    except Exception:  # as before: the step is optional
        return model


def _through_steps(
    model: onnx.ModelProto, right: Callable[[onnx.ModelProto], bool]
) -> tuple[onnx.ModelProto, list[str]]:
    """The model after every step that is possible and `right`, and notes on the others."""
    notes: list[str] = []
    for name, step in (
        ("conversion to opset 21", converted),
        ("opening of optionals", opened),
        ("unrolling of sequences", unrolled),
        ("folding", folded),
        ("expansion", _expanded),
        ("lifting of constants", lifted),
    ):
        try:
            changed = step(model)
        except Exception as error:  # converters and optimisers raise whatever they like; the step is optional
            notes.append(f"{name} is not possible: {_first_line(error)}")
            continue
        if changed is model or right(changed):
            model = changed
        else:
            notes.append(f"{name} changes the outputs and was undone")
    return model, notes


def _first_line(error: BaseException) -> str:
    """What the innermost error says, in a line, without a library's advice to its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.partition(" Please ")[0][:200]


def _at_one(
    model: onnx.ModelProto, squeezed: onnx.ModelProto, run: Runner, sample: Mapping[str, Array]
) -> list[str]:
    """A note on each size of the inputs at which, where it is 1, the file has other numbers: it squeezes that too."""
    notes = []
    for symbol, size in sizes_of(model, sample).items():
        if not size or size == 1:
            continue
        least = cut_to(model, sample, symbol, 1)
        try:
            wanted = run(model, least, [o.name for o in model.graph.output])
        except ModelError:
            continue
        if wrong := difference(squeezed, run, [least], [wanted], loose=True):
            notes.append(
                f"a Squeeze without axes removes {symbol!r} too where it is 1, and the file goes on with other axes "
                f"there; what is explained keeps it: {wrong}"
            )
    return notes


def _expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with operators that have no rule, but a function body, replaced by the body, and folded again."""
    grown = expanded(model)
    if grown is model:
        return model
    name_nodes(grown)
    return folded(grown)
