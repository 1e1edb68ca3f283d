"""What a sample of an input is: where samples lie is what was proven of the model, and never guessed from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli.files import Rows
from onnx_attribution.values import Array, BatchMode, TensorInfo

Parts = Mapping[str, Sequence[Array]]


def taken(
    arrays: Mapping[str, Array], infos: Mapping[str, TensorInfo], batch: BatchMode | None, rows: Rows
) -> dict[str, Array]:
    """The rows of the inputs that have some. Raises: InvalidArgument: none of them is left, or no input has any."""
    if rows is None:
        return dict(arrays)
    axes = {name: infos[name].sample_axis(array.shape, batch) for name, array in arrays.items()}
    if arrays and all(axis is None for axis in axes.values()):
        names = ", ".join(map(repr, arrays))
        raise InvalidArgument(
            f"--rows: no axis of {names} is known to hold samples; FILE[0:4] takes rows of a file's first axis, and "
            "--batch-axis NAME=AXIS states which axis is the batch"
        )
    return {
        name: array if axes[name] is None else _rows(name, array, axes[name] or 0, rows)
        for name, array in arrays.items()
    }


def _rows(name: str, array: Array, axis: int, rows: slice) -> Array:
    chosen = range(array.shape[axis])[rows]
    if not chosen:
        raise InvalidArgument(f"input {name!r} has {array.shape[axis]} rows; --rows leaves none of them")
    found: Array = np.take(array, list(chosen), axis=axis)
    return found


def count_of(arrays: Mapping[str, Array], infos: Sequence[TensorInfo], batch: BatchMode | None) -> int:
    """How many samples the inputs hold."""
    axes = [(arrays[x.name], x.sample_axis(arrays[x.name].shape, batch)) for x in infos if x.name in arrays]
    return max((int(array.shape[axis]) for array, axis in axes if axis is not None), default=1)


def examples(parts: Parts, infos: Mapping[str, TensorInfo]) -> Iterator[dict[str, Array]]:
    """What a file may be tried with before anything is known of its batch: its inputs whole, then cut to one row.

    Only a first axis without a fixed size is cut, and only after the whole has failed.
    """
    whole = {name: _of_rank(given[0], infos[name]) for name, given in parts.items() if given}
    if not whole:
        return
    yield whole
    cut = {name: a[:1] if a.ndim and _is_open(infos[name]) else a for name, a in whole.items()}
    if any(cut[name].shape != a.shape for name, a in whole.items()):
        yield cut


def _of_rank(array: Array, info: TensorInfo) -> Array:
    """The array, or a part of it, in the rank that the file declares; one row where the file has room for one."""
    rank = len(info.shape or ())
    if array.ndim == rank - 1:
        return array[None]
    if array.ndim == rank + 1 and len(array):
        return np.asarray(array[0])
    has_room_for_one = array.ndim == rank > 0 and (info.shape or ())[0] == 1
    return array[:1] if has_room_for_one else array


def _is_open(info: TensorInfo) -> bool:
    first = (info.shape or (1,))[0]
    return not isinstance(first, int) or first < 1
