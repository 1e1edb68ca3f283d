"""Numbers with intervals: the bootstrap over inputs, seeded, and the same inputs for all methods."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.audit.arrays import Floats
from onnx_attribution.client.audit.metrics.metric import Direction

DRAWS, LEVEL = 1000, 0.95
FEWEST = 5
"""Samples below which an interval says nothing: a bootstrap of one has no width, and of few too little."""


@dataclass(frozen=True)
class Interval:
    """The mean of `count` samples, and between which values it lies with probability `level`; NaN with no sample."""

    value: float
    low: float
    high: float
    count: int
    level: float = LEVEL


@dataclass(frozen=True)
class Rank:
    """A place among `of` methods, 1 the best, and the interval of it; methods that are equal share their mean place."""

    place: float
    low: float
    high: float
    of: int


def interval(values: Floats, *, seed: int = 0, draws: int = DRAWS, level: float = LEVEL) -> Interval:
    """The mean of the samples that have a number."""
    kept = np.asarray(values, np.float64)
    kept = kept[np.isfinite(kept)]
    if not kept.size:
        return Interval(math.nan, math.nan, math.nan, 0, level)
    means = kept[_drawn(len(kept), seed, draws)].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(kept.mean()), float(low), float(high), len(kept), level)


def ranks(
    by_method: Mapping[str, Floats],
    direction: Direction,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> dict[str, Rank]:
    """The place of each method by its mean, and between which places it lies as inputs are drawn again.

    Every draw takes the same inputs for all methods; inputs where one has no number are left out.
    """
    names = list(by_method)
    values = np.stack([np.asarray(by_method[name], np.float64) for name in names])
    values = values[:, np.isfinite(values).all(axis=0)]
    if not values.size:
        return {name: Rank(math.nan, math.nan, math.nan, len(names)) for name in names}
    sign = 1.0 if direction == "lower" else -1.0
    means = values[:, _drawn(values.shape[1], seed, draws)].mean(axis=2)  # [methods, draws]
    places = _places(sign * means)
    own = _places(sign * values.mean(axis=1)[:, None])[:, 0]
    tail = (1 - level) / 2
    low, high = np.quantile(places, [tail, 1 - tail], axis=1)
    return {
        name: Rank(float(own[k]), float(low[k]), float(high[k]), len(names)) for k, name in enumerate(names)
    }


def _places(numbers: Floats) -> Floats:
    """Along the first axis the place of each number, from 1; equal ones, but for rounding, share their mean place."""
    rounded = numbers.round(12)
    below = (rounded[:, None] > rounded[None]).sum(axis=1)
    alike = (rounded[:, None] == rounded[None]).sum(axis=1)
    return np.asarray(below + (alike + 1) / 2, np.float64)


def _drawn(count: int, seed: int, draws: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(count, size=(draws, count))
