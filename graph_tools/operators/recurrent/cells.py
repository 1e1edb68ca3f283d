"""LSTM, GRU and RNN: one Scan there, one back, of a few nodes a direction.

What x gives to the gates of all steps is one product before the Scan that goes there, and what they give back to it
one after the Scan that goes back; only products with recurrent weights lie inside. The Scan that goes there hands out
what each gate was, and its hidden states take the place of those of the operator's kernel, which is not run then.
What a step does to the gradients is a product with factors known beforehand, and one product with the weights.

Gates are products and functions of one number, so each factor has its secant too: a derivative becomes the slope
between x and x', the other factor of a product its mean of both, and every step sums exactly. Each cell is written
once, for values at x (the gradient) or at x and x' (the secant).

Relevance (LRP) takes the gradient's way with other factors: gates are constants, so that the signal takes all, an
activation passes what it gets, and a sum shares by its terms, with epsilon (Arras et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.control_flow_emit import dims
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
    apart,
    joined,
    mul,
    sides_of,
    start,
    together,
)
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, secant, vjp
from onnx_attribution.graph_tools.operators.transpose import declare


@dataclass(frozen=True)
class Made:
    """What one direction made: the hidden state after each step, [T, B, H], and the final states, [B, H]."""

    y: Value
    finals: Values


@dataclass(frozen=True)
class Result:
    """Gradients of one direction: of the gates as x reaches them and as hidden states do, and of the states.

    `made` is what the direction made at each end. `recurrent` lists groups of gates, each with the states [T, B, H]
    that its weights multiply.
    """

    made: Sequence[Made]
    gates: Value
    recurrent: Sequence[tuple[Value, Value]]
    h: Value
    c: Value | None = None
    peephole: Values | None = None


Ends = Sequence[Value]
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


def gate(op: Emitter, s: Side, function: Function, a: Ends, y: Ends, g: Value) -> Value:
    """`pulled` at a gate, which relevance does not pass."""
    return pulled(op, function, a, y, g) if s.epsilon is None else op.zeros_like(a[0])


def signal(
    op: Emitter, s: Side, function: Function, a: Ends, y: Ends, g: Value, is_sum: bool = True
) -> Value:
    """`pulled` at what the gates let pass; of relevance `g` times what arrives over the argument, which the terms of a
    sum share with epsilon."""
    if s.epsilon is None:
        return pulled(op, function, a, y, g)
    epsilon = s.epsilon if is_sum else 0.0
    zero = op.like(a[0], 0)
    if epsilon:
        below = op("Less", a[0], zero)
        over: Value = op("Add", a[0], op("Where", below, op.like(a[0], -epsilon), op.like(a[0], epsilon)))
    else:
        over = op("Where", op("Equal", a[0], zero), op.like(a[0], 1), a[0])
    return mul(op, g, declare(op("Div", y[0], over), dims(a[0])))


def kept(op: Emitter, s: Side, total: Ends, factor: Value) -> Value:
    """`factor`; of relevance times what the terms of a sum keep of it with epsilon."""
    if s.epsilon is None:
        return factor
    size = op("Abs", total[0])
    if not s.epsilon:
        return mul(op, factor, op.cast(op("Greater", size, op.like(size, 0)), size.dtype))
    return mul(op, factor, op("Div", size, op("Add", size, op.like(size, s.epsilon))))


def _ones(op: Emitter, like: Value) -> Value:
    return declare(op("Expand", op.like(like, 1), op.shape(like)), dims(like))


def cell(operator: str, gates: int, *functions: str) -> Callable[[Cell], Cell]:
    """Registers the gradient and the secant of an operator by what one direction does; `functions` are the defaults."""

    def register(one: Cell) -> Cell:
        @vjp(operator)
        def gradient(op: Emitter, node: NodeView, *g: Value | None) -> Gradients:
            sides = [[s] for s in sides_of(op, node, g, gates, functions)]
            return _gradients(op, [node], gates, sides, one)

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
            return _gradients(op, [node, reference], gates, list(zip(*ends, strict=True)), one)

        CELLS[operator] = Recurrent(one, gates, functions)
        return one

    return register


@dataclass(frozen=True)
class Recurrent:
    """What is known of an operator: what a direction does, how many gates it has, and their functions."""

    cell: Cell
    gates: int
    functions: Sequence[str]


CELLS: dict[str, Recurrent] = {}
"""The recurrent operators."""
PASSED = frozenset({"elu", "leakyrelu", "relu", "scaledtanh", "softsign", "tanh", "thresholdedrelu"})
"""Activations that relevance passes: f(0) = 0."""


def multipliers(op: Emitter, node: NodeView, epsilon: float, m: Sequence[Value | None]) -> Gradients | None:
    """From relevance over what an operator makes that over x and the initial states; None: an activation has no rule.

    Gates are the functions that the standard has in their places, whatever these are.
    """
    known = CELLS[node.operator]
    sides = [replace(s, epsilon=epsilon) for s in sides_of(op, node, m, known.gates, known.functions)]
    first = 0 if known.gates == 1 else 1  # that of gates
    if any(f.name not in PASSED for s in sides for f in s.functions[first:]):
        return None
    return _gradients(op, [node], known.gates, [[s] for s in sides], known.cell)


@cell("RNN", 1, "Tanh")
def rnn(op: Emitter, node: NodeView, sides: Sequence[Side]) -> Result:
    s, (f,), both = sides[0], sides[0].functions, together(op, sides)
    turned = s.turned(op, s.r)

    def there(inner: Emitter, states: Values, given: Values) -> tuple[Values, Values]:
        at = declare(inner("Gemm", states[0], turned, given[0]), dims(states[0]))
        value = f.value(inner, at)
        return [value], [at, value]

    finals, values = both.there(op, there, [both.hidden], [both.gates(op, 1)])
    h, a, y = (apart(op, sides, v) for v in values)
    made = _made(op, sides, h, finals)
    k = s.where(op, signal(op, s, f, a, y, _ones(op, a[0])), 0)

    def step(inner: Emitter, dh: Value, _: Values, factors: Values) -> tuple[Value, Values, Values]:
        da = declare(inner("Mul", dh, factors[0]), dims(dh))
        return inner("MatMul", da, s.r), [], [da]

    (dh_0,), (da,) = s.back(op, step, [start(op, s, s.g_h)], [k])
    return Result(made, da, [(da, s.shifted(op, h[0], s.hidden))], dh_0)


@cell("GRU", 3, "Sigmoid", "Tanh")
def gru(op: Emitter, node: NodeView, sides: Sequence[Side]) -> Result:
    s, (f, g), both = sides[0], sides[0].functions, together(op, sides)
    after = bool(node.attribute("linear_before_reset", 0))  # the reset gate multiplies after the weights
    of_both, of_new = (s.turned(op, s.rows(op, s.r, *part)) for part in ((0, 2), (2, None)))
    bias = s.rows(op, s.bias[1], 2, None) if after and s.bias is not None else None

    def there(inner: Emitter, states: Values, given: Values) -> tuple[Values, Values]:
        (h,), (of_zr, of_n) = states, given
        at = declare(inner("Gemm", h, of_both, of_zr), dims(of_zr))
        zr = f.value(inner, at)
        z, reset = s.split(inner, zr, 2)
        if after:
            read = declare(inner("Gemm", h, of_new, bias), dims(h))
            at_n = add(inner, of_n, mul(inner, reset, read))
        else:
            read = mul(inner, reset, h)
            at_n = declare(inner("Gemm", read, of_new, of_n), dims(h))
        new = g.value(inner, at_n)
        rest = inner("Sub", inner.like(z, 1), z)
        return [inner("Add", inner("Mul", rest, new), inner("Mul", z, h))], [at, zr, at_n, new, read]

    of_x = s.parts(op, both.gates(op, 2 if after else 3), (2, 1))
    finals, values = both.there(op, there, [both.hidden], of_x)
    h, a, zr, a_n, new, read = (apart(op, sides, v) for v in values)
    made = _made(op, sides, h, finals)
    before = [v.shifted(op, y, v.hidden) for v, y in zip(sides, h, strict=True)]
    mid_z, mid_r = s.split(op, middle(op, zr), 2)
    mid_before = middle(op, before)
    passed = kept(op, s, h, declare(op("Sub", op.like(mid_z, 1), mid_z), dims(mid_z)))
    k_n = signal(op, s, g, a_n, new, passed)
    of_z = declare(op("Sub", mid_before, middle(op, new)), dims(mid_z))
    of_r = mul(op, k_n, middle(op, read)) if after else mid_before
    k_zr = gate(op, s, f, a, zr, joined(op, [of_z, of_r]))
    keep = s.where(op, kept(op, s, h, mid_z), 1)
    if not after:
        k_z, k_r = s.split(op, k_zr, 2)
        return _reset_first(op, s, made, keep, [k_z, k_n, k_r, mid_r], before[0], read[0])
    k = s.where(op, joined(op, [k_zr, mul(op, k_n, kept(op, s, read, mid_r))]), 0)

    def step(inner: Emitter, dh: Value, _: Values, factors: Values) -> tuple[Value, Values, Values]:
        kept, all_ = factors
        da = inner("Mul", joined(inner, [dh, dh, dh]), all_)
        return inner("Add", inner("Mul", dh, kept), inner("MatMul", da, s.r)), [], [dh]

    (dh_0,), (dh,) = s.back(op, step, [start(op, s, s.g_h)], [keep, k])
    all_dh = joined(op, [dh, dh, dh])
    of_gates = mul(op, all_dh, s.where(op, joined(op, [k_zr, k_n]), 0))
    return Result(made, of_gates, [(mul(op, all_dh, k), before[0])], dh_0)


def _reset_first(
    op: Emitter, s: Side, made: Sequence[Made], keep: Value, gates: Values, before: Value, read: Value
) -> Result:
    """The backward pass of a GRU whose reset gate multiplies the hidden state; `read` is their product.

    `gates` are the factors of update, new state and reset, and the reset gate itself.
    """
    k_z, k_n, k_r, r = gates
    upper, lower = s.rows(op, s.r, 0, 2), s.rows(op, s.r, 2, None)

    def step(inner: Emitter, dh: Value, _: Values, factors: Values) -> tuple[Value, Values, Values]:
        kept, both, reset, opened = factors
        da_z, da_n = s.split(inner, mul(inner, joined(inner, [dh, dh]), both), 2)
        d_read = declare(inner("MatMul", da_n, lower), dims(dh))
        da = joined(inner, [da_z, mul(inner, d_read, reset)])
        back = inner("Add", inner("Mul", dh, kept), inner("Mul", d_read, opened))
        return inner("Add", back, inner("MatMul", da, upper)), [], [joined(inner, [da, da_n])]

    factors = [keep, *(s.where(op, k, 0) for k in (joined(op, [k_z, k_n]), k_r, r))]
    (h,), (da,) = s.back(op, step, [start(op, s, s.g_h)], factors)
    da_z, da_r, da_n = s.split(op, da, 3)
    return Result(made, da, [(joined(op, [da_z, da_r]), before), (da_n, read)], h)


@cell("LSTM", 4, "Sigmoid", "Tanh", "Tanh")
def lstm(op: Emitter, node: NodeView, sides: Sequence[Side]) -> Result:
    s, (f, g, end_function), both = sides[0], sides[0].functions, together(op, sides)
    coupled = bool(node.attribute("input_forget", 0))
    last = replace(end_function, clip=None)  # only what gates get is clipped
    peepholes = None if s.peephole is None else s.split(op, s.peephole, 3)
    turned = s.turned(op, s.r)

    def there(inner: Emitter, states: Values, given: Values) -> tuple[Values, Values]:
        h, c = states
        at_3, at_c = s.parts(inner, declare(inner("Gemm", h, turned, given[0]), dims(given[0])), (3, 1))
        new = g.value(inner, at_c)
        if peepholes is None:
            gates = f.value(inner, at_3)
            i, o, forget = s.split(inner, gates, 3)
            after = _cell(inner, coupled, c, i, forget, new)
        else:
            p_i, p_o, p_f = peepholes
            at_i, at_o, at_f = s.split(inner, at_3, 3)
            at_i, at_f = add(inner, at_i, mul(inner, c, p_i)), add(inner, at_f, mul(inner, c, p_f))
            i, forget = f.value(inner, at_i), f.value(inner, at_f)
            after = _cell(inner, coupled, c, i, forget, new)
            at_o = add(inner, at_o, mul(inner, after, p_o))
            at_3 = joined(inner, [at_i, at_o, at_f])
            o = f.value(inner, at_o)
            gates = joined(inner, [i, o, forget])
        end = last.value(inner, after)
        return [mul(inner, o, end), after], [at_3, at_c, gates, new, end]

    finals, values = both.there(op, there, [both.hidden, both.cell], [both.gates(op, 4)])
    h, c, a, a_c, gates, new, end = (apart(op, sides, v) for v in values)
    made = _made(op, sides, h, finals)
    c_before = [v.shifted(op, cells, v.cell) for v, cells in zip(sides, c, strict=True)]
    into = new
    if coupled:
        into = [declare(op("Sub", n, old), dims(n)) for n, old in zip(new, c_before, strict=True)]
    i, o, forget = s.split(op, middle(op, gates), 3)
    of_f = op.zeros_like(i) if coupled else middle(op, c_before)
    k_gates = gate(op, s, f, a, gates, joined(op, [middle(op, into), middle(op, end), of_f]))
    k_c = signal(op, s, g, a_c, new, kept(op, s, c, i))
    k_h = signal(op, s, last, c, end, o, is_sum=False)
    k_back = kept(op, s, c, declare(op("Sub", op.like(i, 1), i), dims(i)) if coupled else forget)
    if peepholes is not None and s.epsilon is None:
        p_i, p_o, p_f = peepholes
        k_i, k_o, k_f = s.split(op, k_gates, 3)
        k_h = add(op, k_h, mul(op, k_o, p_o))
        k_back = add(op, add(op, k_back, mul(op, k_i, p_i)), mul(op, k_f, p_f))
    factors = [
        s.where(op, joined(op, [k_gates, k_c]), 0),
        s.where(op, k_h, 0),
        s.where(op, k_back, 1),
    ]

    def step(inner: Emitter, dh: Value, states: Values, factors: Values) -> tuple[Value, Values, Values]:
        k, through, back = factors
        dc = declare(inner("Add", states[0], inner("Mul", dh, through)), dims(dh))
        da = mul(inner, joined(inner, [dc, dh, dc, dc]), k)
        return inner("MatMul", da, s.r), [inner("Mul", dc, back)], [da]

    (dh_0, dc_0), (da,) = s.back(op, step, [start(op, s, s.g_h), start(op, s, s.g_c)], factors)
    seen = None
    if node.optional(P) is not None and node.active[P]:
        da_i, da_o, da_f, _ = s.split(op, da, 4)
        seen = [mul(op, da_i, c_before[0]), mul(op, da_o, c[0]), mul(op, da_f, c_before[0])]
    return Result(made, da, [(da, s.shifted(op, h[0], s.hidden))], dh_0, dc_0, seen)


def _made(op: Emitter, sides: Sequence[Side], y: Values, finals: Values) -> list[Made]:
    """What each side made."""
    states = [apart(op, sides, v) for v in finals]
    return [Made(v, [each[k] for each in states]) for k, v in enumerate(y)]


def _cell(op: Emitter, coupled: bool, c: Value, i: Value, forget: Value, new: Value) -> Value:
    """The next cell of an LSTM."""
    if coupled:
        forget = op("Sub", op.like(i, 1), i)
    return declare(op("Add", op("Mul", forget, c), op("Mul", i, new)), dims(c))


def _take_over(op: Emitter, view: NodeView, sides: Sequence[Side], made: Sequence[Made]) -> None:
    """Lets what the directions made stand for the outputs of the operator, whose kernel is then not needed."""
    outputs = [z for z in view.outputs if z is not None]
    makers = {id(maker): maker for z in outputs for maker in z.inputs}
    maker = next(iter(makers.values()), None)
    if maker is None or len(makers) > 1 or maker.op != view.operator:
        return  # it was done before
    if sides[0].steps is not None or any(z.dtype != sides[0].x.dtype for z in outputs):
        return  # the kernel has final states of its own for empty sequences; half types are its own to round
    swapped = bool(view.attribute("layout", 0))

    def side_by_side(values: Values, axis: int) -> Value:
        grown = [op("Unsqueeze", value, op.ints([axis])) for value in values]
        return op("Concat", *grown, axis=axis) if len(grown) > 1 else grown[0]

    for k, z in enumerate(view.outputs):
        if z is None:
            continue
        if k == 0:
            found = side_by_side([s.where(op, m.y, 0) for s, m in zip(sides, made, strict=True)], 1)
            found = op("Transpose", found, perm=[2, 0, 1, 3]) if swapped else found
        else:
            found = side_by_side([m.finals[k - 1] for m in made], 0)
            found = op("Transpose", found, perm=[1, 0, 2]) if swapped else found
        maker.outputs[maker.outputs.index(z)] = gs.Variable(f"{z.name}/kernel", dtype=z.dtype, shape=z.shape)
        op.graph.nodes.append(gs.Node("Identity", op.name_for("Identity"), inputs=[found], outputs=[z]))
    for at, node in enumerate(op.graph.nodes):
        if node is maker:
            del op.graph.nodes[at]
            maker.inputs.clear()
            break


def _gradients(
    op: Emitter,
    views: Sequence[NodeView],
    gates: int,
    directions: Sequence[Sequence[Side]],
    one: Cell,
) -> Gradients:
    """Puts together what `one` finds in each direction, of which x and perhaps x' are known."""
    node = views[0]
    results = [one(op, node, ends) for ends in directions]
    sides = [ends[0] for ends in directions]
    for k, view in enumerate(views):
        _take_over(op, view, [ends[k] for ends in directions], [r.made[k] for r in results])
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
