"""Gathering and scattering: the gradient of one is the other.

Letters: `x, y` operands, `z` output, `g` its gradient; `index` the positions.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, vjp
from onnx_attribution.graph_tools.operators.tricks import (
    accumulable,
    add_at,
    convert,
    declare,
    dimensions,
    flat,
    known,
    moved,
    place,
    positions,
    rank_of,
)


@vjp("Gather", linear=[{0}])
def gather(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, index = node.input(0), node.input(1)
    axis = node.attribute("axis", 0) % rank_of(x)
    begin = _run_start(op, x, known(index), axis)
    lead, tail = op.dims(x, 0, axis), op.dims(x, axis + 1)
    count = op("Reshape", op.size(index), op.ints([1]))
    shape = op("Concat", lead, count, tail, axis=0)
    rows = g if rank_of(index) == 1 else op("Reshape", g, shape)
    declare(rows, [*dimensions(x)[:axis], _count(index), *dimensions(x)[axis + 1 :]])
    if begin is not None:
        return (place(op, rows, x, rows, {axis: begin}),)
    column = op("Reshape", index, op.ints([-1 if a == axis else 1 for a in range(rank_of(x))]))
    return (_scatter_rows(op, x, op("Expand", column, shape), rows, axis),)


def _run_start(op: Emitter, x: Value, index: np.ndarray | None, axis: int) -> int | Value | None:
    """Where constant positions that follow one another start; None for all others."""
    if index is None or index.size == 0 or np.any(np.diff(index.reshape(-1)) != 1):
        return None
    start, size = int(index.reshape(-1)[0]), dimensions(x)[axis]
    if start < 0 and index.reshape(-1)[-1] >= 0:
        return None
    if start >= 0:
        return start
    return start + size if isinstance(size, int) else op("Add", op.dims(x, axis, axis + 1), op.ints([start]))


def _count(index: Value) -> int | str:
    """The number of elements of `index`, if that is known."""
    product = 1
    for size in dimensions(index):
        if not isinstance(size, int):
            return "?"
        product *= size
    return product


def _scatter_rows(op: Emitter, x: Value, index: Value, g: Value, axis: int) -> Value:
    """Zeros of the shape of `x` with `g` added at `index` along `axis`."""
    wide = accumulable(op, g)
    zero = gs.Constant("zero", np.zeros(1, dtype=wide.dtype))
    total = add_at(op, op("ConstantOfShape", op.shape(x), value=zero), index, wide, axis)
    total.shape = x.shape
    return convert(op, total, x)


@vjp("GatherElements", linear=[{0}])
def gather_elements(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x = node.input(0)
    return (_scatter_rows(op, x, node.input(1), g, node.attribute("axis", 0) % rank_of(x)),)


@vjp("GatherND", linear=[{0}])
def gather_nd(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (moved(op, node, g, node.input(1)),)


def _adds_or_replaces(node: NodeView) -> bool:
    return node.attribute("reduction", "none") in ("none", "add")


@vjp("ScatterElements", linear=[{0, 2}], linear_if=_adds_or_replaces)
def scatter_elements(op: Emitter, node: NodeView, g: Value) -> Gradients:
    index, y = node.input(1), node.input(2)
    axis = node.attribute("axis", 0)
    reduction = node.attribute("reduction", "none")
    if reduction == "none":
        dx = op("ScatterElements", g, index, op.zeros_like(y), axis=axis)
        return dx, None, op("GatherElements", g, index, axis=axis)
    return _reduced(op, reduction, node.input(0), node.z, g, index, y, axis)


@vjp("ScatterND", linear=[{0, 2}], linear_if=_adds_or_replaces)
def scatter_nd(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, index, y = node.input(0), node.input(1), node.input(2)
    reduction = node.attribute("reduction", "none")
    if reduction == "none":
        return op("ScatterND", g, index, op.zeros_like(y)), None, op("GatherND", g, index)
    place_of = flat(op, op("GatherND", positions(op, x), index))
    x_flat, z_flat, g_flat, y_flat = (op("Reshape", value, op.ints([-1])) for value in (x, node.z, g, y))
    dx, _, dy = _reduced(op, reduction, x_flat, z_flat, g_flat, place_of, y_flat, 0)
    assert dx is not None
    assert dy is not None
    return op.reshape_like(dx, x), None, op.reshape_like(dy, y)


def _reduced(
    op: Emitter, reduction: str, x: Value, z: Value, g: Value, index: Value, y: Value, axis: int
) -> Gradients:
    """The gradients of data and updates where updates are combined with what is there."""

    def at(value: Value) -> Value:
        return op("GatherElements", value, index, axis=axis)

    if reduction == "add":
        return g, None, at(g)
    one, nothing = op.like(g, 1), op.like(g, 0)
    if reduction == "mul":  # the product of all others, also where one of them is zero
        is_zero = op("Equal", y, nothing)
        divisor = op("Where", is_zero, one, y)
        zeros = add_at(op, op.zeros_like(x), index, convert(op, is_zero, x), axis)
        ones = op("Add", op.zeros_like(x), one)
        dx = op("Mul", g, op("ScatterElements", ones, index, y, axis=axis, reduction="mul"))
        others = op("ScatterElements", x, index, divisor, axis=axis, reduction="mul")
        alone = op("Equal", at(zeros), convert(op, is_zero, x))
        dy = op("Where", alone, op("Div", at(op("Mul", g, others)), divisor), nothing)
        return dx, None, dy
    own = convert(op, op("Equal", x, z), x)  # max and min: those who reach the result share it
    reached = convert(op, op("Equal", y, at(z)), x)
    shared = op("Div", g, add_at(op, own, index, reached, axis))
    return op("Mul", own, shared), None, op("Mul", reached, at(shared))
