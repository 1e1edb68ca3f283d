"""Normalisations and softmax. `h` is the normalised value, `s` the inverse deviation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_attribution.graph_tools.ir.broadcast import unbroadcast
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, shape_of
from onnx_attribution.graph_tools.operators.registry import VJP, Gradients, NodeView, decomposed, vjp
from onnx_attribution.graph_tools.operators.transpose import declare, dimensions, rank_of


def _rank(value: Value) -> int:
    return len(shape_of(value) or ())


def _mean(op: Emitter, value: Value, axes: Sequence[int]) -> Value:
    return op("ReduceMean", value, op.ints(axes), keepdims=1)


def _per_channel(op: Emitter, value: Value, rank: int) -> Value:
    """A `[C]` vector as `[C, 1, ...]`, to broadcast against `[N, C, ...]`."""
    if rank <= 2:
        return value
    array = getattr(value, "values", None)
    if array is not None:
        return op.constant(np.asarray(array).reshape(-1, *[1] * (rank - 2)))
    return op("Unsqueeze", value, op.ints(range(1, rank - 1)))


@vjp(
    "BatchNormalization",
    linear=[{0, 2}],
    linear_if=lambda node: not node.attribute("training_mode", 0),
    kinds={"scales"},
)
def batch_normalization(op: Emitter, node: NodeView, g: Value, *statistics: Value | None) -> Gradients:
    x, scale, _, mean, variance = (node.input(k) for k in range(5))
    rank, epsilon = _rank(x), node.attribute("epsilon", 1e-5)
    others = [k for k in range(rank) if k != 1]
    if node.attribute("training_mode", 0):
        axes = others if rank > 1 else [0]
        center = op("Sub", x, _mean(op, x, axes))
        inverse = _inverse(op, _mean(op, op("Mul", center, center), axes), epsilon)
        hat = op("Mul", center, inverse)
        dx = _normalised(op, op("Mul", g, _per_channel(op, scale, rank)), hat, inverse, axes)
        d_scale, d_bias = _to_channel(op, op("Mul", g, hat), others), _to_channel(op, g, others)
        momentum, count = (
            node.attribute("momentum", 0.9),
            op.cast(op("Div", op.size(x), op.size(scale)), x.dtype),
        )
        arrived = (*statistics, None, None)[
            :2
        ]  # at the new running mean and variance, which see the batch's own
        for part, slope in zip(arrived, (op.like(x, 1), op("Mul", center, op.like(x, 2))), strict=True):
            if part is not None:
                share = op("Div", op("Mul", _per_channel(op, part, rank), op.like(x, 1 - momentum)), count)
                dx = op("Add", dx, op("Mul", share, slope))
        running = [None if part is None else op("Mul", part, op.like(part, momentum)) for part in arrived]
        return dx, d_scale, d_bias, *running
    inverse = op("Reciprocal", op("Sqrt", op("Add", variance, op.like(variance, epsilon))))
    factor = _per_channel(op, op("Mul", scale, inverse), rank)
    dx = op("Mul", g, op.cast(factor, g.dtype))
    hat = op("Mul", op("Sub", x, _per_channel(op, mean, rank)), _per_channel(op, inverse, rank))
    d_mean = op("Neg", _to_channel(op, dx, others))
    half = op("Mul", op("Mul", inverse, inverse), op.like(inverse, -0.5))
    d_scale = _to_channel(op, op("Mul", g, hat), others)
    return dx, d_scale, _to_channel(op, g, others), d_mean, op("Mul", op("Mul", d_scale, scale), half)


@decomposed(
    "BatchNormalization", when=lambda node: not VJP["", "BatchNormalization"].is_linear_in(node, _moved(node))
)
def batch_normalization_decomposed(op: Emitter, node: NodeView) -> list[Value | None]:
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
            for v in (_mean_kept(op, x, axes), _mean_square(op, center, axes))
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


def _to_channel(op: Emitter, value: Value, axes: list[int]) -> Value:
    return op("ReduceSum", value, op.ints(axes), keepdims=0) if axes else value


def _moved(node: NodeView) -> list[int]:
    return [k for k, active in enumerate(node.active) if active]


def _inverse(op: Emitter, variance: Value, epsilon: float) -> Value:
    return op("Reciprocal", op("Sqrt", op("Add", variance, op.like(variance, epsilon))))


def _normalised(op: Emitter, g: Value, hat: Value, inverse: Value, axes: Sequence[int]) -> Value:
    """The gradient through h = (x - mean x) / deviation: s (g - mean g - h mean(g h))."""
    return op("Mul", standardised_back(op, g, hat, axes, centred=True), inverse)


def standardised_back(op: Emitter, g: Value, hat: Value, axes: Sequence[int], centred: bool) -> Value:
    """The gradient through h = x / deviation, x less its mean or not, times the deviation: g - mean g - h mean(g h)."""
    inner = op("Sub", g, _mean(op, g, axes)) if centred else g
    return op("Sub", inner, op("Mul", hat, _mean(op, op("Mul", g, hat), axes)))


def _mean_kept(op: Emitter, value: Value, axes: Sequence[int]) -> Value:
    rank = rank_of(value)
    reduced = {a % rank for a in axes}
    made = op("ReduceMean", value, op.ints(axes), keepdims=1)
    return declare(made, [1 if a in reduced else d for a, d in enumerate(dimensions(value))])


def _centred(op: Emitter, x: Value, axes: Sequence[int]) -> Value:
    return declare(op("Sub", x, _mean_kept(op, x, axes)), dimensions(x))


def _mean_square(op: Emitter, x: Value, axes: Sequence[int]) -> Value:
    return _mean_kept(op, declare(op("Mul", x, x), dimensions(x)), axes)


def _inverse_root(op: Emitter, center: Value, axes: Sequence[int], epsilon: float) -> Value:
    """1 / sqrt(mean square + epsilon)."""
    mean = _mean_square(op, center, axes)
    return op("Reciprocal", op("Sqrt", op("Add", mean, op.like(mean, epsilon))))


def _standardised(op: Emitter, x: Value, axes: Sequence[int], epsilon: float) -> Value:
    center = _centred(op, x, axes)
    return declare(op("Mul", center, _inverse_root(op, center, axes, epsilon)), dimensions(x))


@vjp("LayerNormalization", linear=[{2}])
def layer_normalization(
    op: Emitter, node: NodeView, g: Value | None, g_mean: Value | None = None, g_inverse: Value | None = None
) -> Gradients:
    x, scale, bias = node.input(0), node.input(1), node.optional(2)
    rank = _rank(x)
    axes = list(range(node.attribute("axis", -1) % rank, rank))
    center = op("Sub", x, _mean(op, x, axes))
    inverse = _inverse(op, _mean(op, op("Mul", center, center), axes), node.attribute("epsilon", 1e-5))
    hat = op("Mul", center, inverse)
    parts: list[Value] = []
    d_scale = d_bias = None
    if g is not None:
        parts.append(_normalised(op, op("Mul", g, scale), hat, inverse, axes))
        d_scale = unbroadcast(op, op("Mul", g, hat), scale, x)
        d_bias = None if bias is None else unbroadcast(op, g, bias, x)
    count = op.cast(op("ReduceProd", op("Gather", op.shape(x), op.ints(axes)), keepdims=0), x.dtype)
    if g_mean is not None:
        parts.append(op("Expand", op("Div", op.cast(g_mean, x.dtype), count), op.shape(x)))
    if g_inverse is not None:
        cube = op("Mul", op("Mul", inverse, inverse), hat)
        parts.append(op("Neg", op("Mul", op("Div", op.cast(g_inverse, x.dtype), count), cube)))
    return parts[0] if len(parts) == 1 else op("Sum", *parts), d_scale, d_bias


@decomposed("LayerNormalization")
def layer_normalization_decomposed(op: Emitter, node: NodeView) -> list[Value | None]:
    x, scale, bias = node.input(0), node.input(1), node.optional(2)
    rank, epsilon = rank_of(x), node.attribute("epsilon", 1e-5)
    axes = list(range(node.attribute("axis", -1) % rank, rank))
    mean = _mean_kept(op, x, axes)
    center = declare(op("Sub", x, mean), dimensions(x))
    inverse = _inverse_root(op, center, axes, epsilon)
    z = op("Mul", op("Mul", center, inverse), scale)
    return [z if bias is None else op("Add", z, bias), mean, inverse]


@vjp("RMSNormalization")
def rms_normalization(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return _rms(op, node, g, node.attribute("axis", -1))


@vjp("SimplifiedLayerNormalization")
def simplified_layer_normalization(op: Emitter, node: NodeView, g: Value, *_: Value | None) -> Gradients:
    return _rms(op, node, g, node.attribute("axis", -1))


def _rms(op: Emitter, node: NodeView, g: Value, axis: int) -> Gradients:
    x, scale = node.input(0), node.input(1)
    axes = list(range(axis % _rank(x), _rank(x)))
    inverse = _inverse(op, _mean(op, op("Mul", x, x), axes), node.attribute("epsilon", 1e-5))
    hat, scaled = op("Mul", x, inverse), op("Mul", g, scale)
    dx = op("Mul", standardised_back(op, scaled, hat, axes, centred=False), inverse)
    return dx, unbroadcast(op, op("Mul", g, hat), scale, x)


@decomposed("RMSNormalization", "SimplifiedLayerNormalization")
def rms_normalization_decomposed(op: Emitter, node: NodeView) -> list[Value | None]:
    x, scale = node.input(0), node.input(1)
    axes = list(range(node.attribute("axis", -1) % rank_of(x), rank_of(x)))
    inverse = _inverse_root(op, x, axes, node.attribute("epsilon", 1e-5))
    return [op("Mul", op("Mul", x, inverse), scale), inverse]


@vjp("InstanceNormalization", linear=[{2}])
def instance_normalization(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, scale = node.input(0), node.input(1)
    rank = _rank(x)
    axes = list(range(2, rank))
    center = op("Sub", x, _mean(op, x, axes))
    inverse = _inverse(op, _mean(op, op("Mul", center, center), axes), node.attribute("epsilon", 1e-5))
    hat = op("Mul", center, inverse)
    dx = _normalised(op, op("Mul", g, _per_channel(op, scale, rank)), hat, inverse, axes)
    return dx, _to_channel(op, op("Mul", g, hat), [0, *axes]), _to_channel(op, g, [0, *axes])


@decomposed("InstanceNormalization")
def instance_normalization_decomposed(op: Emitter, node: NodeView) -> Value:
    x, scale, bias = node.input(0), node.input(1), node.input(2)
    rank = rank_of(x)
    hat = _standardised(op, x, range(2, rank), node.attribute("epsilon", 1e-5))
    return op("Add", op("Mul", hat, _per_channel(op, scale, rank)), _per_channel(op, bias, rank))


@vjp("GroupNormalization", linear=[{2}])
def group_normalization(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """Scale and bias are per channel since opset 21, per group before."""
    x, scale = node.input(0), node.input(1)
    rank, groups = _rank(x), node.attribute("num_groups")
    grouped = op("Concat", op.dims(x, 0, 1), op.ints([groups, -1]), axis=0)
    folded = op("Reshape", x, grouped)
    center = op("Sub", folded, _mean(op, folded, [2]))
    inverse = _inverse(op, _mean(op, op("Mul", center, center), [2]), node.attribute("epsilon", 1e-5))
    hat = op("Mul", center, inverse)
    if node.opset >= 21:
        scaled = op("Reshape", op("Mul", g, _per_channel(op, scale, rank)), grouped)
        axes = [0, *range(2, rank)]
        d_scale = _to_channel(op, op("Mul", g, op.reshape_like(hat, x)), axes)
        d_bias = _to_channel(op, g, axes)
    else:
        folded_g = op("Reshape", g, grouped)
        scaled = op("Mul", folded_g, op("Unsqueeze", scale, op.ints([1])))
        d_scale, d_bias = _to_channel(op, op("Mul", folded_g, hat), [0, 2]), _to_channel(op, folded_g, [0, 2])
    return op.reshape_like(_normalised(op, scaled, hat, inverse, [2]), x), d_scale, d_bias


@decomposed("GroupNormalization")
def group_normalization_decomposed(op: Emitter, node: NodeView) -> Value:
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


@vjp("MeanVarianceNormalization")
def mean_variance_normalization(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, axes = node.input(0), node.attribute("axes", [0, 2, 3])
    center = op("Sub", x, _mean(op, x, axes))
    deviation = op("Add", op("Sqrt", _mean(op, op("Mul", center, center), axes)), op.like(x, 1e-9))
    inverse = op("Reciprocal", deviation)
    return (_normalised(op, g, op("Mul", center, inverse), inverse, axes),)


@decomposed("MeanVarianceNormalization")
def mean_variance_normalization_decomposed(op: Emitter, node: NodeView) -> Value:
    x, axes = node.input(0), node.attribute("axes", [0, 2, 3])
    center = _centred(op, x, axes)
    deviation = op("Sqrt", _mean_square(op, center, axes))
    return op("Mul", center, op("Reciprocal", op("Add", deviation, op.like(x, 1e-9))))


@vjp("LpNormalization")
def lp_normalization(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """Where the norm is 0 the gradient is 0."""
    x, z, axis, p = node.input(0), node.z, op.ints([node.attribute("axis", -1)]), node.attribute("p", 2)
    norm = op("ReduceL1" if p == 1 else "ReduceL2", x, axis, keepdims=1)
    inner = op("ReduceSum", op("Mul", g, z), axis, keepdims=1)
    along = op("Sign", x) if p == 1 else z
    empty = op("Equal", norm, op.like(norm, 0))
    safe = op("Where", empty, op.like(norm, 1), norm)
    return (op("Where", empty, op.like(g, 0), op("Div", op("Sub", g, op("Mul", along, inner)), safe)),)


@decomposed("LpNormalization")
def lp_normalization_decomposed(op: Emitter, node: NodeView) -> Value:
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


@vjp("LRN")
def lrn(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """z = x S^-b with S = bias + alpha/n * (sum of x^2 over `size` channels); an even window is asymmetric."""
    x, size = node.input(0), node.attribute("size")
    alpha, beta = node.attribute("alpha", 1e-4), node.attribute("beta", 0.75)
    total = _channel_window(op, op("Mul", x, x), size, mirrored=False)
    s = op("Add", op.like(x, node.attribute("bias", 1.0)), op("Mul", total, op.like(x, alpha / size)))
    power = op("Pow", s, op.like(x, -beta))
    spread = _channel_window(op, op("Div", op("Mul", op("Mul", g, x), power), s), size, mirrored=True)
    return (
        op("Sub", op("Mul", g, power), op("Mul", op("Mul", x, op.like(x, 2 * alpha * beta / size)), spread)),
    )


@decomposed("LRN")
def lrn_decomposed(op: Emitter, node: NodeView) -> Value:
    """x S^-b with S = bias + alpha / n (sum of x^2 over `size` channels)."""
    x, size = node.input(0), node.attribute("size")
    total = _channel_window(op, op("Mul", x, x), size, mirrored=False)
    share = op("Mul", total, op.like(x, node.attribute("alpha", 1e-4) / size))
    s = op("Add", share, op.like(x, node.attribute("bias", 1.0)))
    return op("Mul", x, op("Pow", s, op.like(x, -node.attribute("beta", 0.75))))


def _channel_window(op: Emitter, value: Value, size: int, mirrored: bool) -> Value:
    """The sum over `size` neighbouring channels, by an average pool along the channel axis."""
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    pads = [after, before] if mirrored else [before, after]
    shape = op.shape(value)
    flat = op(
        "Reshape",
        value,
        op("Concat", op.dims(value, 0, 1), op.ints([1]), op.dims(value, 1, 2), op.ints([-1]), axis=0),
    )
    pooled = op(
        "AveragePool", flat, kernel_shape=[size, 1], pads=[pads[0], 0, pads[1], 0], count_include_pad=1
    )
    made = op("Mul", op("Reshape", pooled, shape), op.like(value, size))
    made.shape = value.shape
    return made
