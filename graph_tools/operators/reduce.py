"""Reductions. `gk` and `zk` are the gradient and the output with the reduced axes kept at length 1.

Letters: `x` operand, `z` output, `g` its gradient.
"""

from __future__ import annotations

import numpy as np

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, vjp
from onnx_attribution.graph_tools.operators.tricks import convert, declare, dimensions, known, rank_of


def _axes(op: Emitter, node: NodeView) -> Value | None:
    """The reduced axes as a vector, None for all: an input in newer opsets, an attribute in older ones."""
    declared = node.attribute("axes")
    return op.ints(declared) if declared else node.optional(1)


def _kept(op: Emitter, node: NodeView, value: Value) -> Value:
    """`value`, which has the shape of the output, with the reduced axes kept at length 1."""
    x = node.input(0)
    if rank_of(node.z) == rank_of(x):
        return value
    axes = _axes(op, node)
    numbers = None if axes is None else known(axes)
    if numbers is not None and numbers.size:
        reduced = {int(axis) % rank_of(x) for axis in numbers}
        made = op("Unsqueeze", value, op.ints(sorted(reduced)))
        return declare(made, [1 if a in reduced else d for a, d in enumerate(dimensions(x))])
    if rank_of(node.z) == 0:
        made = op("Reshape", value, op.ints([1] * rank_of(x)))
        made.shape = [1] * rank_of(x)
        return made
    model = op(
        "ReduceSum", x, axes, keepdims=1, noop_with_empty_axes=node.attribute("noop_with_empty_axes", 0)
    )
    model.shape = [None] * rank_of(x)
    made = op("Reshape", value, op.shape(model))
    made.shape = model.shape
    return made


def _sum(op: Emitter, node: NodeView, value: Value) -> Value:
    """The sum of `value`, which has the shape of the input, over the reduced axes, which are kept."""
    noop = node.attribute("noop_with_empty_axes", 0)
    made = op("ReduceSum", value, _axes(op, node), keepdims=1, noop_with_empty_axes=noop)
    made.shape = _kept(op, node, node.z).shape
    return made


def _safe(op: Emitter, value: Value) -> Value:
    """`value` with 1 in place of 0: a divisor."""
    return op("Where", op("Equal", value, op.like(value, 0)), op.like(value, 1), value)


def mean_factor(op: Emitter, x: Value, z: Value) -> Value:
    """How many elements of `x` come to one of `z`, inverted, as a scalar of their type."""
    numbers, counts = op.size(x), op.size(z)
    many, one = known(numbers), known(counts)
    if many is not None and one is not None:
        return op.like(x, float(one / max(many, 1)))
    wide = [op("Cast", count, to=11) for count in (counts, numbers)]
    ratio = op("Div", *wide)
    ratio.dtype = np.dtype(np.float64)
    return convert(op, ratio, x)


@vjp("ReduceSum", linear=[{0}])
def reduce_sum(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x = node.input(0)
    return (op("Expand", _kept(op, node, g), op.shape(x)),)


@vjp("ReduceMean", linear=[{0}])
def reduce_mean(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x = node.input(0)
    scaled = op("Mul", g, mean_factor(op, x, node.z))
    return (op("Expand", _kept(op, node, scaled), op.shape(x)),)


@vjp("ReduceMax", "ReduceMin")
def reduce_max_min(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """Those who reach the extremum share its gradient evenly."""
    x = node.input(0)
    reached = convert(op, op("Equal", x, _kept(op, node, node.z)), x)
    return (op("Mul", reached, op("Div", _kept(op, node, g), _sum(op, node, reached))),)


@vjp("ReduceProd")
def reduce_prod(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """The product of all others, also where one of them is zero."""
    x = node.input(0)
    divisor = _safe(op, x)
    is_zero = convert(op, op("Equal", x, op.like(x, 0)), x)
    others = node.again(op, divisor, *node.inputs[1:], keepdims=1)
    alone = convert(op, op("Equal", _sum(op, node, is_zero), is_zero), x)
    return (op("Mul", op("Mul", _kept(op, node, g), alone), op("Div", others, divisor)),)


@vjp("ReduceL1")
def reduce_l1(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (op("Mul", _kept(op, node, g), op("Sign", node.input(0))),)


@vjp("ReduceL2")
def reduce_l2(op: Emitter, node: NodeView, g: Value) -> Gradients:
    scaled = op("Div", _kept(op, node, g), _safe(op, _kept(op, node, node.z)))
    return (op("Mul", scaled, node.input(0)),)


@vjp("ReduceLogSum")
def reduce_log_sum(op: Emitter, node: NodeView, g: Value) -> Gradients:
    each = op("Mul", g, op("Exp", op("Neg", node.z)))
    return (op("Expand", _kept(op, node, each), op.shape(node.input(0))),)


@vjp("ReduceLogSumExp")
def reduce_log_sum_exp(op: Emitter, node: NodeView, g: Value) -> Gradients:
    zk = _kept(op, node, node.z)
    finite = op("Where", op("Equal", zk, op.like(zk, float("-inf"))), op.like(zk, 0), zk)
    return (op("Mul", _kept(op, node, g), op("Exp", op("Sub", node.input(0), finite))),)


@vjp("ReduceSumSquare")
def reduce_sum_square(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x = node.input(0)
    return (op("Mul", _kept(op, node, g), op("Add", x, x)),)


@vjp("TopK")
def top_k(op: Emitter, node: NodeView, g: Value | None, *_: Value | None) -> Gradients:
    x, index = node.input(0), node.outputs[1]
    if g is None:
        return (op.zeros_like(x),)
    axis = node.attribute("axis", -1) % rank_of(x)
    return (op("ScatterElements", op.zeros_like(x), index, g, axis=axis),)
