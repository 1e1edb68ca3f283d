"""What an operator that reads the source may get at least and at most, from what the source may hold.

Bounds are one number, one for each channel, or one for each element of a sample. They take the way of the source
through operators that move elements, or are monotone in each: at a factor below 0 the two change places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type, is_float, shape_of
from onnx_attribution.graph_tools.operators.transpose import known_inside
from onnx_attribution.graph_tools.relevance.carried import made_by

Bound = float | tuple[float, ...]
ALIKE = frozenset([
    "AveragePool", "Cast", "Concat", "DepthToSpace", "Dropout", "Elu", "Expand", "Flatten", "Gather",
    "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "Pad", "ReduceMax", "ReduceMean",
    "ReduceSum", "Relu", "Reshape", "Sigmoid", "Slice", "SpaceToDepth", "Split", "Squeeze", "Sum", "Tanh", "Tile",
    "Transpose", "Unsqueeze",
])  # fmt: skip
"""Operators whose output never falls where an input rises: the ends of one are made of those of the other."""
TURNING = frozenset({"Add", "BatchNormalization", "Clip", "Div", "Mul", "Neg", "Sub"})
"""Operators that are monotone in one input beside constants, in one or the other direction."""


def bounds_at(op: Emitter, x: Value, low: Bound, high: Bound) -> tuple[Value, Value]:
    """The bounds of x where those of the source are given, in its shape.

    Raises:
        InvalidArgument: the numbers are not those of a source. NotDifferentiable: an operator between has no bounds.
    """
    return _Bounds(op, low, high).of(x)


def laid(op: Emitter, x: Value, bound: Bound) -> Value:
    """The numbers in the shape of x."""
    kind = element_type(x) if is_float(x) else np.dtype(np.float32)
    made = op.constant((np.asarray(bound) if isinstance(bound, float) else _shaped(x, bound)).astype(kind))
    found = op("Expand", made, op.shape(x))
    found.shape = x.shape
    return found


class _Bounds:
    def __init__(self, op: Emitter, low: Bound, high: Bound) -> None:
        self.op, self.low, self.high = op, low, high
        self.known: dict[str, tuple[Value, Value]] = {}

    def of(self, x: Value) -> tuple[Value, Value]:
        if isinstance(x, gs.Constant) or known_inside(x) is not None:
            return x, x
        if x.name not in self.known:
            maker = made_by(x)
            ends = (
                (laid(self.op, x, self.low), laid(self.op, x, self.high))
                if maker is None
                else self._made(maker, x)
            )
            for end in ends:
                end.shape = x.shape
            self.known[x.name] = ends
        return self.known[x.name]

    def _made(self, node: gs.Node, x: Value) -> tuple[Value, Value]:
        moving = [
            k
            for k, one in enumerate(node.inputs)
            if not one.is_empty() and known_inside(one) is None and (k == 0 or is_float(one))
        ]  # all others are shapes and places
        alike = node.op in ALIKE or (node.op == "Add" and len(moving) > 1)
        first = moving == [0] or (node.op in ("Add", "Concat", "Mul", "Sub", "Sum") and moving)
        if node.domain not in (None, "", "ai.onnx") or not (
            (alike or (node.op in TURNING and len(moving) == 1)) and first
        ):
            raise NotDifferentiable(
                f"LRP's rule box has no bounds behind {node.op} (node {node.name!r}, output {x.name!r}), which is "
                "between the source and an operator that the rule is for; explain from a source behind it",
                reason=Reason.FORM_WITHOUT_RULE, node=node.name, operator=node.op, tensor=x.name,
            )  # fmt: skip
        at = node.outputs.index(x)
        parts = {k: self.of(node.inputs[k]) for k in moving}
        one, other = (
            self.op.multi(
                node.op,
                len(node.outputs),
                *[parts[k][end] if k in parts else given for k, given in enumerate(node.inputs)],
                domain=node.domain,
                **node.attrs,
            )[at]
            for end in (0, 1)
        )
        for end in (one, other):
            end.dtype = x.dtype
        return (one, other) if alike else (self.op("Min", one, other), self.op("Max", one, other))


def _shaped(x: Value, numbers: Sequence[float]) -> NDArray[Any]:
    """The numbers along the axes of a source, that of the samples in front."""
    shape, count = shape_of(x) or (), len(numbers)
    found = np.asarray(numbers)
    unit = shape[1:]
    sizes = [d for d in unit if isinstance(d, int)]
    if unit and len(sizes) == len(unit) and count == math.prod(sizes):
        return found.reshape(1, *sizes)
    places = [k for k in dict.fromkeys((1, len(shape) - 1)) if 0 < k < len(shape) and shape[k] == count]
    if len(places) == 1:
        return found.reshape([-1 if k == places[0] else 1 for k in range(len(shape))])
    raise InvalidArgument(
        f"low and high have {count} numbers, and {x.name!r} has the shape {list(shape)}: there may be one number, "
        "one for each channel (axis 1, or the last, whichever has as many), or one for each element of a sample",
        reason=Reason.PARAMETER_INVALID, option="low",
    )  # fmt: skip
