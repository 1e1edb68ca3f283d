"""Einsum: the gradient of an operand is an Einsum of the gradient and the other operands."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from onnx_attribution.graph_tools.ir.broadcast import unbroadcast
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, decomposed, vjp
from onnx_attribution.graph_tools.operators.transpose import (
    declare,
    dimensions,
    positions,
    rank_of,
    scatter_add,
)


@dataclass(frozen=True)
class Equation:
    """One label per axis of each operand and of the result; `stretched` are those of the ellipsis."""

    operands: tuple[str, ...]
    result: str
    stretched: str


def parsed(equation: str, ranks: Sequence[int]) -> Equation:
    """The equation with letters for the axes of an ellipsis and an explicit result."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    free = [c for c in string.ascii_letters if c not in equation]
    hidden = [rank - len(term) + 3 if "..." in term else 0 for term, rank in zip(terms, ranks, strict=True)]
    stretched = "".join(free[: max(hidden, default=0)])
    named = [t.replace("...", stretched[len(stretched) - k :]) for t, k in zip(terms, hidden, strict=True)]
    if arrow:
        return Equation(tuple(named), right.replace("...", stretched), stretched)
    letters = left.replace(",", "").replace(".", "")
    once = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return Equation(tuple(named), stretched + once, stretched)


@vjp("Einsum", linear=[{k} for k in range(16)], bilinear=True)
def einsum(op: Emitter, node: NodeView, g: Value) -> Gradients:
    values = [node.input(k) for k in range(len(node.inputs))]
    return [
        _operand(op, _equation(node), values, k, g) if node.active[k] else None for k in range(len(values))
    ]


@decomposed("Einsum", when=lambda node: sum(node.active) > 2)
def pairwise(op: Emitter, node: NodeView) -> Value:
    """Two operands at a time, from the left; what a later one or the result needs is kept."""
    equation, (value, *rest) = _equation(node), [node.input(k) for k in range(len(node.inputs))]
    labels, *terms = equation.operands
    for number, (term, other) in enumerate(zip(terms, rest, strict=True), start=1):
        needed = equation.result + "".join(terms[number:])
        last = number == len(terms)
        kept = equation.result if last else "".join(c for c in dict.fromkeys(labels + term) if c in needed)
        made = op("Einsum", value, other, equation=f"{labels},{term}->{kept}")
        known = dict(zip(term, dimensions(other), strict=True)) | dict(
            zip(labels, dimensions(value), strict=True)
        )
        sizes = [f"stretched/{c}" if c in equation.stretched else known[c] for c in kept]
        value, labels = declare(made, dimensions(node.z) if last else sizes), kept
    return value


def _equation(node: NodeView) -> Equation:
    text = node.attribute("equation")
    ranks = [rank_of(node.input(k)) for k in range(len(node.inputs))]
    return parsed(text.decode() if isinstance(text, bytes) else text, ranks)


def _operand(op: Emitter, equation: Equation, values: Sequence[Value], k: int, g: Value) -> Value:
    x, labels = values[k], equation.operands[k]
    unique = "".join(dict.fromkeys(labels))
    others = [(term, y) for j, (term, y) in enumerate(zip(equation.operands, values, strict=True)) if j != k]
    terms = [equation.result, *(term for term, _ in others)]
    kept = "".join(c for c in unique if any(c in term for term in terms))
    made: Value = op("Einsum", g, *(y for _, y in others), equation=f"{','.join(terms)}->{kept}")
    if len(unique) < len(labels):  # only the diagonal is read
        places = op("Einsum", positions(op, x), equation=f"{labels}->{unique}")
        return scatter_add(op, x, places, _grown(op, made, unique, kept, op("Shape", places)))
    if kept == unique and not set(unique) & set(equation.stretched):
        return made
    sizes = [_size(equation, values, k, label) for label in unique]
    made = declare(_grown(op, made, unique, kept, op.shape(x)), sizes)
    return unbroadcast(op, made, x, made)


def _grown(op: Emitter, value: Value, labels: str, kept: str, shape: Value) -> Value:
    """`value` repeated along the axes that were summed in this operand alone."""
    absent = [axis for axis, label in enumerate(labels) if label not in kept]
    apart = op("Unsqueeze", value, op.ints(absent)) if absent else value
    return op("Expand", apart, shape)


def _size(equation: Equation, values: Sequence[Value], k: int, label: str) -> int | str | None:
    """The size of a label of operand `k` after stretching, if that is known."""
    own = dimensions(values[k])[equation.operands[k].index(label)]
    if label not in equation.stretched or (isinstance(own, int) and own != 1):
        return own
    sizes = {
        dimensions(y)[t.index(label)] for t, y in zip(equation.operands, values, strict=True) if label in t
    }
    return own if sizes == {own} else "?"
