"""Pooling. Letters: `x` operand, `z` output, `g` its gradient, `index` where each maximum came from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type, is_static, shape_of
from onnx_attribution.graph_tools.operators.conv_data import repeated
from onnx_attribution.graph_tools.operators.convolution import Windows, fit, stride_one_pads, windows
from onnx_attribution.graph_tools.operators.ends import cross, quotient
from onnx_attribution.graph_tools.operators.gates import fits_blocks
from onnx_attribution.graph_tools.operators.indexing import by_position, with_inputs
from onnx_attribution.graph_tools.operators.pool_routes import route
from onnx_attribution.graph_tools.operators.reduce import mean_factor
from onnx_attribution.graph_tools.operators.registry import VJP, Gradients, NodeView, decomposed, secant, vjp
from onnx_attribution.graph_tools.operators.transpose import (
    convert,
    declare,
    dimensions,
    place,
    rank_of,
    scatter_add,
)


def pool_indices(op: Emitter, node: NodeView, x: Value) -> Value:
    """For each window of a MaxPool node run on `x`, the flat position of its first maximum.

    Computed beside the node, never taken from it: asking the forward pass for indices costs onnxruntime its fast
    path on CPU, and with storage_order=1 they count columns first.
    """
    index = op.multi("MaxPool", 2, x, **{**node.attributes, "storage_order": 0})[1]
    index.dtype, index.shape = np.dtype(np.int64), node.z.shape
    return index


def unpool(op: Emitter, x: Value, values: Value, index: Value) -> Value:
    """Zeros of the shape of `x` with `values`, one per window, added at the flat positions `index`."""
    return scatter_add(op, x, index, values)


@vjp("MaxPool", unfollowed=(1,))
def max_pool(op: Emitter, node: NodeView, g: Value | None, *_: Value | None) -> Gradients:
    return (_back(op, node, node, op.zeros_like(node.z) if g is None else g),)


def _back(op: Emitter, node: NodeView, point: NodeView, g: Value) -> Value:
    """`g` where the maxima come from at one of two points."""
    x = node.input(0)
    routed = route(op, point, point.input(0), point.z, g)
    return unpool(op, x, g, pool_indices(op, node, point.input(0))) if routed is None else routed


@secant("MaxPool")
def max_pool_secant(
    op: Emitter, node: NodeView, reference: NodeView, g: Value, *_: Value | None
) -> Gradients:
    """With c the larger of the two maxima: c - z' goes to the place of the maximum of x, z - c to that of x'.

    Windows that overlap add up. Elements that do not change have the mean of the gradients at x and x'.
    """
    x, y, z, w = node.input(0), reference.input(0), node.z, reference.z
    c, half = op("Max", z, w), op("Mul", g, op.like(g, 0.5))
    to_x = _back(op, node, node, op("Mul", g, op("Sub", c, w)))
    to_y = _back(op, node, reference, op("Mul", g, op("Sub", z, c)))
    local = op("Add", _back(op, node, node, half), _back(op, node, reference, half))
    d = op("Sub", x, y)
    unmoved = op("Equal", d, op.like(d, 0))
    if not node.steady:
        return (quotient(op, op("Add", to_x, to_y), d, unmoved, local),)
    mask = op.cast(unmoved, d.dtype)  # a maximum that moves has moved: nothing else goes to what has not
    return (op("Div", op("Sum", to_x, to_y, op("Mul", local, mask)), op("Add", d, mask)),)


@vjp("MaxUnpool", linear=[{0}])
def max_unpool(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (op("Gather", op("Reshape", g, op.ints([-1])), node.input(1), axis=0),)


@by_position("MaxUnpool")
def max_unpool_credit(op: Emitter, node: NodeView, places: Sequence[Value], g: Value) -> Value:
    """Each value times what arrives at its place."""
    ends = [VJP["", "MaxUnpool"].vjp(op, with_inputs(node, {1: place}), g)[0] for place in places]
    return op("Mul", node.input(0), op("Sub", *ends))


@vjp("GlobalAveragePool", linear=[{0}], kinds={"carries"})
def global_average_pool(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, sizes = node.input(0), shape_of(node.input(0)) or ()
    share = op("Mul", g, mean_factor(op, x, node.z, range(2, rank_of(x))))
    if fits_blocks(x) and is_static(sizes[2:]) and op.graph.opset >= 13:
        declare(share, dimensions(node.z))
        return (declare(repeated(op, share, [int(n) for n in sizes[2:]]), dimensions(x)),)
    return (op("Expand", share, op.shape(x)),)


@vjp("GlobalMaxPool")
def global_max_pool(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """Those who reach the maximum share its gradient evenly."""
    x = node.input(0)
    reached = convert(op, op("Equal", x, node.z), x)
    count = op("ReduceSum", reached, op.ints(range(2, rank_of(x))), keepdims=1)
    return (op("Mul", reached, op("Div", g, count)),)


@secant("GlobalMaxPool")
def global_max_pool_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    axes = op.ints(range(2, rank_of(node.input(0))))

    def share(view: NodeView) -> Value:
        reached = convert(op, op("Equal", view.input(0), view.z), g)
        return op("Div", reached, op("ReduceSum", reached, axes, keepdims=1))

    return (
        cross(op, node.input(0), reference.input(0), node.z, reference.z, share(node), share(reference), g, "Max"),
    )  # fmt: skip


@vjp("AveragePool", linear=[{0}], kinds={"carries"})
def average_pool(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x = node.input(0)
    place_of = windows(op, node, node.attribute("kernel_shape"), x, node.z)
    whole = _is_whole(node, place_of)
    return (
        spread(
            op, node, g, place_of, 1 / math.prod(place_of.kernel) if whole else _weights(op, node, place_of)
        ),
    )


def _is_whole(node: NodeView, place_of: Windows) -> bool:
    """Whether every window divides by the size of the kernel, as it has no padding or counts it.

    Not where a window may be larger than the input: onnxruntime then divides by what is there.
    """
    sizes = dimensions(node.input(0))[2:]
    if not all(isinstance(d, int) and d >= e for d, e in zip(sizes, place_of.extent, strict=True)):
        return False
    padding = node.attribute("auto_pad", "NOTSET") in ("NOTSET", "") and any(node.attribute("pads") or [])
    same = node.attribute("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    counted = bool(node.attribute("count_include_pad", 0)) and not same
    return not node.attribute("ceil_mode", 0) and not same and (counted or not padding)


def _weights(op: Emitter, node: NodeView, place_of: Windows) -> Value:
    """What one window gives to each of its elements: the pool of ones over the number of elements it holds.

    The standard's divisor depends on count_include_pad, ceil_mode and the runtime; the pool itself knows it.
    """
    x = node.input(0)
    single = op("Concat", op.ints([1, 1]), op.dims(x, 2), axis=0)
    ones = op("Expand", op.like(x, 1), single)
    declare(ones, [1, 1, *dimensions(x)[2:]])
    kernel = convert(op, op.constant(np.ones((1, 1, *place_of.kernel), dtype=np.float32)), x)
    end = op("Sub", op("Sub", _reach(op, node.z, place_of), op.dims(x, 2)), place_of.begin)
    none = op.ints([0, 0])
    padded = op("Pad", ones, op("Concat", none, place_of.begin, none, end, axis=0))
    held = op("Conv", padded, kernel, strides=list(place_of.strides), dilations=list(place_of.dilations))
    return op("Div", node.again(op, ones), op("Max", held, op.like(x, 1)))


def _reach(op: Emitter, z: Value, place_of: Windows) -> Value:
    """How far all windows together reach, per spatial axis."""
    ones = op.ints([1] * len(place_of.kernel))
    steps = op("Mul", op("Sub", op.dims(z, 2), ones), op.ints(place_of.strides))
    return op("Add", steps, op.ints(place_of.extent))


def spread(op: Emitter, node: NodeView, g: Value, place_of: Windows, share: float | Value = 1.0) -> Value:
    """Zeros of the shape of the input with `g`, times `share`, of each window added to all its elements."""
    x, z, rank = node.input(0), node.z, len(place_of.kernel)
    if (averaged := _as_average(op, node, g, place_of, share)) is not None:
        return averaged
    g = _times(op, g, share, z)
    if place_of.strides == place_of.kernel == place_of.extent and place_of.static_begin == (0,) * rank:
        return _tiled(op, g, x, z, place_of.kernel)
    single = op("Reshape", g, op("Concat", op.ints([-1, 1]), op.dims(z, 2), axis=0))
    kernel = convert(op, op.constant(np.ones((1, 1, *place_of.kernel), dtype=np.float32)), g)
    full = op(
        "ConvTranspose", single, kernel, strides=list(place_of.strides), dilations=list(place_of.dilations)
    )
    fitted = declare(fit(op, full, place_of.begin, x), ["?", 1, *dimensions(x)[2:]])
    return op.reshape_like(fitted, x)


def _as_average(
    op: Emitter, node: NodeView, g: Value, place_of: Windows, share: float | Value
) -> Value | None:
    """Of windows one step apart: the means over the windows that hold an element, in the layout of convolutions.

    None where onnxruntime's pools are slow: beyond float32 images of whole blocks of channels.
    """
    begin, dense = place_of.static_begin, {*place_of.strides, *place_of.dilations} == {1}
    if begin is None or not dense or not fits_blocks(g):
        return None
    pads = stride_one_pads(node, begin, place_of.extent)
    if (
        pads is None or min(pads) < 0 or pads[: len(begin)] != pads[len(begin) :]
    ):  # CUDA's kernel takes no others
        return None
    count = math.prod(place_of.kernel)
    g = _times(
        op, g, share * count if isinstance(share, float) else op("Mul", share, op.like(share, count)), node.z
    )
    made = op("AveragePool", g, kernel_shape=list(place_of.kernel), pads=pads, count_include_pad=1)
    return declare(made, dimensions(node.input(0)))


def _times(op: Emitter, g: Value, share: float | Value, z: Value) -> Value:
    """`g` times a number for each window or one for all, which may be 1."""
    if isinstance(share, float):
        if math.isclose(share, 1):
            return g
        share = op.like(g, share)
    return declare(op("Mul", g, share), dimensions(z))


def _tiled(op: Emitter, share: Value, x: Value, z: Value, kernel: tuple[int, ...]) -> Value:
    """Windows that lie side by side: each share is repeated over its window."""
    rank = len(kernel)
    inner = [d * k if isinstance(d, int) else "?" for d, k in zip(dimensions(z)[2:], kernel, strict=True)]
    if rank == 2 and element_type(share) == np.float32 and op.graph.opset >= 13:
        whole = repeated(op, share, kernel)
        declare(whole, [*dimensions(z)[:2], *inner])
        return place(op, whole, x, whole, {})
    apart = op("Unsqueeze", share, op.ints(range(3, 3 + 2 * rank, 2)))
    parts = [op.dims(z, 0, 2)]
    for axis, size in enumerate(kernel, start=2):
        parts += [op.dims(z, axis, axis + 1), op.ints([size])]
    repeats = op("Expand", apart, op("Concat", *parts, axis=0))
    sides = op("Mul", op.dims(z, 2), op.ints(kernel))
    whole = op("Reshape", repeats, op("Concat", op.dims(z, 0, 2), sides, axis=0), allowzero=1)
    declare(whole, [*dimensions(z)[:2], *inner])
    return place(op, whole, x, whole, {})


@vjp("LpPool")
def lp_pool(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, p = node.input(0), node.attribute("p", 2)
    share = op("Mul", g, _power(op, node.z, 1 - p))
    place_of = windows(op, node, node.attribute("kernel_shape"), x, node.z)
    return (op("Mul", spread(op, node, share, place_of), _slope(op, x, p)),)


@vjp("GlobalLpPool")
def global_lp_pool(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, p = node.input(0), node.attribute("p", 2)
    return (op("Mul", op("Mul", g, _power(op, node.z, 1 - p)), _slope(op, x, p)),)


def _power(op: Emitter, z: Value, exponent: int) -> Value:
    """`z` to a power that is not positive; 0 to it counts as 0."""
    is_zero = op("Equal", z, op.like(z, 0))
    raised = op("Pow", op("Where", is_zero, op.like(z, 1), z), op.like(z, exponent))
    return op("Where", is_zero, op.like(z, 0), raised)


def _slope(op: Emitter, x: Value, p: int) -> Value:
    """|x|^(p - 1) times the sign of x."""
    if p == 1:
        return op("Sign", x)
    return x if p == 2 else op("Mul", op("Sign", x), op("Pow", op("Abs", x), op.like(x, p - 1)))


@secant("LpPool")
def lp_pool_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """The root by its secant, spread over the window, times the secant of |x|^p."""
    x, y, z, w = node.input(0), reference.input(0), node.z, reference.z
    p = node.attribute("p", 2)
    share = op("Mul", g, _power_slope(op, (z, w), (_raised(op, z, p), _raised(op, w, p)), root=True, p=p))
    place_of = windows(op, node, node.attribute("kernel_shape"), x, z)
    slope = _power_slope(op, (x, y), (_raised(op, x, p), _raised(op, y, p)), root=False, p=p)
    return (op("Mul", spread(op, node, share, place_of), slope),)


def _power_slope(
    op: Emitter, ends: tuple[Value, Value], powers: tuple[Value, Value], *, root: bool, p: int
) -> Value:
    """The slope of the p-th power of |ends| between the two, or of its root; where nothing changes, that there."""
    if p == 2:
        total = op("Add", *ends)
        return (
            total
            if not root
            else quotient(op, op.like(total, 1), total, op("Equal", total, 0), op.like(total, 0))
        )
    changes = [op("Sub", *pair) for pair in (ends, powers)]
    change, d = changes if root else changes[::-1]
    here, nothing = ends[0], op.like(ends[0], 0)
    local = op("Mul", op("Sign", here), op("Pow", op("Abs", here), op.like(here, p - 1)))
    local = op("Mul", local, op.like(here, p))
    if root:
        local = quotient(op, op.like(local, 1), local, op("Equal", local, nothing), nothing)
    return quotient(op, change, d, op("Equal", d, nothing), local)


@decomposed("GlobalLpPool")
def global_lp_pool_decomposed(op: Emitter, node: NodeView) -> Value:
    x, p = node.input(0), node.attribute("p", 2)
    powers = _raised(op, x, p)
    shape = [*dimensions(x)[:2], *[1] * (rank_of(x) - 2)]
    total = declare(op("ReduceSum", powers, op.ints(range(2, rank_of(x))), keepdims=1), shape)
    return _root(op, total, p)


def _raised(op: Emitter, x: Value, p: int) -> Value:
    if p == 2:
        return op("Mul", x, x)
    return op("Abs", x) if p == 1 else op("Pow", op("Abs", x), op.like(x, p))


def _root(op: Emitter, x: Value, p: int) -> Value:
    if p == 2:
        return op("Sqrt", x)
    return x if p == 1 else op("Pow", x, op.like(x, 1 / p))
