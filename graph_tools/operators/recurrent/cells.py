"""LSTM, GRU and RNN: the forward pass keeps its kernel, the backward pass is one Scan of a few nodes a direction.

Output Y holds the hidden states, so the gates of all steps follow at once from two matrix products. What a step does
to the gradients is then a product with factors known beforehand, and one product with the recurrent weights. Only
the cell of an LSTM is computed again step by step, without a matrix product.

Gates are products and functions of one number, so each factor has its secant too: a derivative becomes the slope
between x and x', the other factor of a product its mean of both, and every step sums exactly. Each cell is written
once, for values at x (the gradient) or at x and x' (the secant).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.control_flow_emit import dims, scan
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.ir.subgraphs import Values
from onnx_attribution.graph_tools.operators.ends import mean, near, quotient, sigmoid_slope, tanh_between
from onnx_attribution.graph_tools.operators.recurrent.directions import (
    INITIAL_C,
    INITIAL_H,
    B,
    Function,
    P,
    R,
    Side,
    W,
    X,
    add,
    joined,
    mul,
    sides_of,
    start,
)
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, secant, vjp
from onnx_attribution.graph_tools.operators.transpose import declare


@dataclass(frozen=True)
class Result:
    """Gradients of one direction: of the gates as x reaches them and as hidden states do, and of the states.

    `recurrent` lists groups of gates, each with the states [T, B, H] that its weights multiply.
    """

    gates: Value
    recurrent: Sequence[tuple[Value, Value]]
    h: Value
    c: Value | None = None
    peephole: Values | None = None


Ends = tuple[Value, ...]
"""A value at x, or at x and at x'."""
Cell = Callable[[Emitter, NodeView, Sequence[Side]], Result]
"""What a direction does with what arrives, known at x or at x and x'."""


def middle(op: Emitter, ends: Ends) -> Value:
    """The mean of the ends."""
    return ends[0] if len(ends) == 1 else declare(mean(op, *ends), dims(ends[0]))


def slope(op: Emitter, function: Function, a: Ends, y: Ends) -> Value:
    """What a gate's function does to a difference of its argument."""
    d = op("Sub", *a)
    if function.clip is None and function.name in ("tanh", "sigmoid"):
        made = (tanh_between if function.name == "tanh" else sigmoid_slope)(op, *a)
        return declare(made, dims(a[0]))
    at = middle(op, a)
    local = function.pulled(op, at, function.value(op, at), _ones(op, at))
    return declare(quotient(op, op("Sub", *y), d, near(op, a[0], a[1], d), local), dims(a[0]))


def pulled(op: Emitter, function: Function, a: Ends, y: Ends, g: Value) -> Value:
    """`g` times the derivative of a gate's function, or times its slope between the ends."""
    if len(a) == 1:
        return function.pulled(op, a[0], y[0], g)
    return mul(op, slope(op, function, a, y), g)


def _ones(op: Emitter, like: Value) -> Value:
    return declare(op("Expand", op.like(like, 1), op.shape(like)), dims(like))


def cell(operator: str, gates: int, *functions: str) -> Callable[[Cell], Cell]:
    """Registers the gradient and the secant of an operator by what one direction does; `functions` are the defaults."""

    def register(one: Cell) -> Cell:
        @vjp(operator)
        def gradient(op: Emitter, node: NodeView, *g: Value | None) -> Gradients:
            sides = [[s] for s in sides_of(op, node, g, gates, functions)]
            return _gradients(op, node, gates, sides, one)

        @secant(operator)
        def between(op: Emitter, node: NodeView, reference: NodeView, *g: Value | None) -> Gradients:
            moved = [k for k, active in enumerate(node.active) if active]
            if set(moved) - {X, INITIAL_H, INITIAL_C}:
                raise NotDifferentiable(
                    f"DeepLIFT has no rule for {node.operator} (node {node.name!r}) with weights or lengths that "
                    "depend on the source",
                    reason=Reason.NO_SECANT, node=node.name, operator=node.operator, tensor=node.input(X).name,
                )  # fmt: skip
            ends = [sides_of(op, view, g, gates, functions) for view in (node, reference)]
            return _gradients(op, node, gates, list(zip(*ends, strict=True)), one)

        return one

    return register


@cell("RNN", 1, "Tanh")
def rnn(op: Emitter, node: NodeView, sides: Sequence[Side]) -> Result:
    s, (f,) = sides[0], sides[0].functions
    a, y = [], []
    for v in sides:
        (a_x,) = v.gates(op, 1)
        a.append(add(op, a_x, v.recurrent(op, v.before, slice(0, 1), v.r)))
        y.append(f.value(op, a[-1]))
    k = s.where(op, pulled(op, f, tuple(a), tuple(y), _ones(op, a[0])), 0)

    def step(inner: Emitter, dh: Value, _: Values, factors: Values) -> tuple[Value, Values, Values]:
        da = declare(inner("Mul", dh, factors[0]), dims(dh))
        return inner("MatMul", da, s.r), [], [da]

    (h,), (da,) = s.scan(op, step, [start(op, s, s.g_h)], [k])
    return Result(da, [(da, s.before)], h)


@cell("GRU", 3, "Sigmoid", "Tanh")
def gru(op: Emitter, node: NodeView, sides: Sequence[Side]) -> Result:
    s, (f, g), n = sides[0], sides[0].functions, sides[0].size
    after = bool(node.attribute("linear_before_reset", 0))  # the reset gate multiplies after the weights
    upper = declare(op("Slice", s.r, op.ints([0]), op.ints([2 * n])), [2 * n, n])
    lower = declare(op("Slice", s.r, op.ints([2 * n]), op.ints([3 * n])), [n, n])
    ends = []
    for v in sides:
        in_z, in_r, in_n = v.gates(op, 3)
        rec_z, rec_r = v.split(op, v.recurrent(op, v.before, slice(0, 2), upper), 2)
        at_z, at_r = add(op, in_z, rec_z), add(op, in_r, rec_r)
        reset = f.value(op, at_r)
        of_n = v.before if after else mul(op, reset, v.before)
        from_n = v.recurrent(op, of_n, slice(2, 3), lower)
        at_n = add(op, in_n, mul(op, reset, from_n) if after else from_n)
        ends.append((at_z, at_r, at_n, f.value(op, at_z), reset, g.value(op, at_n), from_n, v.before, of_n))
    a_z, a_r, a_n, z, r, new, rec_n, before, read = zip(*ends, strict=True)
    mid_z, mid_r, mid_before = (middle(op, v) for v in (z, r, before))
    keep = s.where(op, mid_z, 1)
    k_z = pulled(op, f, a_z, z, declare(op("Sub", mid_before, middle(op, new)), dims(mid_z)))
    k_n = pulled(op, g, a_n, new, declare(op("Sub", op.like(mid_z, 1), mid_z), dims(mid_z)))
    k_r = pulled(op, f, a_r, r, mul(op, k_n, middle(op, rec_n)) if after else mid_before)
    if not after:
        return _reset_first(op, s, keep, [k_z, k_n, k_r, mid_r], [upper, lower], read[0])
    k = s.where(op, joined(op, [k_z, k_r, mul(op, k_n, mid_r)]), 0)

    def step(inner: Emitter, dh: Value, _: Values, factors: Values) -> tuple[Value, Values, Values]:
        kept, all_ = factors
        da = inner("Mul", joined(inner, [dh, dh, dh]), all_)
        return inner("Add", inner("Mul", dh, kept), inner("MatMul", da, s.r)), [], [dh]

    (h,), (dh,) = s.scan(op, step, [start(op, s, s.g_h)], [keep, k])
    all_dh = joined(op, [dh, dh, dh])
    of_x = mul(op, all_dh, s.where(op, joined(op, [k_z, k_r, k_n]), 0))
    return Result(of_x, [(mul(op, all_dh, k), s.before)], h)


def _reset_first(op: Emitter, s: Side, keep: Value, gates: Values, weights: Values, read: Value) -> Result:
    """The backward pass of a GRU whose reset gate multiplies the hidden state; `read` is their product.

    `gates` are the factors of update, new state and reset, and the reset gate itself.
    """
    k_z, k_n, k_r, r = gates
    upper, lower = weights

    def step(inner: Emitter, dh: Value, _: Values, factors: Values) -> tuple[Value, Values, Values]:
        kept, both, reset, opened = factors
        da_z, da_n = s.split(inner, mul(inner, joined(inner, [dh, dh]), both), 2)
        d_read = declare(inner("MatMul", da_n, lower), dims(dh))
        da = joined(inner, [da_z, mul(inner, d_read, reset)])
        back = inner("Add", inner("Mul", dh, kept), inner("Mul", d_read, opened))
        return inner("Add", back, inner("MatMul", da, upper)), [], [joined(inner, [da, da_n])]

    factors = [keep, *(s.where(op, k, 0) for k in (joined(op, [k_z, k_n]), k_r, r))]
    (h,), (da,) = s.scan(op, step, [start(op, s, s.g_h)], factors)
    da_z, da_r, da_n = s.split(op, da, 3)
    return Result(da, [(joined(op, [da_z, da_r]), s.before), (da_n, read)], h)


@cell("LSTM", 4, "Sigmoid", "Tanh", "Tanh")
def lstm(op: Emitter, node: NodeView, sides: Sequence[Side]) -> Result:
    s, (f, g, end_function) = sides[0], sides[0].functions
    coupled = bool(node.attribute("input_forget", 0))
    last = replace(end_function, clip=None)  # only what gates get is clipped
    peepholes = None if s.peephole is None else s.split(op, s.peephole, 3)
    ends = []
    for v in sides:
        recurrent = v.split(op, v.recurrent(op, v.before, slice(0, 4), v.r), 4)
        at_i, at_o, at_f, at_c = (add(op, x, h) for x, h in zip(v.gates(op, 4), recurrent, strict=True))
        made = g.value(op, at_c)
        old, cells = _cells(op, v, f, coupled, [at_i, at_f, made], peepholes)
        if peepholes is not None:
            p_i, p_o, p_f = peepholes
            at_i, at_f = add(op, at_i, mul(op, old, p_i)), add(op, at_f, mul(op, old, p_f))
            at_o = add(op, at_o, mul(op, cells, p_o))
        i_v, o_v, end_v = f.value(op, at_i), f.value(op, at_o), last.value(op, cells)
        kept = declare(op("Sub", op.like(i_v, 1), i_v), dims(i_v)) if coupled else f.value(op, at_f)
        into_v = declare(op("Sub", made, old), dims(i_v)) if coupled else made
        ends.append((at_i, at_o, at_f, at_c, i_v, o_v, kept, made, old, cells, end_v, into_v))
    a_i, a_o, a_f, a_c, i, o, forget, new, c_before, c, end, into = zip(*ends, strict=True)
    k_i, k_c = pulled(op, f, a_i, i, middle(op, into)), pulled(op, g, a_c, new, middle(op, i))
    k_o, k_h = pulled(op, f, a_o, o, middle(op, end)), pulled(op, last, c, end, middle(op, o))
    k_f = op.zeros_like(i[0]) if coupled else pulled(op, f, a_f, forget, middle(op, c_before))
    k_back = middle(op, forget)
    if peepholes is not None:
        p_i, p_o, p_f = peepholes
        k_h = add(op, k_h, mul(op, k_o, p_o))
        k_back = add(op, add(op, k_back, mul(op, k_i, p_i)), mul(op, k_f, p_f))
    factors = [
        s.where(op, joined(op, [k_i, k_o, k_f, k_c]), 0),
        s.where(op, k_h, 0),
        s.where(op, k_back, 1),
    ]

    def step(inner: Emitter, dh: Value, states: Values, factors: Values) -> tuple[Value, Values, Values]:
        k, through, back = factors
        dc = declare(inner("Add", states[0], inner("Mul", dh, through)), dims(dh))
        da = mul(inner, joined(inner, [dc, dh, dc, dc]), k)
        return inner("MatMul", da, s.r), [inner("Mul", dc, back)], [da]

    (h, dc), (da,) = s.scan(op, step, [start(op, s, s.g_h), start(op, s, s.g_c)], factors)
    seen = None
    if node.optional(P) is not None and node.active[P]:
        da_i, da_o, da_f, _ = s.split(op, da, 4)
        seen = [mul(op, da_i, c_before[0]), mul(op, da_o, c[0]), mul(op, da_f, c_before[0])]
    return Result(da, [(da, s.before)], h, dc, seen)


def _cells(
    op: Emitter, s: Side, f: Function, coupled: bool, gates: Values, peepholes: Values | None
) -> tuple[Value, Value]:
    """The cells of an LSTM before and after each step, [T, B, H]; `gates` are those of input, forgetting and update."""
    if peepholes is None:
        gates = [f.value(op, a) for a in gates[:2]] + gates[2:]

    def step(inner: Emitter, states: Values, slices: Values) -> tuple[Values, Values]:
        (c,) = states
        i, forget, new = slices[:3]
        if peepholes is not None:
            p_i, _, p_f = peepholes
            i = f.value(inner, add(inner, i, mul(inner, c, p_i)))
            forget = f.value(inner, add(inner, forget, mul(inner, c, p_f)))
        if coupled:
            forget = inner("Sub", inner.like(i, 1), i)
        after = inner("Add", inner("Mul", forget, c), inner("Mul", i, new))
        if s.steps is not None:
            after = inner("Where", slices[3], after, c)
        return [declare(after, dims(c))], [c, after]

    inputs = gates if s.steps is None else [*gates, s.steps]
    turned = [s.reverse] * len(inputs)
    begin = s.cell if s.cell is not None else start(op, s, None)
    _, (before, after) = scan(op, step, [begin], inputs, reverse=turned, reverse_made=[s.reverse] * 2)
    return before, after


def _gradients(
    op: Emitter,
    node: NodeView,
    gates: int,
    directions: Sequence[Sequence[Side]],
    one: Cell,
) -> Gradients:
    """Puts together what `one` finds in each direction, of which x and perhaps x' are known."""
    results = [one(op, node, ends) for ends in directions]
    sides = [ends[0] for ends in directions]
    wide = gates * sides[0].size
    swapped = bool(node.attribute("layout", 0))

    def stacked(values: Values, shape: Sequence[Any]) -> Value:
        grown = [op("Unsqueeze", value, op.ints([0])) for value in values]
        made = op("Concat", *grown, axis=0) if len(grown) > 1 else grown[0]
        return declare(made, [len(grown), *shape])

    def of_weights(da: Value, x: Value) -> Value:
        flat = [op("Reshape", v, op("Concat", op.ints([-1]), op.dims(v, 2), axis=0)) for v in (da, x)]
        return declare(op("Gemm", *flat, transA=1), [dims(da)[-1], dims(x)[-1]])

    def summed(value: Value) -> Value:
        return declare(op("ReduceSum", value, op.ints([0, 1]), keepdims=0), [dims(value)[-1]])

    found: list[Value | None] = [None] * len(node.inputs)
    for index, active in enumerate(node.active):
        if not active:
            continue
        if index == X:
            parts = [op("MatMul", r.gates, s.w) for s, r in zip(sides, results, strict=True)]
            dx = parts[0] if len(parts) == 1 else op("Add", *parts)
            found[X] = op("Transpose", dx, perm=[1, 0, 2]) if swapped else dx
        elif index == W:
            parts = [of_weights(r.gates, s.x) for s, r in zip(sides, results, strict=True)]
            found[W] = stacked(parts, [wide, dims(sides[0].x)[-1]])
        elif index == R:
            parts = [joined(op, [of_weights(a, h) for a, h in r.recurrent], 0) for r in results]
            found[R] = stacked(parts, [wide, sides[0].size])
        elif index == B:
            parts = [
                joined(op, [summed(v) for v in (r.gates, *(a for a, _ in r.recurrent))], 0) for r in results
            ]
            found[B] = stacked(parts, [2 * wide])
        elif index == P:
            parts = [joined(op, [summed(v) for v in r.peephole or []], 0) for r in results]
            found[P] = stacked(parts, [3 * sides[0].size])
        elif index in (INITIAL_H, INITIAL_C):
            states = [r.h if index == INITIAL_H else r.c for r in results]
            made = stacked([x for x in states if x is not None], dims(results[0].h))
            found[index] = op("Transpose", made, perm=[1, 0, 2]) if swapped else made
    return found
