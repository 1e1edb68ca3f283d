"""Arrays by their names, and functions of them: what metrics take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.values import Array, TensorInfo

Floats = NDArray[np.float64]
Inputs = Mapping[str, Array]
"""The model's inputs, each with its samples."""
Maps = Mapping[str, Floats]
"""By source, attributions `[samples, *unit]`."""
Explain = Callable[[Inputs], Maps]
Forward = Callable[[Inputs], Floats]
"""From inputs to the explained number of each sample."""


def from_json(values: Sequence[float | None]) -> Floats:
    """Numbers as an array: null, which JSON has in place of what is not finite, is NaN."""
    return np.array([math.nan if value is None else value for value in values], np.float64)


def sample_axes(
    arrays: Mapping[str, Array], infos: Sequence[TensorInfo], batch: Any
) -> tuple[dict[str, int | None], int]:
    """The axis of the samples of each input, and how many there are; an input of one is shared by all."""
    axes: dict[str, int | None] = {
        one.name: one.sample_axis(arrays[one.name].shape, batch) for one in infos if one.name in arrays
    }
    sizes = {name: arrays[name].shape[axis] for name, axis in axes.items() if axis is not None}
    count = max(sizes.values(), default=1)
    return {name: axis if sizes.get(name, 1) == count else None for name, axis in axes.items()}, count


def taken(arrays: Mapping[str, Array], axes: Mapping[str, int | None], numbers: range) -> dict[str, Array]:
    """Some of the samples."""
    return {
        name: array if (axis := axes.get(name)) is None else np.take(array, list(numbers), axis=axis)
        for name, array in arrays.items()
    }


def index_of(place: Sequence[int]) -> int | tuple[int, ...]:
    """The index of a target, of a place in its tensor."""
    return place[0] if len(place) == 1 else tuple(place)
