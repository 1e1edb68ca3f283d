"""What a metric says of itself, and the words that all metrics share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnx_attribution.client.audit.arrays import Floats, Maps

Direction = Literal["higher", "lower"]
Category = Literal["axiomatic", "complexity", "faithfulness", "localisation", "randomisation", "robustness"]
Chance = Literal["goal", "floor", "none"]


@dataclass(frozen=True)
class Metric:
    """A number for each sample.

    `direction` is which way is better. `chance` is what random maps mean: a "goal", where a map should be as unlike as
    they are; a "floor", which a map that knows something is better than; or "none". `quantus` is the class of that
    library with the same formula, "" where there is none.
    """

    name: str
    direction: Direction
    category: Category
    formula: str
    source: str
    chance: Chance = "none"
    quantus: str = ""


METRICS: dict[str, Metric] = {}
"""Every metric by its name."""


def declared(metric: Metric) -> Metric:
    """Makes a metric known. Raises: ValueError: there is one of that name."""
    if METRICS.setdefault(metric.name, metric) is not metric:
        raise ValueError(f"there is a metric {metric.name!r} already")
    return metric


def flat(maps: Maps) -> Floats:
    """All sources together as `[samples, elements]`."""
    return np.concatenate([np.asarray(a, np.float64).reshape(len(a), -1) for a in maps.values()], axis=1)


def mean_of_known(values: Floats) -> Floats:
    """The mean along the first axis of what is a number; NaN where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    return ratio(np.asarray(total), np.asarray(known.sum(axis=0), np.float64))


def ratio(numerator: Floats, denominator: Floats, otherwise: float = np.nan) -> Floats:
    """The quotient, and a number of its own where the denominator is 0."""
    safe = np.where(denominator == 0, 1.0, denominator)
    return np.where(denominator == 0, otherwise, numerator / safe)
