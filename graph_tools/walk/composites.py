"""Functions that a file writes as several nodes, and whose gradient is taken of the whole: fewer passes over it.

The nodes stay as they are, so that a runtime fuses them as before and each tensor between them can be asked for: where
one is, its gradient goes through the nodes one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_half
from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.operators.elementwise import hard_swish_slope
from onnx_attribution.graph_tools.operators.logistic import gelu_tanh_slope, sigmoid_gate_slope
from onnx_attribution.graph_tools.operators.transpose import number_of
from onnx_attribution.graph_tools.walk.attention import attention
from onnx_attribution.graph_tools.walk.forms import (
    Asked,
    Composite,
    beside_number,
    factors,
    made_by,
    monomial,
    number_before,
    of_one,
    product,
    sums,
)
from onnx_attribution.graph_tools.walk.standardised import folded, standardised

Unary = tuple[Value, Callable[[Emitter, Value], Value]]
"""The only tensor that a function reads, and what it does to the gradient."""
Form = Callable[[gs.Node, Asked], Composite | Unary | None]
"""The function that a node ends, if it is of a kind."""
Slope = Callable[[Emitter, Value], Value]


def composites(nodes: Sequence[gs.Node], asked: Collection[str], rules: RuleTable) -> dict[int, Composite]:
    """The functions, by the identity of the node that ends each.

    None has a tensor inside that is `asked` for, or an operator whose rule is not that of the gradient, unless that is
    meant for the operator `alone`.
    """
    names, found = frozenset(asked), dict[int, Composite]()
    for form, ends, inside in _FORMS:
        if not all(_is_gradient(rules, name) for name in ends | inside):
            continue
        for node in nodes:
            if node.op in ends and node.domain in (None, "", "ai.onnx") and id(node) not in found:
                composite = form(node, names)
                if composite is not None:
                    found[id(node)] = composite if isinstance(composite, Composite) else of_one(*composite)
    return found


def _is_gradient(rules: RuleTable, name: str) -> bool:
    rule = rules.get(("", name))
    return rule is VJP["", name] or (rule is not None and rule.alone)


def _gelu(node: gs.Node, asked: Asked) -> Unary | None:
    """c x (b + erf(a x)), the exact Gelu, with products in any order."""
    for total in factors(node, asked)[1]:
        error = beside_number(total, "Add", asked)
        inner = error and made_by(error[0], "Erf", asked)
        found = inner and _rate(inner.inputs[0], asked)
        if not inner or not found:
            continue
        (x, rate), u = found, inner.inputs[0]
        scale = number_before(node, x, total, asked)
        if scale is not None:
            return x, partial(_gelu_back, x=x, u=u, total=total, a=rate, scale=scale)
    return None


def _gelu_back(op: Emitter, g: Value, x: Value, u: Value, total: Value, a: float, scale: float) -> Value:
    """g c (b + erf u + x a 2 / sqrt(pi) exp(-u^2))."""
    x, u, total = (_wide(op, v) for v in (x, u, total))
    peak = op.like(x, math.log(2 * a / math.sqrt(math.pi)))
    bell = op("Exp", op("Sub", peak, op("Mul", u, u)))
    made = op("Mul", g, op("Add", total, op("Mul", x, bell)))
    return made if scale == 1 else op("Mul", made, op.like(made, scale))


def _rate(u: Value, asked: Asked) -> tuple[Value, float] | None:
    """x and a above 0 where u is a x."""
    for operator in ("Mul", "Div"):
        found = beside_number(u, operator, asked)
        if found is None or (operator == "Div" and u.inputs[0].inputs[0] is not found[0]):
            continue
        a = found[1] if operator == "Mul" else 1 / found[1] if found[1] else 0.0
        if a > 0:
            return found[0], a
    return None


def _gelu_tanh(node: gs.Node, asked: Asked) -> Unary | None:
    """x / 2 (1 + tanh(k (x + c x^3))), with products in any order."""
    for total in factors(node, asked)[1]:
        one = beside_number(total, "Add", asked)
        bend = one and made_by(one[0], "Tanh", asked)
        found = bend and _cubic(bend.inputs[0], asked)
        if not one or one[1] != 1 or not found:
            continue
        x, k, c = found
        scale = number_before(node, x, total, asked)
        if scale is not None:
            return x, _back(partial(gelu_tanh_slope, k=k, c=c), x, 2 * scale)
    return None


def _cubic(u: Value, asked: Asked) -> tuple[Value, float, float] | None:
    """x, k and c where u is k (x + c x^3) or k x (1 + c x^2)."""
    k, tensors = product(u, asked)
    for total in tensors:
        others = [t for t in tensors if t is not total]
        for first, last in sums(total, asked):
            x = others[0] if len(others) == 1 else first
            power = monomial(last, asked, x)
            whole = not others and number_of(first) is None
            if power is None or len(others) > 1 or not (whole or number_of(first) == 1):
                continue
            if power[1] == (3 if whole else 2) and k > 0 and power[0] > 0:
                return x, k, power[0]
    return None


def _silu(node: gs.Node, asked: Asked) -> Unary | None:
    """x sigmoid(a x)."""
    for x, gate in (node.inputs, node.inputs[::-1]):
        maker = made_by(gate, "Sigmoid", asked)
        if maker is None:
            continue
        found = (x, 1.0) if maker.inputs[0] is x else _rate(maker.inputs[0], asked)
        if found and found[0] is x:
            return x, _back(partial(sigmoid_gate_slope, rate=found[1]), x, 1.0)
    return None


def _hard_swish(node: gs.Node, asked: Asked) -> Unary | None:
    """c x clip(x + 3, 0, 6), or c x hard_sigmoid(x) with slope 1/6, with products in any order."""
    for gate in factors(node, asked)[1]:
        bounded, straight = made_by(gate, "Clip", asked), made_by(gate, "HardSigmoid", asked)
        if straight is not None and _is_gate(straight):
            x, height = straight.inputs[0], 1.0
        elif bounded is not None and [number_of(n) for n in bounded.inputs[1:]] == [0, 6]:
            moved = beside_number(bounded.inputs[0], "Add", asked)
            if moved is None or moved[1] != 3:
                continue
            x, height = moved[0], 6.0
        else:
            continue
        scale = number_before(node, x, gate, asked)
        if scale is not None:
            return x, _back(hard_swish_slope, x, height * scale)
    return None


def _is_gate(node: gs.Node) -> bool:
    alpha, beta = node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5)
    return math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5


def _back(slope: Slope, x: Value, scale: float) -> Callable[[Emitter, Value], Value]:
    def back(op: Emitter, g: Value) -> Value:
        made = op("Mul", g, slope(op, _wide(op, x)))
        return made if math.isclose(scale, 1, rel_tol=1e-6) else op("Mul", made, op.like(made, scale))

    return back


def _wide(op: Emitter, value: Value) -> Value:
    return op.cast(value, np.float32) if is_half(value) else value


_PRODUCTS = frozenset({"Div", "Mul"})
_FORMS: Sequence[tuple[Form, frozenset[str], frozenset[str]]] = [
    (_gelu, _PRODUCTS, frozenset({"Add", "Erf"})),
    (_gelu_tanh, _PRODUCTS, frozenset({"Add", "Pow", "Tanh"})),
    (_silu, frozenset({"Mul"}), frozenset({"Div", "Sigmoid"})),
    (_hard_swish, _PRODUCTS, frozenset({"Add", "Clip", "HardSigmoid"})),
    (standardised, _PRODUCTS, frozenset({"Add", "Pow", "ReduceMean", "Reciprocal", "Sqrt", "Sub"})),
    (attention, frozenset({"MatMul"}), frozenset({"Add", "Div", "Mul", "Reshape", "Softmax", "Where"})),
    (folded, frozenset({"Add"}), frozenset({"Div", "Mul", "Pow", "ReduceMean", "Reciprocal", "Sqrt", "Sub"})),
]
"""Each kind, the operators that may end it, and those inside."""
