"""Secants of gathering and scattering where the positions depend on the source: products of values and positions.

Both are the two factors of a Shapley value. Values get the mean of their gradients at both positions; a position gets
what moving from one place to the other changes, at the mean values, and nothing where it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float
from onnx_attribution.graph_tools.operators.quotients import mean, quotient
from onnx_attribution.graph_tools.operators.registry import VJP, Gradients, NodeView
from onnx_attribution.graph_tools.operators.secant import SECANT
from onnx_attribution.graph_tools.operators.tricks import declare, dimensions, rank_of

Credit = Callable[[Emitter, NodeView, Sequence[Value], Value], Value]
"""`(op, node at the mean values, both positions, g) -> what each position, or tuple of them, is credited with`."""


def by_position(operator: str, index: int = 1, *, tuples: bool = False) -> Callable[[Credit], Credit]:
    """Registers what positions are credited with; with `tuples`, several numbers are one position."""

    def register(credit: Credit) -> Credit:
        def rule(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
            return _by_position(op, node, reference, g, credit, index, tuples=tuples)

        SECANT[operator] = rule
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
    found = [rule.vjp(op, _with(node, {index: place}), g) for place in places]
    results: list[Value | None] = [None] * len(node.inputs)
    for k in values:
        here, there = (ends[k] for ends in found)
        assert here is not None
        assert there is not None
        results[k] = op("Mul", op("Add", here, there), op.like(g, 0.5))
    means = {k: mean(op, node.input(k), reference.input(k)) for k in values}
    for k, value in means.items():
        declare(value, dimensions(node.input(k)))
    change = credit(op, _with(node, means), places, g)
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


def _with(node: NodeView, changed: dict[int, Value]) -> NodeView:
    return replace(node, inputs=tuple(changed.get(k, x) for k, x in enumerate(node.inputs)))


def _apart(op: Emitter, node: NodeView, places: Sequence[Value], index: int, g: Value) -> Value:
    """g times the difference that the positions make to the output."""
    here, there = (
        declare(node.again(op, *_with(node, {index: place}).inputs), dimensions(node.z)) for place in places
    )
    for z in (here, there):
        z.dtype = g.dtype
    return declare(op("Mul", g, op("Sub", here, there)), dimensions(node.z))


def _summed(op: Emitter, value: Value, axes: Sequence[int]) -> Value:
    return op("ReduceSum", value, op.ints(axes), keepdims=0) if axes else value


@by_position("Gather")
def gather(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    axis, rank = node.attribute("axis", 0) % rank_of(node.input(0)), rank_of(node.input(1))
    others = [*range(axis), *range(axis + rank, rank_of(node.z))]
    return _summed(op, _apart(op, node, places, 1, g), others)


@by_position("GatherElements")
def gather_elements(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    return _apart(op, node, places, 1, g)


@by_position("GatherND", tuples=True)
def gather_nd(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    return _summed(op, _apart(op, node, places, 1, g), range(rank_of(node.input(1)) - 1, rank_of(node.z)))


@by_position("OneHot", 0)
def one_hot(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    return _summed(op, _apart(op, node, places, 0, g), [node.attribute("axis", -1) % rank_of(node.z)])


def _placed(
    op: Emitter, node: NodeView, places: Sequence[Value], g: Value, read: Callable[[Value, Value], Value]
) -> Value:
    """What each update adds where it stands, or puts in place of what is there; `read` gathers at positions."""
    x, updates = node.input(0), node.input(2)
    ends = []
    for place in places:
        added = updates
        if node.attribute("reduction", "none") == "none":
            added = op("Sub", updates, read(x, place))
        ends.append(op("Mul", read(g, place), added))
    return declare(op("Sub", *ends), dimensions(updates))


@by_position("ScatterElements")
def scatter_elements(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    axis = node.attribute("axis", 0)
    return _placed(op, node, places, g, lambda value, place: op("GatherElements", value, place, axis=axis))


@by_position("ScatterND", tuples=True)
def scatter_nd(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    made = _placed(op, node, places, g, lambda value, place: op("GatherND", value, place))
    return _summed(op, made, range(rank_of(node.input(1)) - 1, rank_of(node.input(2))))


@by_position("MaxUnpool")
def max_unpool(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    """Each value times what arrives at its place."""
    ends = [VJP["", "MaxUnpool"].vjp(op, _with(node, {1: place}), g)[0] for place in places]
    return op("Mul", node.input(0), op("Sub", *ends))
