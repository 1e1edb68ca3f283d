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
EQUAL = 1e-6
"""As a share of their magnitudes, how near two means are that are one: maps have the digits of float32."""


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
    """A place among the `of` methods that have numbers, 1 the best, and the interval of it; equal methods share their
    mean place. NaN without a number."""

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
    scale: float = 0.0,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> dict[str, Rank]:
    """The place of each method, and between which places it lies as inputs are drawn again.

    A place counts the methods that are better in the mean, and half of those that are equal but for rounding: of their
    own size, or of the `scale`, that of random maps, where that is larger. Two methods are compared on the inputs where
    both have numbers, the same ones in every draw for all; where these are fewer than FEWEST, though there are more,
    they are held equal.
    """
    known = {name: each for name, given in by_method.items() if np.isfinite(each := _floats(given)).any()}
    nothing = Rank(math.nan, math.nan, math.nan, len(known))
    if not known:
        return dict.fromkeys(by_method, nothing)
    values = (1.0 if direction == "lower" else -1.0) * np.stack(list(known.values()))
    count = values.shape[1]
    drawn = np.zeros((draws + 1, count))  # how often each draw takes each input; the first takes each once
    drawn[0] = 1
    for row, numbers in zip(drawn[1:], _drawn(count, seed, draws), strict=True):
        row += np.bincount(numbers, minlength=count)
    places = np.stack([_places(own, values, drawn, scale) for own in values])  # [methods, draws + 1]
    tail = (1 - level) / 2
    low, high = np.quantile(places[:, 1:], [tail, 1 - tail], axis=1)
    found = {
        name: Rank(float(places[k, 0]), float(low[k]), float(high[k]), len(known))
        for k, name in enumerate(known)
    }
    return {name: found.get(name, nothing) for name in by_method}


def _floats(values: Floats) -> Floats:
    return np.asarray(values, np.float64)


def _places(own: Floats, values: Floats, drawn: Floats, scale: float) -> Floats:
    """The place of one method among all, itself included, in each draw; low is good."""
    both = np.isfinite(own) & np.isfinite(values)  # [methods, inputs]
    mine, others = np.where(both, own, 0.0), np.where(both, values, 0.0)
    above = drawn @ (mine - others).T  # [draws, methods]
    size = np.maximum(drawn @ (np.abs(mine) + np.abs(others)).T, scale * (drawn @ both.T))
    few = both.sum(axis=1) < min(FEWEST, values.shape[1])
    alike = (np.abs(above) <= EQUAL * size) | few
    return np.asarray(((above > 0) & ~alike).sum(axis=1) + (alike.sum(axis=1) + 1) / 2, np.float64)


def _drawn(count: int, seed: int, draws: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(count, size=(draws, count))
