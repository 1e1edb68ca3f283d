"""LSTM, GRU and RNN: the forward pass keeps its kernel, the backward pass is one Scan of a few nodes a direction.

Output Y holds the hidden states, so the gates of all steps follow at once from two matrix products. What a step does
to the gradients is then a product with factors known beforehand, and one product with the recurrent weights. Only
the cell of an LSTM is computed again step by step, without a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnx_attribution.graph_tools.ir.control_flow_emit import dims, scan
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.ir.subgraphs import Values
from onnx_attribution.graph_tools.operators.directions import (
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
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, vjp
from onnx_attribution.graph_tools.operators.tricks import declare


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


@vjp("RNN")
def rnn(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
    def side(s: Side) -> Result:
        (f,) = s.functions
        (a_x,) = s.gates(op, 1)
        a = add(op, a_x, s.recurrent(op, s.before, slice(0, 1), s.r))
        ones = op.like(a, 1)
        k = s.where(op, f.pulled(op, a, f.value(op, a), op("Expand", ones, op.shape(a))), 0)

        def step(inner: Emitter, dh: Value, _: Values, factors: Values) -> tuple[Value, Values, Values]:
            da = declare(inner("Mul", dh, factors[0]), dims(dh))
            return inner("MatMul", da, s.r), [], [da]

        (h,), (da,) = s.scan(op, step, [start(op, s, s.g_h)], [k])
        return Result(da, [(da, s.before)], h)

    return _gradients(op, node, gradients, 1, ["Tanh"], side)


@vjp("GRU")
def gru(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
    def side(s: Side) -> Result:
        f, g = s.functions
        n = s.size
        in_z, in_r, in_n = s.gates(op, 3)
        upper = declare(op("Slice", s.r, op.ints([0]), op.ints([2 * n])), [2 * n, n])
        lower = declare(op("Slice", s.r, op.ints([2 * n]), op.ints([3 * n])), [n, n])
        rec_z, rec_r = s.split(op, s.recurrent(op, s.before, slice(0, 2), upper), 2)
        a_z, a_r = add(op, in_z, rec_z), add(op, in_r, rec_r)
        z, r = f.value(op, a_z), f.value(op, a_r)
        after = bool(node.attribute("linear_before_reset", 0))  # the reset gate multiplies after the weights
        read = s.before if after else mul(op, r, s.before)
        rec_n = s.recurrent(op, read, slice(2, 3), lower)
        a_n = add(op, in_n, mul(op, r, rec_n) if after else rec_n)
        new = g.value(op, a_n)
        keep = s.where(op, z, 1)
        k_z = f.pulled(op, a_z, z, declare(op("Sub", s.before, new), dims(z)))
        k_n = g.pulled(op, a_n, new, declare(op("Sub", op.like(z, 1), z), dims(z)))
        k_r = f.pulled(op, a_r, r, mul(op, k_n, rec_n) if after else s.before)
        if not after:
            return _reset_first(op, s, keep, [k_z, k_n, k_r, r], [upper, lower], read)
        k = s.where(op, joined(op, [k_z, k_r, mul(op, k_n, r)]), 0)

        def step(inner: Emitter, dh: Value, _: Values, factors: Values) -> tuple[Value, Values, Values]:
            kept, all_ = factors
            da = inner("Mul", joined(inner, [dh, dh, dh]), all_)
            return inner("Add", inner("Mul", dh, kept), inner("MatMul", da, s.r)), [], [dh]

        (h,), (dh,) = s.scan(op, step, [start(op, s, s.g_h)], [keep, k])
        all_dh = joined(op, [dh, dh, dh])
        of_x = mul(op, all_dh, s.where(op, joined(op, [k_z, k_r, k_n]), 0))
        return Result(of_x, [(mul(op, all_dh, k), s.before)], h)

    return _gradients(op, node, gradients, 3, ["Sigmoid", "Tanh"], side)


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


@vjp("LSTM")
def lstm(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
    coupled = bool(node.attribute("input_forget", 0))

    def side(s: Side) -> Result:
        f, g, end_function = s.functions
        last = replace(end_function, clip=None)  # only what gates get is clipped
        recurrent = s.split(op, s.recurrent(op, s.before, slice(0, 4), s.r), 4)
        a_i, a_o, a_f, a_c = (add(op, x, h) for x, h in zip(s.gates(op, 4), recurrent, strict=True))
        peepholes = None if s.peephole is None else s.split(op, s.peephole, 3)
        new = g.value(op, a_c)
        c_before, c = _cells(op, s, f, coupled, [a_i, a_f, new], peepholes)
        if peepholes is not None:
            p_i, p_o, p_f = peepholes
            a_i, a_f = add(op, a_i, mul(op, c_before, p_i)), add(op, a_f, mul(op, c_before, p_f))
            a_o = add(op, a_o, mul(op, c, p_o))
        i, o, end = f.value(op, a_i), f.value(op, a_o), last.value(op, c)
        forget = declare(op("Sub", op.like(i, 1), i), dims(i)) if coupled else f.value(op, a_f)
        into = declare(op("Sub", new, c_before), dims(i)) if coupled else new
        k_i, k_c, k_o = f.pulled(op, a_i, i, into), g.pulled(op, a_c, new, i), f.pulled(op, a_o, o, end)
        k_f = op.zeros_like(i) if coupled else f.pulled(op, a_f, forget, c_before)
        k_h, k_back = last.pulled(op, c, end, o), forget
        if peepholes is not None:
            k_h = add(op, k_h, mul(op, k_o, p_o))
            k_back = add(op, add(op, forget, mul(op, k_i, p_i)), mul(op, k_f, p_f))
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
            seen = [mul(op, da_i, c_before), mul(op, da_o, c), mul(op, da_f, c_before)]
        return Result(da, [(da, s.before)], h, dc, seen)

    return _gradients(op, node, gradients, 4, ["Sigmoid", "Tanh", "Tanh"], side)


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
    gradients: Sequence[Value | None],
    gates: int,
    functions: Sequence[str],
    side: Callable[[Side], Result],
) -> Gradients:
    """Splits the operator into its directions, and puts together what `side` finds in each."""
    sides = sides_of(op, node, gradients, gates, functions)
    results = [side(s) for s in sides]
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
