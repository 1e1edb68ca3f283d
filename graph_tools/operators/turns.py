"""Images whose elements take turns along one axis. Samples and channels may be of any number."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, shape_of


def by_turns(op: Emitter, parts: Sequence[Value], axis: int) -> Value:
    """The elements of all parts, of one size, by turns along a spatial axis."""
    if len(parts) == 1:
        return parts[0]
    apart = [op("Unsqueeze", part, op.ints([axis + 1])) for part in parts]
    joined = op("Concat", *apart, axis=axis + 1)
    shape = resized(parts[0], axis, size_along(parts[0], axis) * len(parts))
    made = op("Reshape", joined, op.ints([0, 0, *(int(d) for d in shape[2:] if d is not None)]))
    made.shape = shape
    return made


def cut(op: Emitter, value: Value, axis: int, size: int) -> Value:
    """The first elements along an axis."""
    if size_along(value, axis) == size:
        return value
    made = op("Slice", value, op.ints([0]), op.ints([size]), op.ints([axis]))
    made.shape = resized(value, axis, size)
    return made


def padded(op: Emitter, value: Value, axis: int, before: int, after: int, number: float = 0) -> Value:
    """With more of one number along an axis, or with less of its own elements."""
    if not before and not after:
        return value
    made = op("Pad", value, op.ints([before, after]), op.like(value, number), op.ints([axis]))
    made.shape = resized(value, axis, size_along(value, axis) + before + after)
    return made


def resized(value: Value, axis: int, size: int) -> list[int | str | None]:
    """The shape of a value, with another size of one axis."""
    return [size if k == axis else d for k, d in enumerate(value.shape or [])]


def size_along(value: Value, axis: int) -> int:
    """The size of an axis, which is known."""
    return int((shape_of(value) or ())[axis])
