"""Softmax and its logarithm: the gradient, and the secant by logarithmic means, without cancellation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type
from onnx_attribution.graph_tools.operators.ends import exp_slope, times
from onnx_attribution.graph_tools.operators.huge import FAR, is_sum_of_products, may_be_huge
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, secant, vjp
from onnx_attribution.graph_tools.operators.transpose import declare, rank_of


@vjp("Softmax")
def softmax(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """z (g - sum z g). Rows that a mask makes NaN in the forward pass get no gradient instead of NaN.

    The mean of g is taken off twice: where one z is close to 1, the first difference is its rounding.
    """
    z = node.z
    if not is_sum_of_products(node.input(0)):
        z = cleaned(op, z)
    axis = op.ints([node.attribute("axis", -1)])
    for _ in range(2):
        g = op("Sub", g, op("ReduceSum", op("Mul", z, g), axis, keepdims=1))
    return (op("Mul", z, g),)


def cleaned(op: Emitter, z: Value) -> Value:
    """Weights with 0 in place of NaN: no NaN is greater than 0, which onnxruntime asks of floats in a single pass."""
    if element_type(z) == np.float32:
        made = op("ThresholdedRelu", z, alpha=0.0)
        made.shape = z.shape
        return made
    return op("Where", op("IsNaN", z), op.like(z, 0), z)


@vjp("LogSoftmax")
def log_softmax(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """g_i (1 - p_i) - p_i (the others' g), where p is the softmax, and 1 less a large p is the sum of the others."""
    axis, one, nothing = op.ints([node.attribute("axis", -1)]), op.like(g, 1), op.like(g, 0)
    p = op("Exp", node.z)
    large = op("Greater", p, op.like(p, 0.5))
    others = op("ReduceSum", op("Where", large, nothing, p), axis, keepdims=1)
    rest = op("Where", large, others, op("Sub", one, p))
    elsewhere = op("Sub", op("ReduceSum", g, axis, keepdims=1), g)
    return (op("Sub", op("Mul", g, rest), op("Mul", p, elsewhere)),)


@dataclass(frozen=True)
class LogSums:
    """The log of the sum of exponentials between x and x'.

    `means` are the logarithmic means of softmax at both, `slope` what each element adds to the change of the log of the
    sum: its share in the means. With l = log softmax, sum exp l is 1 at both ends, so that the sum of means * dl is 0.
    `certain`: no row is hidden, as all numbers are finite.
    """

    means: Value
    slope: Value
    certain: bool

    @classmethod
    def of(cls, op: Emitter, x: Value, y: Value, axes: Value) -> LogSums:
        """Between x and y; elements of -inf at both count for nothing."""
        rank, certain = rank_of(x), is_sum_of_products(x) and is_sum_of_products(y)
        logs = []
        for v in (x, y):
            top = _lowered(op, v, "ReduceMax", axes, rank)
            if not certain:
                top = op("Where", op("Equal", op("Sub", top, top), op.like(top, 0)), top, op.like(top, 0))
            own = op("Sub", v, top)
            logs.append(op("Sub", own, op("Log", _lowered(op, op("Exp", own), "ReduceSum", axes, rank))))
        means = exp_slope(op, *logs, finite=certain)
        return cls(means, op("Div", means, _lowered(op, means, "ReduceSum", axes, rank)), certain)

    def shared(self, op: Emitter, arrived: Value, axes: Value) -> Value:
        """`arrived` without what the sum of all of it shares out."""
        total = op("ReduceSum", arrived, axes, keepdims=1)
        return op(
            "Sub", arrived, op("Mul", total, self.slope) if self.certain else times(op, total, self.slope)
        )


def _lowered(op: Emitter, x: Value, operator: str, axes: Value, rank: int) -> Value:
    return declare(op(operator, x, axes, keepdims=1), [None] * rank)


@secant("Softmax")
def softmax_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """M_ij = L_i (d_ij - L_j / sum L) with the logarithmic means L of s and s' (methods.md 2.7, centred).

    Symmetric, and its rows sum to 0: shifts of x or x' change nothing. Rows that are NaN at both ends (fully masked
    attention) get nothing.
    """
    axes = op.ints([node.attribute("axis", -1)])
    found = LogSums.of(op, node.input(0), reference.input(0), axes)
    if found.certain:
        return (found.shared(op, op("Mul", g, found.means), axes),)
    masked, by_masks = _masked_rows(op, node, reference, g, axes)
    made = found.shared(op, op("Where", masked, op.like(g, 0), op("Mul", g, found.means)), axes)
    return (made if by_masks is None else op("Add", made, by_masks),)


@secant("LogSoftmax")
def log_softmax_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    axes = op.ints([node.attribute("axis", -1)])
    found = LogSums.of(op, node.input(0), reference.input(0), axes)
    masked, by_masks = _masked_rows(op, node, reference, g, axes)
    arrived = g if by_masks is None else op("Where", masked, op.like(g, 0), g)
    made = found.shared(op, arrived, axes)
    return (made if by_masks is None else op("Add", made, by_masks),)


def _masked_rows(
    op: Emitter, node: NodeView, reference: NodeView, g: Value, axes: Value
) -> tuple[Value, Value | None]:
    """Rows for which there are no means, and what their elements get instead.

    Where all of a row is masked at one end only, no limit exists, and what changes from or to a mask shares the change
    of the row evenly. NaN counts as 0 there.
    """
    ends = [node.z, reference.z]
    if not may_be_huge(node.input(0)):
        return op("IsNaN", op("Add", *ends)), None
    lost = [op("IsNaN", z) for z in ends]
    z, w = (op("Where", n, op.like(g, 0), z) for n, z in zip(lost, ends, strict=True))
    rank = rank_of(node.z)
    tops = [_lowered(op, view.input(0), "ReduceMax", axes, rank) for view in (node, reference)]
    hidden = [op("Or", n, op("Less", top, op.like(top, -FAR))) for n, top in zip(lost, tops, strict=True)]
    once = op("Xor", *hidden)
    change = op("Where", once, op("Mul", g, op("Sub", z, w)), op.like(g, 0))
    d = op("Sub", node.input(0), reference.input(0))
    far = op("Greater", op("Abs", d), op.like(d, FAR))
    count = op("ReduceSum", op.cast(far, g.dtype), axes, keepdims=1)
    share = op("Div", op("ReduceSum", change, axes, keepdims=1), op("Max", count, op.like(g, 1)))
    given = op("Where", far, op("Div", share, op("Where", far, d, op.like(d, 1))), op.like(g, 0))
    return op("Or", once, op("Or", *lost)), given
