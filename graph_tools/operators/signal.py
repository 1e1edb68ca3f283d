"""Fourier transforms: the gradient of a transform is the opposite transform.

Letters: `n` points come in, `l` are transformed (cropped, or filled with zeros), real and imaginary part are the last
axis.
"""

from __future__ import annotations

import numpy as np

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, vjp
from onnx_attribution.graph_tools.operators.transpose import (
    add_at,
    convert,
    declare,
    dimensions,
    known,
    rank_of,
)

OLD = 20  # since then the axis is an input
AXES = 18  # since then Pad takes axes


@vjp("DFT", linear=[{0}])
def dft(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, length = node.input(0), node.optional(1)
    axis, rank = _axis(op, node), rank_of(x)
    points, bins = _count(op, x, axis), _count(op, g, axis)
    inverse, onesided = bool(node.attribute("inverse", 0)), bool(node.attribute("onesided", 0))
    full = op("Reshape", length, op.ints([1])) if length is not None else points
    if inverse and onesided:  # half a spectrum of a real signal: its other half counts as well
        _check_half(node, axis)
        spectrum = _transform(op, g, axis, inverse=False, onesided=True)
        weight = _twice_but_ends(op, _count(op, spectrum, axis), bins, g)
        scaled = op("Div", _along(op, weight, axis, x), convert(op, bins, g))
        return (_fitted(op, op("Mul", spectrum, scaled), axis, points, rank),)
    wide = _fitted(op, g, axis, full, rank) if onesided else g
    back = _transform(op, wide, axis, inverse=not inverse)
    scale = convert(op, full, g)
    sized = op("Div", back, scale) if inverse else op("Mul", back, scale)
    return (_parts(op, _fitted(op, sized, axis, points, rank), x),)


@vjp("STFT", linear=[{0}, {2}], bilinear=True)
def stft(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """Frames of the signal, times the window, transformed. A real signal may lack the axis of its parts."""
    signal, step, window, length = node.input(0), node.input(1), node.optional(2), node.optional(3)
    x = signal
    if rank_of(signal) == 2:
        x = declare(op("Unsqueeze", signal, op.ints([2])), [*dimensions(signal), 1])
    if window is not None:
        size = op.dims(window, 0, 1)
    else:
        assert length is not None
        size = op("Reshape", length, op.ints([1]))
    axis: Value = op.constant(np.int64(2))
    wide = _fitted(op, g, axis, size, 4) if node.attribute("onesided", 1) else g
    back = op("Mul", _transform(op, wide, axis, inverse=True), convert(op, size, g))
    frames = _parts(op, back, x)  # [batch, frame, point, part]
    starts = op("Mul", _range(op, op.dims(g, 1, 2)), convert(op, step, op.ints([0])))
    places = op("Add", op("Unsqueeze", starts, op.ints([1])), _range(op, size))
    dwindow = None
    if window is not None and node.active[2]:
        read = op("Mul", op("Gather", x, places, axis=1), frames)
        dwindow = op("ReduceSum", read, op.ints([0, 1, 3]), keepdims=0)
    if not node.active[0]:
        return None, None, dwindow
    if window is not None:
        frames = op("Mul", frames, op("Unsqueeze", window, op.ints([1])))
    updates = op("Reshape", frames, op("Concat", op.dims(x, 0, 1), op.ints([-1]), op.dims(x, 2, 3), axis=0))
    index = op("Reshape", places, op.ints([1, -1, 1]))
    dx = add_at(op, op.zeros_like(x), op("Expand", index, op("Shape", updates)), updates, 1)
    return op.reshape_like(dx, signal), None, dwindow


def _axis(op: Emitter, node: NodeView) -> Value:
    """The transformed axis as an int64 scalar."""
    if node.opset < OLD:
        return op.constant(np.int64(node.attribute("axis", 1)))
    axis = node.optional(2)
    number = known(axis)
    if axis is None or number is not None:
        return op.constant(np.int64(-2 if number is None else int(number.reshape(()))))
    return op("Reshape", convert(op, axis, op.ints([0])), op.ints([]))


def _check_half(node: NodeView, axis: Value) -> None:
    """onnxruntime neither crops nor fills half a spectrum as the standard says."""
    place, length = known(axis), known(node.optional(1))
    if place is None or length is None:
        return
    bins, points = dimensions(node.input(0))[int(place)], int(length.reshape(()))
    if isinstance(bins, int) and points // 2 + 1 != bins:
        raise NotDifferentiable(
            f"no gradient rule for an inverse DFT (node {node.name!r}) of {bins} bins to {points} points",
            reason=Reason.FORM_WITHOUT_RULE, node=node.name, operator="DFT", tensor=node.z.name,
        )  # fmt: skip


def _count(op: Emitter, value: Value, axis: Value) -> Value:
    """The size of an axis as a vector of one element."""
    return op("Reshape", op("Gather", op("Shape", value), axis), op.ints([1]))


def _range(op: Emitter, count: Value) -> Value:
    return op("Range", op.constant(np.int64(0)), op("Reshape", count, op.ints([])), op.constant(np.int64(1)))


def _transform(op: Emitter, x: Value, axis: Value, inverse: bool, onesided: bool = False) -> Value:
    flags = {"inverse": int(inverse), "onesided": int(onesided)}
    if op.graph.opset < OLD:
        return op("DFT", x, axis=int(np.asarray(axis.values)), **flags)
    return op("DFT", x, None, axis, **flags)


def _fitted(op: Emitter, x: Value, axis: Value, size: Value, rank: int) -> Value:
    """`x` with zeros at the end of an axis, or cropped there."""
    more = op("Sub", size, _count(op, x, axis))
    if op.graph.opset >= AXES:
        return op("Pad", x, op("Concat", op.ints([0]), more, axis=0), None, op("Reshape", axis, op.ints([1])))
    place = int(np.asarray(axis.values)) % rank
    begin = op.ints([0] * (rank + place))
    return op("Pad", x, op("Concat", begin, more, op.ints([0] * (rank - 1 - place)), axis=0))


def _parts(op: Emitter, z: Value, x: Value) -> Value:
    """The real part only, where `x` is real."""
    last = rank_of(x) - 1
    return op("Slice", z, op.ints([0]), op.dims(x, last, last + 1), op.ints([-1]))


def _twice_but_ends(op: Emitter, bins: Value, length: Value, like: Value) -> Value:
    """2 for every bin that stands for two, 1 for the first and, of an even length, for the last."""
    number = _range(op, bins)
    double = op("Mul", number, op.constant(np.int64(2)))
    alone = op("Or", op("Equal", number, op.constant(np.int64(0))), op("Equal", double, length))
    return op("Where", alone, op.like(like, 1), op.like(like, 2))


def _along(op: Emitter, vector: Value, axis: Value, like: Value) -> Value:
    """A vector as a tensor of the rank of `like` that varies along an axis."""
    rank = rank_of(like)
    place = op("Mod", op("Add", axis, op.constant(np.int64(rank))), op.constant(np.int64(rank)))
    is_axis = op("Equal", op.ints(range(rank)), place)
    return op("Reshape", vector, op("Where", is_axis, op.ints([-1]), op.ints([1])))
