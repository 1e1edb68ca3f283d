"""What a target that a softmax or a sigmoid makes is made of, also where the file has these in parts."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import is_float, shape_of
from onnx_attribution.graph_tools.select.final_activations import Final, final_activation
from onnx_attribution.graph_tools.select.patterns import (
    DEPTH,
    are_alike,
    maker_of,
    number_of,
    past,
)


@dataclass(frozen=True)
class Logit:
    """The tensor before a final activation; the axis of its classes, counted from the end.

    `made` is "" where the tensor has the places of the target. Else it is what the activation makes of it, place by
    place, and the target takes some of its elements, with a minus sign where it takes one less them. `sign` is -1 where
    the logit is the tensor's negative.
    """

    tensor: str
    operator: str
    axis: int | None
    made: str = ""
    sign: int = 1


_QUANTISING = frozenset({"DequantizeLinear", "QuantizeLinear"})
_RESHAPING = _QUANTISING | {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
_TAKING = (_RESHAPING - _QUANTISING) | {"Concat", "Gather", "Slice", "Split", "Transpose"}


def logit_of(graph: gs.Graph, target: str) -> Logit | None:
    """What a target that a Softmax, LogSoftmax or Sigmoid makes is made of; None for all others.

    These are found in parts too: less the maximum, exponentials, divided by their sum; 1 / (1 + exp(-x)).
    """
    value = graph.tensors()[target]
    made = past(value, _RESHAPING)
    final = final_activation(made)
    if final is not None and (found := _shaped_like(value, final)) is not None:
        return found
    cores: dict[str, tuple[gs.Tensor, Final]] = {}
    if not _trace(value, cores, signed=False) or len(cores) != 1:
        return None
    made, final = next(iter(cores.values()))
    shape = shape_of(final.argument)
    if not is_float(made) or not is_float(final.argument) or not are_alike(shape, shape_of(made)):
        return None
    axis = None if final.axis is None or shape is None else final.axis % len(shape) - len(shape)
    return Logit(final.argument.name, final.operator, axis, made.name, final.sign)


def _shaped_like(value: gs.Tensor, final: Final) -> Logit | None:
    """The argument where it has the shape of the target, or what it was reshaped from that has."""
    shape, found = shape_of(value), final.argument
    if shape is None:
        return None
    while shape_of(found) is None or not is_float(found) or not are_alike(shape_of(found), shape):
        if not found.inputs or found.inputs[0].op not in _RESHAPING:
            return None
        found = found.inputs[0].inputs[0]
    if isinstance(found, gs.Constant):
        return None
    if final.axis is not None and are_alike(shape_of(final.argument), shape):
        return Logit(found.name, final.operator, final.axis % len(shape) - len(shape))
    axis = -1 if final.axis is not None and len(shape) == 2 else None
    return Logit(found.name, final.operator, axis, sign=final.sign)


def _trace(
    value: gs.Tensor, cores: dict[str, tuple[gs.Tensor, Final]], *, signed: bool, depth: int = 0
) -> bool:
    """Collects what the elements of a value are taken from; whether all are from activations."""
    if (final := final_activation(value)) is not None:
        cores[value.name] = value, final
        return not signed or final.operator == "Sigmoid"
    node = maker_of(value)
    if node is None or depth > 4 * DEPTH:
        return False
    if node.op == "Sub" and number_of(node.inputs[0]) == 1:
        return _trace(node.inputs[1], cores, signed=True, depth=depth + 1)
    if node.op not in _TAKING:
        return False
    given = node.inputs if node.op == "Concat" else node.inputs[:1]
    return all(_trace(x, cores, signed=signed, depth=depth + 1) for x in given)
