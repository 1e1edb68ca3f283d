"""Secants of elementwise functions that lose no digits where x and x' are close."""

from __future__ import annotations

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.quotients import mean, quotient, times
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView
from onnx_attribution.graph_tools.operators.secant import secant


@secant("Relu")
def relu(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """The ratio lies between 0 and 1, whatever rounding says, and is meant however small the difference is."""
    x, y = node.input(0), reference.input(0)
    d = op("Sub", x, y)
    close = op("Equal", d, op.like(d, 0))
    step = op("Where", op("Greater", op("Add", x, y), op.like(x, 0)), op.like(g, 1), op.like(g, 0))
    ratio = quotient(op, op("Sub", node.z, reference.z), d, close, step)
    return (op("Mul", g, op("Min", op("Max", ratio, op.like(g, 0)), op.like(g, 1))),)


@secant("Tanh")
def tanh(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    return (op("Mul", g, tanh_secant(op, node.input(0), reference.input(0))),)


def tanh_secant(op: Emitter, x: Value, y: Value) -> Value:
    """Of 2 sigmoid(2 x) - 1."""
    twice = (op("Mul", v, op.like(v, 2)) for v in (x, y))
    return op("Mul", sigmoid_slope(op, *twice), op.like(x, 4))


@secant("Sigmoid")
def sigmoid(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    return (op("Mul", g, sigmoid_slope(op, node.input(0), reference.input(0))),)


def sigmoid_slope(op: Emitter, x: Value, y: Value) -> Value:
    """sigmoid(larger) sigmoid(-smaller) (1 - exp(-d)) / d with d = |x - y|, precise in both tails."""
    one = op.like(x, 1)
    ends = (op("Neg", op("Max", x, y)), op("Min", x, y))
    upper, lower = (op("Reciprocal", op("Add", op("Exp", v), one)) for v in ends)
    return op("Mul", op("Mul", upper, lower), fallen(op, x, y))


def fallen(op: Emitter, x: Value, y: Value) -> Value:
    """(1 - exp(-d)) / d with d = |x - y| as tanh(d / 2) (1 + exp(-d)) / d: no cancellation; 1 for equal infinities."""
    d = op("Abs", op("Sub", x, y))
    d = op("Where", op("IsNaN", d), op.like(d, 0), d)
    flat = op("Equal", d, op.like(d, 0))
    grown = op(
        "Mul", op("Tanh", op("Mul", d, op.like(d, 0.5))), op("Add", op("Exp", op("Neg", d)), op.like(d, 1))
    )
    return quotient(op, grown, d, flat, op.like(d, 1))


@secant("Div")
def div(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """x (1 / y): the product by its midpoint, 1 / y by its secant -1 / (y y')."""
    x, y = node.input(0), node.input(1)
    x0, y0 = reference.input(0), reference.input(1)
    inverse = op("Mul", op("Add", op("Reciprocal", y), op("Reciprocal", y0)), op.like(y, 0.5))
    slope = op("Neg", op("Div", mean(op, x, x0), op("Mul", y, y0)))
    return times(op, g, inverse), times(op, g, slope)
