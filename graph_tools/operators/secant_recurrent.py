"""Secants of LSTM, GRU and RNN through their parts: the backward Scan of the gradient with other factors.

Gates are products and functions of one number. So each factor of the gradient has its secant: a derivative becomes the
slope between x and x', the other factor of a product its mean of both, and every step sums exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.control_flow_emit import dims
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.ir.subgraphs import Values
from onnx_attribution.graph_tools.operators.directions import (
    INITIAL_C,
    INITIAL_H,
    Function,
    Side,
    X,
    add,
    joined,
    mul,
    sides_of,
    start,
)
from onnx_attribution.graph_tools.operators.quotients import mean, near, quotient
from onnx_attribution.graph_tools.operators.recurrent import Result, _cells, _gradients, _reset_first
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView
from onnx_attribution.graph_tools.operators.secant import secant
from onnx_attribution.graph_tools.operators.secant_elementwise import sigmoid_slope, tanh_secant
from onnx_attribution.graph_tools.operators.tricks import declare

Pair = tuple[Value, Value]
"""A value at x and at x'."""


def _through_parts(
    op: Emitter,
    node: NodeView,
    reference: NodeView,
    gradients: Sequence[Value | None],
    gates: int,
    functions: Sequence[str],
    side: Callable[[Side, Side], Result],
) -> Gradients:
    moved = [k for k, active in enumerate(node.active) if active]
    if set(moved) - {X, INITIAL_H, INITIAL_C}:
        raise NotDifferentiable(
            f"DeepLIFT has no rule for {node.operator} (node {node.name!r}) with weights or lengths that depend on the "
            "source",
            reason=Reason.NO_SECANT, node=node.name, operator=node.operator, tensor=node.input(X).name,
        )  # fmt: skip
    others = iter(sides_of(op, reference, gradients, gates, functions))
    return _gradients(op, node, gradients, gates, functions, lambda s: side(s, next(others)))


def middle(op: Emitter, pair: Pair) -> Value:
    """The mean of both."""
    return declare(mean(op, *pair), dims(pair[0]))


def slope(op: Emitter, function: Function, a: Pair, y: Pair) -> Value:
    """What a gate's function does to a difference of its argument."""
    d = op("Sub", *a)
    if function.clip is None and function.name in ("tanh", "sigmoid"):
        made = (tanh_secant if function.name == "tanh" else sigmoid_slope)(op, *a)
        return declare(made, dims(a[0]))
    at = middle(op, a)
    ones = declare(op("Expand", op.like(d, 1), op.shape(at)), dims(a[0]))
    local = function.pulled(op, at, function.value(op, at), ones)
    return declare(quotient(op, op("Sub", *y), d, near(op, *a, d), local), dims(a[0]))


def _values(op: Emitter, function: Function, a: Pair) -> Pair:
    return function.value(op, a[0]), function.value(op, a[1])


@secant("RNN")
def rnn(op: Emitter, node: NodeView, reference: NodeView, *gradients: Value | None) -> Gradients:
    def side(s: Side, s0: Side) -> Result:
        (f,) = s.functions
        a = _both(op, s, s0, 1, lambda v: [v.recurrent(op, v.before, slice(0, 1), v.r)])[0]
        k = s.where(op, slope(op, f, a, _values(op, f, a)), 0)

        def step(inner: Emitter, dh: Value, _: Values, factors: Values) -> tuple[Value, Values, Values]:
            da = declare(inner("Mul", dh, factors[0]), dims(dh))
            return inner("MatMul", da, s.r), [], [da]

        (h,), (da,) = s.scan(op, step, [start(op, s, s.g_h)], [k])
        return Result(da, [(da, s.before)], h)

    return _through_parts(op, node, reference, gradients, 1, ["Tanh"], side)


def _both(op: Emitter, s: Side, s0: Side, count: int, recurrent: Callable[[Side], Values]) -> list[Pair]:
    """The arguments of the gates at x and at x'."""
    found = [[add(op, x, h) for x, h in zip(v.gates(op, count), recurrent(v), strict=True)] for v in (s, s0)]
    return list(zip(*found, strict=True))


@secant("GRU")
def gru(op: Emitter, node: NodeView, reference: NodeView, *gradients: Value | None) -> Gradients:
    after = bool(node.attribute("linear_before_reset", 0))

    def side(s: Side, s0: Side) -> Result:
        f, g = s.functions
        n = s.size
        upper = declare(op("Slice", s.r, op.ints([0]), op.ints([2 * n])), [2 * n, n])
        lower = declare(op("Slice", s.r, op.ints([2 * n]), op.ints([3 * n])), [n, n])
        ends = []
        for v in (s, s0):
            in_z, in_r, in_n = v.gates(op, 3)
            rec_z, rec_r = v.split(op, v.recurrent(op, v.before, slice(0, 2), upper), 2)
            a_z, a_r = add(op, in_z, rec_z), add(op, in_r, rec_r)
            r = f.value(op, a_r)
            read = v.before if after else mul(op, r, v.before)
            rec_n = v.recurrent(op, read, slice(2, 3), lower)
            a_n = add(op, in_n, mul(op, r, rec_n) if after else rec_n)
            ends.append((a_z, a_r, a_n, f.value(op, a_z), r, g.value(op, a_n), rec_n, v.before, read))
        a_z, a_r, a_n, z, r, new, rec_n, before, read = list(zip(*ends, strict=True))
        mid_z, mid_r = middle(op, z), middle(op, r)
        mid_before = middle(op, before)
        keep = s.where(op, mid_z, 1)
        away = declare(op("Sub", mid_before, middle(op, new)), dims(mid_z))
        k_z = mul(op, slope(op, f, a_z, z), away)
        k_n = mul(op, slope(op, g, a_n, new), declare(op("Sub", op.like(mid_z, 1), mid_z), dims(mid_z)))
        s_r = slope(op, f, a_r, r)
        if not after:
            return _reset_first(
                op, s, keep, [k_z, k_n, mul(op, s_r, mid_before), mid_r], [upper, lower], read[0]
            )
        k_r = mul(op, s_r, mul(op, k_n, middle(op, rec_n)))
        k = s.where(op, joined(op, [k_z, k_r, mul(op, k_n, mid_r)]), 0)

        def step(inner: Emitter, dh: Value, _: Values, factors: Values) -> tuple[Value, Values, Values]:
            kept, all_ = factors
            da = inner("Mul", joined(inner, [dh, dh, dh]), all_)
            return inner("Add", inner("Mul", dh, kept), inner("MatMul", da, s.r)), [], [dh]

        (h,), (dh,) = s.scan(op, step, [start(op, s, s.g_h)], [keep, k])
        all_dh = joined(op, [dh, dh, dh])
        of_x = mul(op, all_dh, s.where(op, joined(op, [k_z, k_r, k_n]), 0))
        return Result(of_x, [(mul(op, all_dh, k), s.before)], h)

    return _through_parts(op, node, reference, gradients, 3, ["Sigmoid", "Tanh"], side)


@secant("LSTM")
def lstm(op: Emitter, node: NodeView, reference: NodeView, *gradients: Value | None) -> Gradients:
    coupled = bool(node.attribute("input_forget", 0))

    def side(s: Side, s0: Side) -> Result:
        f, g, end_function = s.functions
        last = replace(end_function, clip=None)  # only what gates get is clipped
        peepholes = None if s.peephole is None else s.split(op, s.peephole, 3)
        ends = []
        for v in (s, s0):
            recurrent = v.split(op, v.recurrent(op, v.before, slice(0, 4), v.r), 4)
            a_i, a_o, a_f, a_c = (add(op, x, h) for x, h in zip(v.gates(op, 4), recurrent, strict=True))
            new = g.value(op, a_c)
            c_before, c = _cells(op, v, f, coupled, [a_i, a_f, new], peepholes)
            if peepholes is not None:
                p_i, p_o, p_f = peepholes
                a_i, a_f = add(op, a_i, mul(op, c_before, p_i)), add(op, a_f, mul(op, c_before, p_f))
                a_o = add(op, a_o, mul(op, c, p_o))
            i, o, end = f.value(op, a_i), f.value(op, a_o), last.value(op, c)
            forget = declare(op("Sub", op.like(i, 1), i), dims(i)) if coupled else f.value(op, a_f)
            into = declare(op("Sub", new, c_before), dims(i)) if coupled else new
            ends.append((a_i, a_o, a_f, a_c, i, o, forget, new, c_before, c, end, into))
        a_i, a_o, a_f, a_c, i, o, forget, new, c_before, c, end, into = list(zip(*ends, strict=True))
        k_i = mul(op, slope(op, f, a_i, i), middle(op, into))
        k_c = mul(op, slope(op, g, a_c, new), middle(op, i))
        k_o = mul(op, slope(op, f, a_o, o), middle(op, end))
        k_f = op.zeros_like(k_i) if coupled else mul(op, slope(op, f, a_f, forget), middle(op, c_before))
        k_h, k_back = mul(op, slope(op, last, c, end), middle(op, o)), middle(op, forget)
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
        return Result(da, [(da, s.before)], h, dc)

    return _through_parts(op, node, reference, gradients, 4, ["Sigmoid", "Tanh", "Tanh"], side)
