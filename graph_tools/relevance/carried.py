"""Relevance as a value of the graph: mostly the product of a tensor and a multiplier, which the next rule takes apart.

So nothing is divided by a tensor that it was just multiplied by, and the pass costs as much as that of the gradient.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type, same_shape, shape_of
from onnx_attribution.graph_tools.operators.gates import above, below


def made_by(value: Value) -> gs.Node | None:
    """The node that makes a value."""
    return value.inputs[0] if value.inputs else None


def raw(op: Emitter, value: Value) -> Value:
    """The network's own tensor, where a rule sees one of half type in float32."""
    maker = made_by(value)
    emitted = maker is not None and maker.op == "Cast" and op.has_made(maker)
    return maker.inputs[0] if maker is not None and emitted else value


def times(op: Emitter, x: Value, multiplier: Value) -> Value:
    """The relevance of x from its multiplier."""
    found = op("Mul", x, multiplier)
    if same_shape(shape_of(x), shape_of(multiplier)) or shape_of(multiplier) is None:
        found.shape = x.shape
    return found


def apart(op: Emitter, relevance: Value) -> tuple[Value, Value] | None:
    """The tensor and the multiplier whose product a relevance is, or a sum of such of one tensor."""
    maker = made_by(relevance)
    if maker is None or maker.domain is not None:
        return None
    if maker.op == "Mul":
        return maker.inputs[0], maker.inputs[1]
    if maker.op != "Sum":
        return None
    pairs = [apart(op, one) for one in maker.inputs]
    tensor = pairs[0][0] if pairs[0] else None
    multipliers = [pair[1] for pair in pairs if pair is not None and pair[0] is tensor]
    if tensor is None or len(multipliers) < len(pairs):
        return None
    total = op("Sum", *multipliers)
    total.shape = tensor.shape
    return tensor, total


def is_relu_of(op: Emitter, value: Value, z: Value) -> bool:
    """Whether a value is Relu of z."""
    maker = made_by(raw(op, value))
    return maker is not None and maker.op == "Relu" and maker.inputs[0] is raw(op, z)


def share(op: Emitter, relevance: Value, z: Value, epsilon: float, sign: int = 0) -> Value:
    """relevance / (z + epsilon sign z), with the sign of 0 above; without an epsilon 0 where z is.

    `sign`: that of all of z as far as it is not 0, where one is known.
    """
    pair = apart(op, relevance)
    if pair is not None and pair[0] is z:
        size = _shaped(op("Abs", z), z)
        return _shaped(op("Mul", pair[1], _kept(op, size, epsilon)), z)
    if pair is not None and is_relu_of(op, pair[0], z):
        return _shaped(op("Mul", pair[1], _kept(op, pair[0], epsilon)), z)
    zero = op.like(z, 0)
    if sign and epsilon:
        return _shaped(op("Div", relevance, op("Add", z, op.like(z, sign * epsilon))), z)
    if sign > 0 and not epsilon and element_type(z) == np.float32 and len(shape_of(z) or ()) == 4:
        counts, none = above(op, z, 0), below(op, z, 0, reached=True)
        assert counts is not None
        assert none is not None
        divisor = _shaped(op("Add", z, none), z)
        return _shaped(op("Div", _shaped(op("Mul", relevance, counts), z), divisor), z)
    if not epsilon:
        none = op("Equal", z, zero)
        return _shaped(
            op(
                "Where",
                none,
                op.like(relevance, 0),
                op("Div", relevance, op("Where", none, op.like(z, 1), z)),
            ),
            z,
        )
    moved = op("Where", op("Less", z, zero), op.like(z, -epsilon), op.like(z, epsilon))
    return _shaped(op("Div", relevance, op("Add", z, moved)), z)


def _kept(op: Emitter, size: Value, epsilon: float) -> Value:
    """size / (size + epsilon) of what is not below 0."""
    if not epsilon:
        return _shaped(op.cast(op("Greater", size, op.like(size, 0)), size.dtype), size)
    return _shaped(op("Div", size, op("Add", size, op.like(size, epsilon))), size)


def _shaped(value: gs.Variable, like: Value) -> gs.Variable:
    value.shape = like.shape
    return value
