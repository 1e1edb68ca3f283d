"""Functions that a file writes as several nodes, and whose gradient is taken of the whole: fewer passes over it.

The nodes stay as they are, so that a runtime fuses them as before and each tensor between them can be asked for: where
one is, its gradient goes through the nodes one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_half
from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.operators.transpose import known_inside

Composite = tuple[Value, Callable[[Emitter, Value], Value]]
"""The tensor that a function reads, and what it does to the gradient."""

_GELU: frozenset[str] = frozenset({"Add", "Div", "Erf", "Mul"})


def composites(nodes: Sequence[gs.Node], asked: Collection[str], rules: RuleTable) -> dict[int, Composite]:
    """The functions, by the identity of the node that ends each.

    None has a tensor inside that is `asked` for, or an operator whose rule is not that of the gradient.
    """
    if any(rules.get(("", name)) is not VJP["", name] for name in _GELU):
        return {}
    makers = (node for node in nodes if node.op == "Mul" and node.domain in (None, "", "ai.onnx"))
    return {id(node): found for node in makers if (found := _gelu(node, frozenset(asked))) is not None}


def _gelu(node: gs.Node, asked: frozenset[str]) -> Composite | None:
    """c x (b + erf(a x)), the exact Gelu, with products in any order."""
    factors = list(_factors(node, asked, 3))
    scale = math.prod(n for n in map(_number, factors) if n is not None)
    tensors = [x for x in factors if _number(x) is None]
    for x, total in (tensors, tensors[::-1]) if len(tensors) == 2 else ():
        error = _other_than(total, "Add", asked)
        inner = error and _made_by(error[0], "Erf", asked)
        rate = inner and _rate(inner.inputs[0], x, asked)
        if error and inner and rate:
            u = inner.inputs[0]
            return x, lambda op, g, x=x, u=u, total=total, a=rate: _gelu_back(op, g, x, u, total, a, scale)
    return None


def _gelu_back(op: Emitter, g: Value, x: Value, u: Value, total: Value, a: float, scale: float) -> Value:
    """g c (b + erf u + x a 2 / sqrt(pi) exp(-u^2))."""
    x, u, total = (op.cast(v, np.float32) if is_half(v) else v for v in (x, u, total))
    peak = op.like(x, math.log(2 * a / math.sqrt(math.pi)))
    bell = op("Exp", op("Sub", peak, op("Mul", u, u)))
    made = op("Mul", g, op("Add", total, op("Mul", x, bell)))
    return made if scale == 1 else op("Mul", made, op.like(made, scale))


def _factors(node: gs.Node, asked: frozenset[str], depth: int) -> Iterator[Value]:
    """The factors of a product of a few."""
    for x in node.inputs:
        maker = _made_by(x, "Mul", asked) if depth else None
        if maker is None:
            yield x
        else:
            yield from _factors(maker, asked, depth - 1)


def _made_by(value: Value, operator: str, asked: frozenset[str]) -> gs.Node | None:
    """The node of this operator that makes a tensor that nobody asks for."""
    maker = value.inputs[0] if value.inputs else None
    standard = maker is not None and maker.op == operator and maker.domain in (None, "", "ai.onnx")
    return maker if standard and value.name not in asked else None


def _other_than(value: Value, operator: str, asked: frozenset[str]) -> tuple[Value, float] | None:
    """The operand of a node of two that is no number, and the number."""
    maker = _made_by(value, operator, asked)
    if maker is None or len(maker.inputs) != 2:
        return None
    for x, other in (maker.inputs, maker.inputs[::-1]):
        number = _number(other)
        if number is not None and _number(x) is None:
            return x, number
    return None


def _rate(u: Value, x: Value, asked: frozenset[str]) -> float | None:
    """a above 0 where u is a x."""
    for operator in ("Mul", "Div"):
        found = _other_than(u, operator, asked)
        if found is None or found[0] is not x:
            continue
        a = found[1] if operator == "Mul" else 1 / found[1] if u.inputs[0].inputs[0] is x else 0.0
        if a > 0:
            return a
    return None


def _number(value: Value) -> float | None:
    """The value of a constant of one element."""
    array = known_inside(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None
