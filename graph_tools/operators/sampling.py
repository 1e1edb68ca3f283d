"""Interpolation at computed places: GridSample and deformable convolution.

What is read between the pixels is a sum over taps: per axis T pixels near the coordinate (1 nearest, 2 linear, 4 cubic)
with weights that depend on it. The gradient of the image adds each tap's share where it was read; that of a coordinate
multiplies what was read by the slope of the weights.

Letters: `B` images of `C` channels, `Q` places in each, `D` axes, `T` taps along an axis, `K = T ** D` in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, decomposed, vjp
from onnx_attribution.graph_tools.operators.transpose import (
    accumulable,
    add_at,
    convert,
    declare,
    dimensions,
    rank_of,
)

CUBIC = -0.75  # the constant of Keys' cubic convolution that ONNX fixes for GridSample
OFFSETS = {"nearest": [0], "linear": [0, 1], "cubic": [-1, 0, 1, 2]}
PIXELS = "ijk"
MODES = {"bilinear": "linear", "bicubic": "cubic"}  # the names before opset 20


@dataclass(frozen=True)
class Taps:
    """Along one axis, each `[B, Q, T]`: the pixel (int64), its weight, and the slope of the weight."""

    index: Value
    weight: Value
    slope: Value


@dataclass(frozen=True)
class Read:
    """An image `[B, C, ...]` and where it is read."""

    op: Emitter
    image: Value
    taps: Sequence[Taps]

    def image_gradient(self, g: Value) -> Value:
        """The gradient of the image for that of the samples, `[B, C, Q]`."""
        op = self.op
        shares = op("Mul", op("Unsqueeze", g, op.ints([3])), self._weights())
        updates = accumulable(op, op("Reshape", shares, op.ints([0, 0, -1])))
        blank = convert(op, op("Reshape", op.zeros_like(self.image), op.ints([0, 0, -1])), updates)
        places = op("Expand", self._places(), op("Shape", updates))
        total = op.reshape_like(add_at(op, blank, places, updates, 2), self.image)
        return convert(op, total, self.image)

    def samples(self, like: Value) -> Value:
        """What is read, in the shape of `like`, `[B, C, Q]`."""
        read = self.op("Mul", self._pixels(like), self._weights())
        return self.op("ReduceSum", read, self.op.ints([3]), keepdims=0)

    def coordinate_gradients(self, g: Value) -> list[Value]:
        """Per axis the gradient of the coordinates, `[B, Q]`, for that of the samples, `[B, C, Q]`."""
        op = self.op
        read = op("Mul", self._pixels(g), op("Unsqueeze", g, op.ints([3])))
        summed = op("ReduceSum", read, op.ints([1]), keepdims=0)
        found: list[Value] = []
        for axis in range(len(self.taps)):
            slopes = self._joint([t.slope if k == axis else t.weight for k, t in enumerate(self.taps)])
            found.append(op("ReduceSum", op("Mul", summed, slopes), op.ints([2]), keepdims=0))
        return found

    def _apart(self, value: Value, axis: int) -> Value:
        """`[B, Q, T]` with a tap axis of its own for each axis of the image."""
        others = [2 + k for k in range(len(self.taps)) if k != axis]
        return self.op("Unsqueeze", value, self.op.ints(others)) if others else value

    def _joint(self, factors: Sequence[Value]) -> Value:
        """The product `[B, Q, K]` of one factor per axis."""
        product = self._apart(factors[0], 0)
        for axis, factor in enumerate(factors[1:], start=1):
            product = self.op("Mul", product, self._apart(factor, axis))
        return self.op("Reshape", product, self.op.ints([0, 0, -1]))

    def _weights(self) -> Value:
        """The weight of every tap, `[B, 1, Q, K]`."""
        return self.op("Unsqueeze", self._joint([t.weight for t in self.taps]), self.op.ints([1]))

    def _places(self) -> Value:
        """The flat position of every tap in the image, `[B, 1, Q * K]`."""
        op = self.op
        place = self._apart(self.taps[0].index, 0)
        for axis, taps in enumerate(self.taps[1:], start=1):
            scaled = op("Mul", place, op.dims(self.image, 2 + axis, 3 + axis))
            place = op("Add", scaled, self._apart(taps.index, axis))
        return op("Unsqueeze", op("Reshape", place, op.ints([0, -1])), op.ints([1]))

    def _pixels(self, like: Value) -> Value:
        """The pixels at all taps, `[B, C, Q, K]`, for samples in the shape of `like`."""
        op = self.op
        places = self._places()
        shape = op("Concat", op.dims(self.image, 0, 2), op.dims(places, 2), axis=0)
        rows = op("Reshape", self.image, op.ints([0, 0, -1]))
        read = op("GatherElements", rows, op("Expand", places, shape), axis=2)
        return op("Reshape", read, op("Concat", op("Shape", like), op.ints([-1]), axis=0))


@dataclass(frozen=True)
class Edge:
    """What happens outside of an axis of `size` pixels (a float): `padding` beyond `low` and `high`."""

    padding: str
    size: Value
    low: Value
    high: Value

    def mapped(self, op: Emitter, x: Value) -> tuple[Value, Value | None]:
        """Coordinates brought inside, and the slope of that; None for 1."""
        if self.padding == "zeros":
            return x, None
        outside = op("Or", op("Less", x, self.low), op("Greater", x, self.high))
        if self.padding == "border":
            moved, slope = self.clamped(op, x), op.like(x, 0)
        else:
            moved, slope = self._reflected(op, x)
        return op("Where", outside, moved, x), op("Where", outside, slope, op.like(x, 1))

    def clamped(self, op: Emitter, x: Value) -> Value:
        """The nearest pixel's coordinate for what is outside."""
        last = op("Sub", self.size, op.like(x, 1))
        return op("Min", op("Max", x, op.like(x, 0)), last)

    def _reflected(self, op: Emitter, x: Value) -> tuple[Value, Value]:
        span = op("Max", op("Sub", self.high, self.low), op.like(x, 1e-6))
        beyond = op("Sub", x, self.low)
        distance = op("Abs", beyond)
        turns = op("Floor", op("Div", distance, span))
        rest = op("Sub", distance, op("Mul", turns, span))
        back = op("Greater", op("Mod", turns, op.like(x, 2), fmod=1), op.like(x, 0.5))
        moved = op("Where", back, op("Sub", self.high, rest), op("Add", self.low, rest))
        return moved, op("Where", back, op("Neg", op("Sign", beyond)), op("Sign", beyond))


def taps_at(op: Emitter, x: Value, mode: str, edge: Edge) -> Taps:
    """The taps for coordinates `x`, `[B, Q]`."""
    offsets = op.constant(np.asarray(OFFSETS[mode]), dtype=x.dtype)
    base = x if mode == "nearest" else op("Floor", x)
    rest = op("Unsqueeze", op("Sub", x, base), op.ints([2]))
    at = op("Add", op("Unsqueeze", base, op.ints([2])), offsets)
    weight, slope = _kernel(op, op("Sub", rest, offsets), mode)
    if edge.padding == "zeros":
        last = op("Sub", edge.size, op.like(x, 1))
        outside = op("Or", op("Less", at, op.like(x, 0)), op("Greater", at, last))
        weight, slope = (op("Where", outside, op.like(x, 0), v) for v in (weight, slope))
    elif edge.padding == "reflection":
        at = edge.mapped(op, at)[0]
    return Taps(op("Cast", edge.clamped(op, at), to=7), weight, slope)


def _kernel(op: Emitter, distance: Value, mode: str) -> tuple[Value, Value]:
    """Weight and slope of a tap at a signed distance from the coordinate."""
    one, near = op.like(distance, 1), op("Abs", distance)
    side = op("Sign", distance)
    if mode == "nearest":
        return op("Add", op("Mul", distance, op.like(distance, 0)), one), op(
            "Mul", distance, op.like(distance, 0)
        )
    if mode == "linear":  # at a pixel the slope is that to its right, as Floor has it
        right = op("GreaterOrEqual", distance, op.like(distance, 0))
        return op("Sub", one, near), op("Where", right, op.like(distance, -1), one)
    inner = _polynomial(op, near, [CUBIC + 2, -(CUBIC + 3), 0, 1])
    outer = _polynomial(op, near, [CUBIC, -5 * CUBIC, 8 * CUBIC, -4 * CUBIC])
    inner_slope = _polynomial(op, near, [3 * (CUBIC + 2), -2 * (CUBIC + 3), 0])
    outer_slope = _polynomial(op, near, [3 * CUBIC, -10 * CUBIC, 8 * CUBIC])
    is_inner = op("LessOrEqual", near, one)
    slope = op("Mul", op("Where", is_inner, inner_slope, outer_slope), side)
    return op("Where", is_inner, inner, outer), slope


def _polynomial(op: Emitter, x: Value, coefficients: Sequence[float]) -> Value:
    """Horner's scheme, highest power first."""
    total: Value = op.like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = op("Add", op("Mul", total, x), op.like(x, coefficient))
    return total


@vjp("GridSample", linear=[{0}])
def grid_sample(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, grid = node.input(0), node.input(1)
    axes, mode = rank_of(x) - 2, mode_of(node)
    columns = op("Reshape", grid, op.ints([0, -1, axes]))
    taps: list[Taps] = []
    slopes: list[list[Value | None]] = []
    for axis in range(axes):
        at, edge, stretch = at_pixels(op, node, columns, axis)
        if mode == "nearest":
            at = op("Round", at)
        # onnxruntime clamps the pixels of a cubic kernel, not its centre
        at, slope = (at, None) if (mode, edge.padding) == ("cubic", "border") else edge.mapped(op, at)
        taps.append(taps_at(op, at, mode, edge))
        slopes.append([stretch, slope])
    read = Read(op, x, [Taps(t.index, convert(op, t.weight, x), convert(op, t.slope, x)) for t in taps])
    flat = op("Reshape", g, op.ints([0, 0, -1]))
    dx = read.image_gradient(flat) if node.active[0] else None
    if not node.active[1]:
        return dx, None
    parts: list[Value] = []
    for part, factors in zip(read.coordinate_gradients(flat), slopes, strict=True):
        total = convert(op, part, grid)
        for factor in factors:
            total = total if factor is None else op("Mul", total, factor)
        parts.append(op("Unsqueeze", total, op.ints([2])))
    return dx, op.reshape_like(op("Concat", *parts[::-1], axis=2), grid)


@decomposed("GridSample", when=lambda node: node.active[1] and mode_of(node) != "cubic")
def grid_sample_decomposed(op: Emitter, node: NodeView) -> Value:
    """Per axis every pixel i has the weight max(0, 1 - |u - i|) at the coordinate u; products of these read the image.

    Letters: `b` images of `c` channels, `q` places in each, pixels `i`, `j`, `k` along the axes.
    """
    x, grid = node.input(0), node.input(1)
    axes = rank_of(x) - 2
    sizes_of_places = dimensions(grid)[1:-1]  # equal names are equal sizes to onnxruntime
    places = "?" if "?" in sizes_of_places else "*".join(map(str, sizes_of_places))
    columns = declare(op("Reshape", grid, op.ints([0, -1, axes])), [dimensions(x)[0], places, axes])
    read, letters = x, "bc" + PIXELS[:axes]
    for axis in range(axes):
        at, edge, _ = at_pixels(op, node, columns, axis)
        if mode_of(node) == "nearest":
            at = op("Round", at)
        if edge.padding == "reflection":
            at = edge.mapped(op, at)[0]
        if edge.padding != "zeros":
            at = edge.clamped(op, at)
        size = dimensions(x)[2 + axis]
        stop = op("Reshape", op.dims(x, 2 + axis, 3 + axis), op.ints([]))
        pixel = op("Range", op.constant(np.int64(0)), stop, op.constant(np.int64(1)))
        numbers = convert(op, declare(pixel, [size]), grid)
        apart = op("Unsqueeze", declare(at, [dimensions(x)[0], places]), op.ints([2]))
        distance = op("Abs", declare(op("Sub", apart, numbers), [dimensions(x)[0], places, size]))
        weight = convert(op, op("Relu", op("Sub", op.like(distance, 1), distance)), x)
        left = "bqc" + PIXELS[axis + 1 : axes]
        sizes = dict(zip("bcijk", dimensions(x), strict=False)) | {"q": places}
        read = op("Einsum", weight, read, equation=f"bq{PIXELS[axis]},{letters}->{left}")
        read, letters = declare(read, [sizes[c] for c in left]), left
    turned = declare(op("Transpose", read, perm=[0, 2, 1]), [*dimensions(x)[:2], places])
    return op.reshape_like(turned, node.z)


def mode_of(node: NodeView) -> str:
    """nearest, linear or cubic."""
    mode = _text(node.attribute("mode", "linear"))
    return MODES.get(mode, mode)


def at_pixels(op: Emitter, node: NodeView, columns: Value, axis: int) -> tuple[Value, Edge, Value]:
    """Along an axis of the image: the coordinates `[B, Q]` in pixels, what lies outside, and how many pixels 1 is.

    `columns`, `[B, Q, D]`, is the grid, whose last column belongs to the first axis.
    """
    x, grid = node.input(0), node.input(1)
    aligned = bool(node.attribute("align_corners", 0))
    given = op("Gather", columns, op.constant(np.int64(rank_of(x) - 3 - axis)), axis=2)
    size = convert(op, op.dims(x, 2 + axis, 3 + axis), grid)
    at, stretch = _in_pixels(op, given, size, aligned)
    padding = _text(node.attribute("padding_mode", "zeros"))
    return at, Edge(padding, size, *_ends(op, size, aligned)), stretch


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _in_pixels(op: Emitter, x: Value, size: Value, aligned: bool) -> tuple[Value, Value]:
    """Coordinates between -1 and 1 as pixels, and how many pixels 1 is."""
    half = op.like(x, 0.5)
    if aligned:
        stretch = op("Mul", op("Sub", size, op.like(x, 1)), half)
        return op("Mul", op("Add", x, op.like(x, 1)), stretch), stretch
    stretch = op("Mul", size, half)
    return op("Sub", op("Mul", op("Add", x, op.like(x, 1)), stretch), half), stretch


def _ends(op: Emitter, size: Value, aligned: bool) -> tuple[Value, Value]:
    """The centres of the outer pixels, or their outer borders."""
    low = 0.0 if aligned else -0.5
    return op.like(size, low), op("Sub", size, op.like(size, 1 + low))


@vjp("DeformConv", linear=[{0, 3}, {1, 3}, {3, 4}])
def deform_conv(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """As torchvision's: columns read at shifted places, zeros outside, then a matrix product per group.

    Two axes, as onnxruntime has it.
    """
    x, w, offset, mask = node.input(0), node.input(1), node.input(2), node.optional(4)
    groups, shared = node.attribute("group", 1), node.attribute("offset_group", 1)
    kernel = op.dims(w, 2, 4)
    count = op("ReduceProd", kernel, keepdims=1)
    tail = op(
        "Concat", op.ints([-1]), op("Mul", count, op("ReduceProd", op.dims(g, 2, 4), keepdims=1)), axis=0
    )
    shifts = op("Reshape", offset, op("Concat", op.ints([0, shared]), count, op.ints([2, -1]), axis=0))
    taps: list[Taps] = []
    for axis in range(2):
        base = convert(op, _places_of(op, node, g, axis), offset)
        shift = op("Gather", shifts, op.constant(np.int64(axis)), axis=3)
        size = convert(op, op.dims(x, 2 + axis, 3 + axis), offset)
        at = op("Reshape", op("Add", shift, base), tail)
        taps.append(taps_at(op, at, "linear", Edge("zeros", size, size, size)))
    per_image = op("Div", op.dims(x, 1, 2), op.ints([shared]))
    image = op("Reshape", x, op("Concat", op.ints([-1]), per_image, op.dims(x, 2, 4), axis=0))
    read = Read(op, image, taps)
    flat = op("Reshape", g, op.ints([0, groups, -1]))
    flat = op("Reshape", flat, op("Concat", op.dims(g, 0, 1), op.ints([groups]),
              op("Div", op.dims(g, 1, 2), op.ints([groups])), op.ints([-1]), axis=0))  # fmt: skip
    weights = op("Reshape", w, op("Concat", op.ints([groups]), op("Div", op.dims(w, 0, 1), op.ints([groups])),
                 op.ints([-1]), axis=0))  # fmt: skip
    columns = op("MatMul", op("Transpose", weights, perm=[0, 2, 1]), flat)
    split = op("Concat", op.ints([-1]), per_image, op("Slice", tail, op.ints([1]), op.ints([2])), axis=0)
    arrived = op("Reshape", columns, split)
    factor = (
        None
        if mask is None
        else op(
            "Reshape",
            mask,
            op("Concat", op.ints([-1, 1]), op("Slice", tail, op.ints([1]), op.ints([2])), axis=0),
        )
    )
    reached = arrived if factor is None else op("Mul", arrived, factor)
    return [
        op.reshape_like(read.image_gradient(reached), x) if node.active[0] else None,
        _weight_gradient(op, read.samples(arrived), factor, flat, columns, w) if node.active[1] else None,
        _offset_gradient(op, read.coordinate_gradients(reached), shared, count, offset)
        if node.active[2]
        else None,
        op("ReduceSum", g, op.ints([0, 2, 3]), keepdims=0)
        if len(node.active) > 3 and node.active[3]
        else None,
        _mask_gradient(op, arrived, read, mask) if mask is not None and node.active[4] else None,
    ][: len(node.inputs)]


def _weight_gradient(
    op: Emitter, read: Value, factor: Value | None, g: Value, columns: Value, w: Value
) -> Value:
    column = op("Reshape", read if factor is None else op("Mul", read, factor), op("Shape", columns))
    product = op("MatMul", g, op("Transpose", column, perm=[0, 1, 3, 2]))
    return op.reshape_like(op("ReduceSum", product, op.ints([0]), keepdims=0), w)


def _offset_gradient(op: Emitter, parts: Sequence[Value], shared: int, count: Value, offset: Value) -> Value:
    shape = op(
        "Concat",
        op.ints([-1, shared]),
        count,
        op.ints([1]),
        op.dims(offset, 2, 3),
        op.dims(offset, 3, 4),
        axis=0,
    )
    both = op("Concat", *(op("Reshape", part, shape) for part in parts), axis=3)
    return op.reshape_like(both, offset)


def _mask_gradient(op: Emitter, arrived: Value, read: Read, mask: Value) -> Value:
    total = op("ReduceSum", op("Mul", arrived, read.samples(arrived)), op.ints([1]), keepdims=0)
    return op.reshape_like(total, mask)


def _places_of(op: Emitter, node: NodeView, g: Value, axis: int) -> Value:
    """Where the kernel reads along one axis without a shift, `[K, Q]`: begin + step * stride + tap * dilation."""
    strides, dilations = node.attribute("strides") or [1, 1], node.attribute("dilations") or [1, 1]
    pads = node.attribute("pads") or [0, 0, 0, 0]
    w = node.input(1)
    zero, one = op.constant(np.int64(0)), op.constant(np.int64(1))

    def count(value: Value, k: int) -> Value:
        stop = op("Reshape", op.dims(value, k, k + 1), op.ints([]))
        return op("Range", zero, stop, one)

    def along(value: Value, place: int) -> Value:
        return op("Unsqueeze", value, op.ints([k for k in range(4) if k != place]))

    taps = along(op("Mul", count(w, 2 + axis), op.constant(np.int64(dilations[axis]))), axis)
    steps = op("Mul", count(g, 2 + axis), op.constant(np.int64(strides[axis])))
    base = op("Add", taps, along(op("Sub", steps, op.constant(np.int64(pads[axis]))), 2 + axis))
    full = op("Expand", base, op("Concat", op.dims(w, 2, 4), op.dims(g, 2, 4), axis=0))
    return op(
        "Reshape", full, op("Concat", op("ReduceProd", op.dims(w, 2, 4), keepdims=1), op.ints([-1]), axis=0)
    )
