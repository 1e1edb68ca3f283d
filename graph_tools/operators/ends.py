"""Differences over differences: the secant of a function of one moving input, the Shapley value of a few."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type
from onnx_attribution.graph_tools.operators.gates import STEADY
from onnx_attribution.graph_tools.operators.huge import is_sum_of_products
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, Rule
from onnx_attribution.methods import NearZero

PLAYERS = 4  # each more doubles the evaluations of a Shapley value


def near(op: Emitter, x: Value, y: Value, d: Value, *, floor: float = 1) -> Value:
    """Where the difference d = x - y is rounding noise: below 8 units in the last place of x, y or `floor`."""
    scale = op("Max", op("Abs", x), op("Abs", y), op.like(x, floor))
    return op("LessOrEqual", op("Abs", d), op("Mul", scale, op.like(x, 8 * float(np.finfo(x.dtype).eps))))


def quotient(
    op: Emitter, change: Value, d: Value, close: Value, slope: Value, *, finite: bool = False
) -> Value:
    """change / d, and `slope` where d is close to 0.

    Of finite numbers by factors of 0 and 1: onnxruntime takes as long for a choice as for ten products.
    """
    if finite:
        near_0 = op.cast(close, d.dtype)
        away = op("Sub", op.like(d, 1), near_0)
        above = op("Add", op("Mul", change, away), op("Mul", slope, near_0))
        return op("Div", above, op("Add", op("Mul", d, away), near_0))
    return op("Where", close, slope, op("Div", change, op("Where", close, op.like(d, 1), d)))


def times(op: Emitter, g: Value, slope: Value) -> Value:
    """g * slope, and 0 where g is 0: an infinite slope that nothing reaches, as of a guarded division, is no NaN."""
    nothing = op.like(g, 0)
    return op("Where", op("Equal", g, nothing), nothing, op("Mul", g, slope))


def slope_of_one(
    op: Emitter,
    node: NodeView,
    reference: NodeView,
    rule: Rule,
    index: int,
    g: Value,
    near_zero: NearZero = "midpoint",
) -> Gradients:
    """The secant of an elementwise function of one moving input; near 0 its gradient at one point.

    No slope is infinite of an operator that has finite ones, and of finite numbers.
    """
    x, y = node.input(index), reference.input(index)
    d = op("Sub", x, y)
    point = {"input": node, "reference": reference}.get(near_zero) or midpoint(op, node, reference)
    z = node.again(op, *point.inputs)
    z.shape = node.z.shape
    one = op("Expand", op.like(g, 1), op.shape(node.z))
    one.shape = node.z.shape
    local = rule.vjp(op, replace(point, outputs=(z,)), one)[index]
    assert local is not None
    exact = near_zero == "midpoint" and "piecewise_linear" in rule.kinds
    close = near(op, x, y, d, floor=0 if exact else 1)
    finite = node.operator in STEADY and not node.domain and is_sum_of_products(x)
    certain = finite and is_sum_of_products(y)
    slope = quotient(op, op("Sub", node.z, reference.z), d, close, local, finite=certain)
    return [
        (op("Mul", g, slope) if finite else times(op, g, slope)) if k == index else None
        for k in range(len(node.inputs))
    ]


def shapley(
    op: Emitter, node: NodeView, reference: NodeView, rule: Rule, active: Sequence[int], g: Value
) -> Gradients:
    """The Shapley value of an elementwise function of a few moving inputs (Max, Min, Pow, Clip...).

    Per unit of an input that does not move it is the mean of the gradient, where selections have one.
    """
    results: list[Value | None] = [None] * len(node.inputs)
    values: dict[frozenset[int], Value] = {frozenset(): reference.z, frozenset(active): node.z}

    def inputs_at(moved: frozenset[int]) -> tuple[Value | None, ...]:
        return tuple(
            x if k in moved or k not in active else reference.inputs[k] for k, x in enumerate(node.inputs)
        )

    def at(moved: frozenset[int]) -> Value:
        if moved not in values:
            values[moved] = shaped(node.again(op, *inputs_at(moved)), node.z)
        return values[moved]

    one = shaped(op("Expand", op.like(node.z, 1), op.shape(node.z)), node.z)
    selects = "piecewise_linear" in rule.kinds
    for index in active:
        changes, slopes = [], []
        for rest, weight in _coalitions([k for k in active if k != index]):
            share = op.like(node.z, weight)
            with_it = rest | {index}
            changes.append(op("Mul", op("Sub", at(with_it), at(rest)), share))
            if selects:
                z = shaped(node.again(op, *inputs_at(with_it)), node.z)  # not rounded to a half type
                view = replace(node, inputs=inputs_at(with_it), outputs=(z,))
                gradient = rule.vjp(op, view, one)[index]
                assert gradient is not None
                slopes.append(op("Mul", gradient, share))
        x, y = node.input(index), reference.input(index)
        d = op("Sub", x, y)
        # selections have no rounding of their own, so that any difference counts, however small
        exact = "routes" in rule.kinds
        close = op("Equal", d, op.like(d, 0)) if exact else near(op, x, y, d)
        local = op("Sum", *slopes) if selects else _slope_halfway(op, node, reference, rule, index, one)
        results[index] = times(op, g, quotient(op, op("Sum", *changes), d, close, local))
    return results


def _slope_halfway(
    op: Emitter, node: NodeView, reference: NodeView, rule: Rule, index: int, one: Value
) -> Value:
    """The gradient of one input at the midpoint of all that move; 0 where a step has none."""
    point = midpoint(op, node, reference)
    z = shaped(node.again(op, *point.inputs), node.z)
    return rule.vjp(op, replace(point, outputs=(z,)), one)[index] or op.like(one, 0)


def _coalitions(others: Sequence[int]) -> Iterator[tuple[frozenset[int], float]]:
    """The sets of others that may have moved before a player does, each with how many orders of moving have it."""
    for size in range(len(others) + 1):
        weight = 1 / (math.comb(len(others), size) * (len(others) + 1))
        for chosen in itertools.combinations(others, size):
            yield frozenset(chosen), weight


def shaped(made: Value, like: Value) -> Value:
    """What is computed anew, with the shape of the tensor that it stands beside."""
    if isinstance(made, gs.Variable):
        made.shape = like.shape
    return made


def mean(op: Emitter, x: Value, y: Value) -> Value:
    return x if x is y else op("Mul", op("Add", x, y), op.like(x, 0.5))


def midpoint(op: Emitter, node: NodeView, reference: NodeView) -> NodeView:
    """The node with each active input halfway between x and x'."""
    pairs = zip(node.inputs, reference.inputs, node.active, strict=True)
    return replace(
        node,
        inputs=tuple(mean(op, x, y) if a and x is not None and y is not None else x for x, y, a in pairs),
    )


def ratio(op: Emitter, change: Value, d: Value, local: Value | None = None) -> Value:
    """change / d, and `local` (default: 0) where d is 0 or no number."""
    flat = op("Or", op("Equal", d, op.like(d, 0)), op("IsNaN", d))
    return quotient(op, change, d, flat, op.like(d, 0) if local is None else local)


def share_of_way(op: Emitter, above: Value, way: Value) -> Value:
    """How much of a way lies above a bound, of which its upper end is `above`: between 0 and 1, whatever rounding says.

    A way of no length lies above it or not.
    """
    ratio = op("Div", above, op("Clip", way, op.like(way, float(np.finfo(element_type(way)).tiny))))
    return op("Clip", ratio, op.like(ratio, 0), op.like(ratio, 1))


def sigmoid_slope(op: Emitter, x: Value, y: Value) -> Value:
    """sigmoid(larger) sigmoid(-smaller) (1 - exp(-d)) / d with d = |x - y|, precise in both tails."""
    one = op.like(x, 1)
    ends = (op("Neg", op("Max", x, y)), op("Min", x, y))
    upper, lower = (op("Reciprocal", op("Add", op("Exp", v), one)) for v in ends)
    return op("Mul", op("Mul", upper, lower), fallen(op, x, y))


def tanh_between(op: Emitter, x: Value, y: Value) -> Value:
    """Of 2 sigmoid(2 x) - 1."""
    twice = (op("Mul", v, op.like(v, 2)) for v in (x, y))
    return op("Mul", sigmoid_slope(op, *twice), op.like(x, 4))


def fallen(op: Emitter, x: Value, y: Value, *, finite: bool = False) -> Value:
    """(1 - exp(-d)) / d with d = |x - y| as tanh(d / 2) (1 + exp(-d)) / d: no cancellation; 1 for equal infinities,
    which are none of `finite` numbers."""
    d = op("Abs", op("Sub", x, y))
    if not finite:
        d = op("Where", op("IsNaN", d), op.like(d, 0), d)
    d = op("Max", d, op.like(d, 4 * float(np.finfo(element_type(d)).tiny)))  # the quotient there is 1
    grown = op(
        "Mul", op("Tanh", op("Mul", d, op.like(d, 0.5))), op("Add", op("Exp", op("Neg", d)), op.like(d, 1))
    )
    return op("Div", grown, d)


def exp_slope(op: Emitter, x: Value, y: Value, *, finite: bool = False) -> Value:
    """(exp x - exp y) / (x - y) = exp(larger) (1 - exp(-d)) / d with d = |x - y|: no overflow on the way."""
    return op("Mul", op("Exp", op("Max", x, y)), fallen(op, x, y, finite=finite))


def log_slope(op: Emitter, x: Value, y: Value, z: Value, w: Value) -> Value:
    """(log x - log y) / (x - y) = 2 atanh(t) / (x - y) with t = (x - y) / (x + y): a series where t is small."""
    d, total = op("Sub", x, y), op("Add", x, y)
    t = op("Div", d, total)
    square = op("Mul", t, t)
    series = op.like(t, 1 / 17)
    for k in (15, 13, 11, 9, 7, 5, 3, 1):
        series = op("Add", op("Mul", series, square), op.like(t, 1 / k))
    close = op("Less", op("Abs", t), op.like(t, 0.1))
    return quotient(op, op("Sub", z, w), d, close, op("Div", op("Mul", series, op.like(t, 2)), total))


def cross(
    op: Emitter,
    x: Value,
    y: Value,
    z: Value,
    w: Value,
    share_x: Value,
    share_y: Value,
    g: Value,
    extreme: str,
) -> Value:
    """The multiplier of x where c - w is shared out by `share_x` and z - c by `share_y`, c the larger of z and w.

    Elements that do not change have the mean gradient of the two ends.
    """
    c = op(extreme, z, w)
    to_x = op("Mul", op("Mul", g, op("Sub", c, w)), share_x)
    to_y = op("Mul", op("Mul", g, op("Sub", z, c)), share_y)
    local = op("Mul", g, op("Mul", op("Add", share_x, share_y), op.like(g, 0.5)))
    d = op("Sub", x, y)
    return quotient(op, op("Add", to_x, to_y), d, op("Equal", d, op.like(d, 0)), local)
