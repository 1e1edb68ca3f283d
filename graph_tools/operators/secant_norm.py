"""Secants of softmax and of normalisations.

The exponential and its relatives have closed forms without cancellation; normalisations are recomputed from means,
products and the inverse square root, each of which sums exactly: a square by its midpoint, 1/sqrt by its secant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.huge import FAR, may_be_huge
from onnx_attribution.graph_tools.operators.normalisation import _channel_window, _per_channel
from onnx_attribution.graph_tools.operators.quotients import quotient, times
from onnx_attribution.graph_tools.operators.registry import VJP, Gradients, NodeView
from onnx_attribution.graph_tools.operators.secant import parts, secant
from onnx_attribution.graph_tools.operators.secant_elementwise import fallen
from onnx_attribution.graph_tools.operators.tricks import declare, dimensions, rank_of

# --- the exponential, its inverse and powers


@secant("Exp")
def exp(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """The logarithmic mean of the two values."""
    return (op("Mul", g, exp_slope(op, node.input(0), reference.input(0))),)


def exp_slope(op: Emitter, x: Value, y: Value) -> Value:
    """(exp x - exp y) / (x - y) = exp(larger) (1 - exp(-d)) / d with d = |x - y|: no overflow on the way."""
    return op("Mul", op("Exp", op("Max", x, y)), fallen(op, x, y))


@secant("Log")
def log(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    return (times(op, g, log_slope(op, node.input(0), reference.input(0), node.z, reference.z)),)


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


@secant("Sqrt")
def sqrt(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """1 / (sqrt x + sqrt y); 0 where both are 0."""
    total = op("Add", node.z, reference.z)
    flat = op("Equal", total, op.like(total, 0))
    return (quotient(op, g, total, flat, op.like(g, 0)),)


@secant("Reciprocal")
def reciprocal(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    return (op("Neg", times(op, g, op("Mul", node.z, reference.z))),)


# --- softmax


@dataclass(frozen=True)
class LogSums:
    """The log of the sum of exponentials between x and x'.

    `means` are the logarithmic means of softmax at both, `slope` what each element adds to the change of the log of the
    sum: its share in the means. With l = log softmax, sum exp l is 1 at both ends, so that the sum of means * dl is 0.
    """

    means: Value
    slope: Value

    @classmethod
    def of(cls, op: Emitter, x: Value, y: Value, axes: Value) -> LogSums:
        """Between x and y; elements of -inf at both count for nothing."""
        rank = rank_of(x)
        logs = []
        for v in (x, y):
            top = _lowered(op, v, "ReduceMax", axes, rank)
            top = op("Where", op("Equal", op("Sub", top, top), op.like(top, 0)), top, op.like(top, 0))
            own = op("Sub", v, top)
            logs.append(op("Sub", own, op("Log", _lowered(op, op("Exp", own), "ReduceSum", axes, rank))))
        means = exp_slope(op, *logs)
        return cls(means, op("Div", means, _lowered(op, means, "ReduceSum", axes, rank)))


def _lowered(op: Emitter, x: Value, operator: str, axes: Value, rank: int) -> Value:
    return declare(op(operator, x, axes, keepdims=1), [None] * rank)


@secant("Softmax")
def softmax(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """M_ij = L_i (d_ij - L_j / sum L) with the logarithmic means L of s and s' (methods.md 2.7, centred).

    Symmetric, and its rows sum to 0: shifts of x or x' change nothing. Rows that are NaN at both ends (fully masked
    attention) get nothing.
    """
    axes = op.ints([node.attribute("axis", -1)])
    found = LogSums.of(op, node.input(0), reference.input(0), axes)
    masked, by_masks = _masked_rows(op, node, reference, g, axes)
    arrived = op("Where", masked, op.like(g, 0), op("Mul", g, found.means))
    total = op("ReduceSum", arrived, axes, keepdims=1)
    made = op("Sub", arrived, times(op, total, found.slope))
    return (made if by_masks is None else op("Add", made, by_masks),)


@secant("LogSoftmax")
def log_softmax(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    axes = op.ints([node.attribute("axis", -1)])
    found = LogSums.of(op, node.input(0), reference.input(0), axes)
    masked, by_masks = _masked_rows(op, node, reference, g, axes)
    arrived = g if by_masks is None else op("Where", masked, op.like(g, 0), g)
    made = op("Sub", arrived, times(op, op("ReduceSum", arrived, axes, keepdims=1), found.slope))
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


# --- normalisations, recomputed


def _mean(op: Emitter, value: Value, axes: Sequence[int]) -> Value:
    rank = rank_of(value)
    reduced = {a % rank for a in axes}
    made = op("ReduceMean", value, op.ints(axes), keepdims=1)
    return declare(made, [1 if a in reduced else d for a, d in enumerate(dimensions(value))])


def _centred(op: Emitter, x: Value, axes: Sequence[int]) -> Value:
    return declare(op("Sub", x, _mean(op, x, axes)), dimensions(x))


def _mean_square(op: Emitter, x: Value, axes: Sequence[int]) -> Value:
    return _mean(op, declare(op("Mul", x, x), dimensions(x)), axes)


def _inverse(op: Emitter, center: Value, axes: Sequence[int], epsilon: float) -> Value:
    """1 / sqrt(mean square + epsilon)."""
    mean = _mean_square(op, center, axes)
    return op("Reciprocal", op("Sqrt", op("Add", mean, op.like(mean, epsilon))))


def _standardised(op: Emitter, x: Value, axes: Sequence[int], epsilon: float) -> Value:
    center = _centred(op, x, axes)
    return declare(op("Mul", center, _inverse(op, center, axes, epsilon)), dimensions(x))


@parts("LayerNormalization")
def layer_normalization(op: Emitter, node: NodeView) -> list[Value | None]:
    x, scale, bias = node.input(0), node.input(1), node.optional(2)
    rank, epsilon = rank_of(x), node.attribute("epsilon", 1e-5)
    axes = list(range(node.attribute("axis", -1) % rank, rank))
    mean = _mean(op, x, axes)
    center = declare(op("Sub", x, mean), dimensions(x))
    inverse = _inverse(op, center, axes, epsilon)
    z = op("Mul", op("Mul", center, inverse), scale)
    return [z if bias is None else op("Add", z, bias), mean, inverse]


@parts("RMSNormalization", "SimplifiedLayerNormalization")
def rms_normalization(op: Emitter, node: NodeView) -> list[Value | None]:
    x, scale = node.input(0), node.input(1)
    axes = list(range(node.attribute("axis", -1) % rank_of(x), rank_of(x)))
    inverse = _inverse(op, x, axes, node.attribute("epsilon", 1e-5))
    return [op("Mul", op("Mul", x, inverse), scale), inverse]


@parts(
    "BatchNormalization", when=lambda node: not VJP["", "BatchNormalization"].is_linear_in(node, _moved(node))
)
def batch_normalization(op: Emitter, node: NodeView) -> list[Value | None]:
    """With scale or statistics that move, or those of the batch itself; then the running ones are outputs too."""
    x, scale, bias = node.input(0), node.input(1), node.input(2)
    statistics = [node.input(3), node.input(4)]
    rank, momentum = rank_of(x), node.attribute("momentum", 0.9)
    running: list[Value | None] = []
    if node.attribute("training_mode", 0):
        axes = [k for k in range(rank) if k != 1]
        center = _centred(op, x, axes)
        own = [
            declare(op("Reshape", v, op.ints([-1])), [dimensions(scale)[0]])
            for v in (_mean(op, x, axes), _mean_square(op, center, axes))
        ]
        keep, add = op.like(x, momentum), op.like(x, 1 - momentum)
        for old, new in zip(statistics, own, strict=True):
            running.append(op("Add", op("Mul", old, keep), op("Mul", new, add)))
        statistics = own
    mean, variance = statistics
    epsilon = op.like(variance, node.attribute("epsilon", 1e-5))
    inverse = op("Reciprocal", op("Sqrt", op("Add", variance, epsilon)))
    factor = op("Mul", _per_channel(op, inverse, rank), _per_channel(op, scale, rank))
    center = declare(op("Sub", x, _per_channel(op, mean, rank)), dimensions(x))
    scaled = declare(op("Mul", center, factor), dimensions(x))
    return [declare(op("Add", scaled, _per_channel(op, bias, rank)), dimensions(x)), *running]


def _moved(node: NodeView) -> list[int]:
    return [k for k, active in enumerate(node.active) if active]


@parts("InstanceNormalization")
def instance_normalization(op: Emitter, node: NodeView) -> Value:
    x, scale, bias = node.input(0), node.input(1), node.input(2)
    rank = rank_of(x)
    hat = _standardised(op, x, range(2, rank), node.attribute("epsilon", 1e-5))
    return op("Add", op("Mul", hat, _per_channel(op, scale, rank)), _per_channel(op, bias, rank))


@parts("GroupNormalization")
def group_normalization(op: Emitter, node: NodeView) -> Value:
    """Scale and bias are per channel since opset 21, per group before."""
    x, scale, bias = node.input(0), node.input(1), node.input(2)
    rank, groups = rank_of(x), node.attribute("num_groups")
    folded = op("Reshape", x, op("Concat", op.dims(x, 0, 1), op.ints([groups, -1]), axis=0))
    declare(folded, [dimensions(x)[0], groups, "?"])
    hat = _standardised(op, folded, [2], node.attribute("epsilon", 1e-5))
    if node.opset < 21:
        scale, bias = (declare(op("Unsqueeze", v, op.ints([1])), [groups, 1]) for v in (scale, bias))
        return declare(op("Reshape", op("Add", op("Mul", hat, scale), bias), op.shape(x)), dimensions(x))
    hat = declare(op("Reshape", hat, op.shape(x)), dimensions(x))
    return op("Add", op("Mul", hat, _per_channel(op, scale, rank)), _per_channel(op, bias, rank))


@parts("MeanVarianceNormalization")
def mean_variance_normalization(op: Emitter, node: NodeView) -> Value:
    x, axes = node.input(0), node.attribute("axes", [0, 2, 3])
    center = _centred(op, x, axes)
    deviation = op("Sqrt", _mean_square(op, center, axes))
    return op("Mul", center, op("Reciprocal", op("Add", deviation, op.like(x, 1e-9))))


@parts("LpNormalization")
def lp_normalization(op: Emitter, node: NodeView) -> Value:
    """x / norm; where the norm is 0, x is 0 too and the divisor is 1."""
    x, axis = node.input(0), node.attribute("axis", -1)
    shape = [1 if a == axis % rank_of(x) else d for a, d in enumerate(dimensions(x))]
    if node.attribute("p", 2) == 1:
        norm: Value = declare(op("ReduceSum", op("Abs", x), op.ints([axis]), keepdims=1), shape)
    else:
        square = declare(op("ReduceSum", op("Mul", x, x), op.ints([axis]), keepdims=1), shape)
        norm = op("Sqrt", square)
    empty = op.cast(op("Equal", norm, op.like(norm, 0)), norm.dtype)
    return op("Mul", x, op("Reciprocal", op("Add", norm, empty)))


@parts("LRN")
def lrn(op: Emitter, node: NodeView) -> Value:
    """x S^-b with S = bias + alpha / n (sum of x^2 over `size` channels)."""
    x, size = node.input(0), node.attribute("size")
    total = _channel_window(op, op("Mul", x, x), size, mirrored=False)
    share = op("Mul", total, op.like(x, node.attribute("alpha", 1e-4) / size))
    s = op("Add", share, op.like(x, node.attribute("bias", 1.0)))
    return op("Mul", x, op("Pow", s, op.like(x, -node.attribute("beta", 0.75))))
