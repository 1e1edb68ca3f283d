"""Gathering and scattering: the gradient of one is the other.

Letters: `x, y` operands, `z` output, `g` its gradient; `index` the positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float
from onnx_attribution.graph_tools.operators.ends import mean, quotient
from onnx_attribution.graph_tools.operators.registry import VJP, Gradients, NodeView, secant, vjp
from onnx_attribution.graph_tools.operators.transpose import (
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


@vjp("Gather", linear=[{0}], kinds={"carries"})
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


@vjp("GatherElements", linear=[{0}], kinds={"carries"})
def gather_elements(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x = node.input(0)
    return (_scatter_rows(op, x, node.input(1), g, node.attribute("axis", 0) % rank_of(x)),)


@vjp("GatherND", linear=[{0}], kinds={"carries"})
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


@vjp("OneHot", linear=[{2}])
def one_hot(op: Emitter, node: NodeView, g: Value) -> Gradients:
    values = node.input(2)
    switch = convert(op, op.constant(np.asarray([0, 1], dtype=np.float32)), values)
    is_hot = node.again(op, node.input(0), node.input(1), switch)
    is_hot.dtype, is_hot.shape = g.dtype, g.shape
    hot = op("ReduceSum", op("Mul", g, is_hot), keepdims=0)
    cold = op("Sub", op("ReduceSum", g, keepdims=0), hot)
    both = [op("Reshape", part, op.ints([1])) for part in (cold, hot)]
    return None, None, op("Concat", *both, axis=0)


# --- secants where positions depend on the source: products of values and positions
#
# Both are the two factors of a Shapley value. Values get the mean of their gradients at both positions; a position gets
# what moving from one place to the other changes, at the mean values, and nothing where it stays.

Credit = Callable[[Emitter, NodeView, Sequence[Value], Value], Value]
"""`(op, node at the mean values, both positions, g) -> what each position, or tuple of them, is credited with`."""


def by_position(operator: str, index: int = 1, *, tuples: bool = False) -> Callable[[Credit], Credit]:
    """Registers what positions are credited with; with `tuples`, several numbers are one position."""

    def register(credit: Credit) -> Credit:
        def rule(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
            return _by_position(op, node, reference, g, credit, index, tuples=tuples)

        secant(operator)(rule)
        return credit

    return register


def _by_position(
    op: Emitter, node: NodeView, reference: NodeView, g: Value, credit: Credit, index: int, *, tuples: bool
) -> Gradients:
    rule = VJP["", node.operator]
    values = [k for k, active in enumerate(node.active) if active and k != index]
    if values and not rule.is_linear_in(node, values):
        raise NotDifferentiable(
            f"DeepLIFT has no rule for {node.operator} (node {node.name!r}) with "
            f"{', '.join(repr(node.input(k).name) for k in values)} depending on the source",
            reason=Reason.NO_SECANT, node=node.name, operator=node.operator, tensor=node.z.name,
        )  # fmt: skip
    if not node.active[index]:
        return rule.vjp(op, node, g)
    places = [_whole(op, view.input(index)) for view in (node, reference)]
    found = [rule.vjp(op, with_inputs(node, {index: place}), g) for place in places]
    results: list[Value | None] = [None] * len(node.inputs)
    for k in values:
        here, there = (ends[k] for ends in found)
        assert here is not None
        assert there is not None
        results[k] = op("Mul", op("Add", here, there), op.like(g, 0.5))
    means = {k: mean(op, node.input(k), reference.input(k)) for k in values}
    for k, value in means.items():
        declare(value, dimensions(node.input(k)))
    change = credit(op, with_inputs(node, means), places, g)
    d = op("Sub", *(op.cast(place, g.dtype) for place in places))
    stays = op("Equal", d, op.like(d, 0))
    if tuples:  # the numbers of a position that differ share evenly
        moved = op.cast(op("Not", stays), g.dtype)
        count = op("ReduceSum", moved, op.ints([rank_of(node.input(index)) - 1]), keepdims=1)
        change = op("Div", op("Unsqueeze", change, op.ints([-1])), op("Max", count, op.like(g, 1)))
    results[index] = declare(quotient(op, change, d, stays, op.like(g, 0)), dimensions(node.input(index)))
    return results


def _whole(op: Emitter, place: Value) -> Value:
    return op.cast(place, np.int64) if is_float(place) else place


def with_inputs(node: NodeView, changed: dict[int, Value]) -> NodeView:
    return replace(node, inputs=tuple(changed.get(k, x) for k, x in enumerate(node.inputs)))


def _apart(op: Emitter, node: NodeView, places: Sequence[Value], index: int, g: Value) -> Value:
    """g times the difference that the positions make to the output."""
    here, there = (
        declare(node.again(op, *with_inputs(node, {index: place}).inputs), dimensions(node.z))
        for place in places
    )
    for z in (here, there):
        z.dtype = g.dtype
    return declare(op("Mul", g, op("Sub", here, there)), dimensions(node.z))


def _summed(op: Emitter, value: Value, axes: Sequence[int]) -> Value:
    return op("ReduceSum", value, op.ints(axes), keepdims=0) if axes else value


@by_position("Gather")
def gather_credit(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    axis, rank = node.attribute("axis", 0) % rank_of(node.input(0)), rank_of(node.input(1))
    others = [*range(axis), *range(axis + rank, rank_of(node.z))]
    return _summed(op, _apart(op, node, places, 1, g), others)


@by_position("GatherElements")
def gather_elements_credit(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    return _apart(op, node, places, 1, g)


@by_position("GatherND", tuples=True)
def gather_nd_credit(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    return _summed(op, _apart(op, node, places, 1, g), range(rank_of(node.input(1)) - 1, rank_of(node.z)))


@by_position("OneHot", 0)
def one_hot_credit(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    return _summed(op, _apart(op, node, places, 0, g), [node.attribute("axis", -1) % rank_of(node.z)])


def _placed(
    op: Emitter, node: NodeView, places: Sequence[Value], g: Value, read: Callable[[Value, Value], Value]
) -> Value:
    """What each update adds where it stands, or puts in place of what is there; `read` gathers at positions."""
    x, updates = node.input(0), node.input(2)
    ends = []
    for at in places:
        added = updates
        if node.attribute("reduction", "none") == "none":
            added = op("Sub", updates, read(x, at))
        ends.append(op("Mul", read(g, at), added))
    return declare(op("Sub", *ends), dimensions(updates))


@by_position("ScatterElements")
def scatter_elements_credit(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    axis = node.attribute("axis", 0)
    return _placed(op, node, places, g, lambda value, place: op("GatherElements", value, place, axis=axis))


@by_position("ScatterND", tuples=True)
def scatter_nd_credit(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    made = _placed(op, node, places, g, lambda value, place: op("GatherND", value, place))
    return _summed(op, made, range(rank_of(node.input(1)) - 1, rank_of(node.input(2))))
