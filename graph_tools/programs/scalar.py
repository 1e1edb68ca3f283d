"""The scalar that a program explains of each row of a tensor: fixed in it, or given with the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_half, shape_of
from onnx_attribution.graph_tools.network import Network, RowAxis

Part = int | slice
FAR = 1 << 62


@dataclass(frozen=True)
class Scalar:
    """What is explained of each row: elements of a tensor, or a weighted sum of them.

    `plus` and `minus` hold an index or slice for each axis of a row, or weights of its shape; without `plus` each row
    is given its own: weights, or `by_index` the index of an element. `sign` is that of the whole; the mean over
    `centred`, an axis of `[rows, *unit]`, is taken off.
    """

    tensor: str
    plus: tuple[Part, ...] | NDArray[Any] | None
    minus: tuple[Part, ...] | NDArray[Any] | None = None
    sign: int = 1
    centred: int | None = None
    by_index: bool = False

    @property
    def is_given(self) -> bool:
        """Whether each row is given its own."""
        return self.plus is None


def row_axis(network: Network, name: str, dims: Sequence[int | str | None]) -> RowAxis | None:
    """Where the rows of a tensor of these dimensions lie; a first axis of size 1 is that of a row alone."""
    found = network.rows.get(name) or network.places.get(name)
    first = network.unit_shapes.get(name, tuple(dims))
    return found or (RowAxis(0) if len(dims) > 1 and first[:1] == (1,) else None)


def value_of(
    op: Emitter,
    own: Value,
    target: Scalar,
    place: RowAxis | None,
    rows: int | str | None,
    given: Value | None = None,
) -> Value:
    """The scalar of each row of the tensor `own`: `[rows]`, of half types as float32.

    `given` are the weights of the elements, laid out as the tensor, or the indices `[rows]` or `[rows, axes]`; an index
    that is not there ends the run.
    """
    z = rows_first(op, op.cast(own, np.float32) if is_half(own) else own, place, rows)
    if target.centred is not None:
        axis = target.centred % len(z.shape)
        mean = op("ReduceMean", z, op.ints([axis]), keepdims=1)
        mean.shape = [1 if k == axis else d for k, d in enumerate(z.shape)]
        z = op("Sub", z, mean)
    if target.plus is not None:
        value = _selected(op, z, target.plus)
    elif given is None:
        raise ValueError("each row has a target of its own, and none is given")
    elif target.by_index:
        value = _indexed(op, z, given)
    else:
        value = _weighted(op, z, rows_first(op, op.cast(given, z.dtype), place, rows))
    if target.minus is not None:
        value = op("Sub", value, _selected(op, z, target.minus))
    return op("Neg", value) if target.sign < 0 else value


def _indexed(op: Emitter, z: Value, index: Value) -> Value:
    """One element of each row."""
    places = op("Reshape", index, op.ints([0, len(z.shape) - 1]))
    places.shape = [z.shape[0], len(z.shape) - 1]
    found = op("GatherND", z, places, batch_dims=1)
    found.shape = [z.shape[0]]
    return found


def rows_first(op: Emitter, z: Value, place: RowAxis | None, rows: int | str | None) -> Value:
    """The tensor as `[rows, *unit]`."""
    dims = list(shape_of(z) or ())
    if place is None:
        front = op("Unsqueeze", z, op.ints([0]))
        front.shape = [1, *dims]
        return front
    if place.axis:
        order = [place.axis, *(k for k in range(len(dims)) if k != place.axis)]
        z, dims = op("Transpose", z, perm=order), [dims[k] for k in order]
        z.shape = dims
    if place.factor != 1:
        sizes = op("Concat", op.ints([-1, place.factor]), op.dims(z, 1), axis=0)
        sizes.shape = [len(dims) + 1]
        z = op("Reshape", z, sizes)
        z.shape = [rows, place.factor, *dims[1:]]
    return z


def rows_back(op: Emitter, front: Value, place: RowAxis | None, rank: int) -> Value:
    """The inverse of `rows_first`, for a tensor of so many axes."""
    dims = list(front.shape)
    if place is None:
        own = op("Squeeze", front, op.ints([0]))
        own.shape = dims[1:]
        return own
    if place.factor != 1:
        sizes = op("Concat", op.ints([-1]), op.dims(front, 2), axis=0)
        sizes.shape = [len(dims) - 1]
        front = op("Reshape", front, sizes)
        dims = [None, *dims[2:]]
        front.shape = dims
    if place.axis:
        order = [*range(1, place.axis + 1), 0, *range(place.axis + 1, rank)]
        front, dims = op("Transpose", front, perm=order), [dims[k] for k in order]
        front.shape = dims
    return front


def _selected(op: Emitter, z: Value, chosen: tuple[Part, ...] | NDArray[Any]) -> Value:
    """The sum of some elements of each row, which is `[rows, *unit]`."""
    if isinstance(chosen, np.ndarray):
        return _weighted(op, z, op.constant(chosen[None], z.dtype))
    for axis, part in enumerate(chosen, 1):
        if isinstance(part, slice):
            step = part.step or 1
            ends = (0, FAR) if step > 0 else (FAR, -FAR)
            given = [
                end if own is None else own for own, end in zip((part.start, part.stop), ends, strict=True)
            ]
            made = op("Slice", z, *(op.ints([k]) for k in (*given, axis, step)))
        else:
            made = op("Gather", z, op.ints([part]), axis=axis)  # one that is not there ends the run
        made.shape = [
            (None if isinstance(part, slice) else 1) if k == axis else d for k, d in enumerate(z.shape)
        ]
        z = made
    return _sum(op, z)


def _weighted(op: Emitter, z: Value, weight: Value) -> Value:
    """The weighted sum of each row; elements of weight 0 may hold anything, infinities too."""
    zero = op.like(z, 0)
    return _sum(op, op("Where", op("Equal", weight, zero), zero, op("Mul", z, weight)))


def _sum(op: Emitter, z: Value) -> Value:
    """The sum of each row."""
    if len(z.shape) == 1:
        return z
    total = op("ReduceSum", z, op.ints(range(1, len(z.shape))), keepdims=0)
    total.shape = [z.shape[0]]
    return total
