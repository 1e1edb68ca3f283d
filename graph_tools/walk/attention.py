"""Attention that a file writes as several nodes: softmax(scores) v, with the scores scale q k^T + masks or any others.

The gradient of the softmax needs the mean of what arrives at each row of weights. That is the product of the result
with its gradient, which are as wide as a head and not as the keys are many. Only weights of keys by queries are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.broadcast import unbroadcast
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_half, shape_of
from onnx_attribution.graph_tools.operators.huge import is_sum_of_products
from onnx_attribution.graph_tools.operators.linear import transposed
from onnx_attribution.graph_tools.operators.softmax import cleaned
from onnx_attribution.graph_tools.operators.transpose import number_of
from onnx_attribution.graph_tools.walk.forms import DEPTH, Asked, Composite, beside_number, made_by


@dataclass(frozen=True)
class Weights:
    """The softmax that a tensor holds, in whatever shape of equal rows; `whole`: rows that are no numbers are 0."""

    softmax: gs.Node
    whole: bool = False


@dataclass(frozen=True)
class Scores:
    """scale q k + masks, where k has a column a key."""

    q: Value
    k: Value
    scale: float = 1.0
    masks: tuple[Value, ...] = ()


def attention(node: gs.Node, asked: Asked) -> Composite | None:
    """softmax(scores) v: the gradients of q, k and v, where no mask has one, and else of the scores and v."""
    p, v = node.inputs
    found = _weights(p, asked)
    rank = len(shape_of(p) or ())
    if found is None or rank < 2 or not _fits(v, rank):
        return None
    x = found.softmax.inputs[0]
    given = Composite((x, v), partial(_back, node=node, found=found, scores=None))
    scores = _scores(x, asked)
    if scores is None or not all(_fits(a, rank) for a in (x, scores.q, scores.k)) or not _kept(x, scores):
        return given
    back = partial(_back, node=node, found=found, scores=scores)
    return Composite((scores.q, scores.k, v), back, still=scores.masks, otherwise=given)


def _weights(p: Value, asked: Asked, depth: int = DEPTH) -> Weights | None:
    """The softmax over the last axis whose rows a tensor holds."""
    softmax = made_by(p, "Softmax", asked)
    if softmax is not None:
        last = len(shape_of(p) or ()) - 1
        return Weights(softmax) if softmax.attrs.get("axis", -1) in (-1, last) else None
    shaped = made_by(p, "Reshape", asked)
    if shaped is not None and depth:
        x = shaped.inputs[0]
        size, kept = (shape_of(p) or [None])[-1], (shape_of(x) or [None])[-1]
        return _weights(x, asked, depth - 1) if size == kept and size not in (None, "?") else None
    chosen = made_by(p, "Where", asked)
    lost = chosen and made_by(chosen.inputs[0], "IsNaN", asked)
    if not chosen or not lost or number_of(chosen.inputs[1]) != 0 or lost.inputs[0] is not chosen.inputs[2]:
        return None
    found = _weights(chosen.inputs[2], asked, depth - 1) if depth else None
    return found and replace(found, whole=True)


def _scores(x: Value, asked: Asked, depth: int = 2 * DEPTH) -> Scores | None:
    """The product that scores are made of, its scale, and what is added."""
    product = made_by(x, "MatMul", asked)
    if product is not None:
        return Scores(*product.inputs)
    if not depth:
        return None
    for operator in ("Mul", "Div"):
        pair = beside_number(x, operator, asked)
        if pair is not None and pair[1] and (operator == "Mul" or x.inputs[0].inputs[0] is pair[0]):
            inner = _scores(pair[0], asked, depth - 1)
            factor = pair[1] if operator == "Mul" else 1 / pair[1]
            return inner and replace(inner, scale=inner.scale * factor)
    total = made_by(x, "Add", asked)
    for one, other in (total.inputs, total.inputs[::-1]) if total is not None else ():
        inner = _scores(one, asked, depth - 1)
        if inner is not None:
            return replace(inner, masks=(*inner.masks, other))
    return None


def _fits(value: Value, rank: int) -> bool:
    return not isinstance(value, gs.Constant) and len(shape_of(value) or ()) == rank


def _kept(x: Value, scores: Scores) -> bool:
    """Whether no mask makes several of the only query or key."""
    sizes = (*(shape_of(scores.q) or ())[-2:-1], *(shape_of(scores.k) or ())[-1:])
    return all(size != 1 or whole == 1 for size, whole in zip(sizes, (shape_of(x) or ())[-2:], strict=True))


def _back(op: Emitter, g: Value, node: gs.Node, found: Weights, scores: Scores | None) -> Sequence[Value]:
    """With z the weights: dv = z^T g and ds = z (d - rows of z d), where d = g v^T - rows of g o.

    The rows of z d are what rounding leaves of the mean, which counts where one z is close to 1.
    """
    p, v, o = (_wide(op, a) for a in (*node.inputs, *node.outputs))
    x, last, rank = found.softmax.inputs[0], op.ints([-1]), len(shape_of(p) or ())
    batch = list(shape_of(o) or ())[:-2]

    def summed(gradient: Value, like: Value, *sizes: int | str) -> Value:
        """A gradient of these sizes behind the batch, summed where what it is of was repeated."""
        gradient.shape = [*batch, *sizes]
        return unbroadcast(op, gradient, like, gradient)

    mean = op("ReduceSum", op("Mul", g, o), last, keepdims=1)
    z = p
    if not found.whole and not is_sum_of_products(x):
        z, first = cleaned(op, p), op("Slice", p, op.ints([0]), op.ints([1]), last)
        mean = op("Where", op("IsNaN", first), op.like(mean, 0), mean)
    d = op("Sub", op("MatMul", g, transposed(op, v, rank)), mean)
    d = op("Sub", d, op("ReduceSum", op("Mul", z, d), last, keepdims=1))
    ds = op("Mul", z, d)
    dv = transposed(op, op("MatMul", transposed(op, g, rank), z), rank)
    dv = summed(dv, v, *list(shape_of(v) or ())[-2:])
    queries, keys = list(shape_of(p) or ())[-2:]
    if scores is None:
        return op.reshape_like(summed(ds, p, queries, keys), x), dv
    q, k = _wide(op, scores.q), _wide(op, scores.k)
    size = list(shape_of(q) or ())[-1]
    dq, dk = op("MatMul", ds, transposed(op, k, rank)), op("MatMul", transposed(op, q, rank), ds)
    if scores.scale != 1:
        dq, dk = (op("Mul", a, op.like(a, scores.scale)) for a in (dq, dk))
    return summed(dq, q, queries, size), summed(dk, k, size, keys), dv


def _wide(op: Emitter, value: Value) -> Value:
    return op.cast(value, np.float32) if is_half(value) else value
