"""How alike two maps of a sample are, beside maps of chance: what the checks of randomisation have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnx_attribution.client.audit.arrays import Floats, Maps
from onnx_attribution.client.audit.metrics.randomisation import permuted
from onnx_attribution.client.audit.metrics.sensitivity import compared
from onnx_attribution.client.audit.metrics.similarity import NAMES
from onnx_attribution.errors import InvalidArgument

JUDGED = ("spearman",)
"""The similarities that count in a verdict; all are in report.json. Magnitudes, as SSIM and HOG compare them, stay
alike where a map is a product with the input, whatever the other factor."""
CHANCE = 8
"""Random maps of each sample."""


def alike(one: Maps, other: Maps | None) -> dict[str, float | None]:
    """Every similarity of the maps of one sample; null where there is none."""
    if other is None:
        return dict.fromkeys(NAMES)
    try:
        found = compared(one, other)
    except InvalidArgument:  # of other layers or shapes, or not finite
        return dict.fromkeys(NAMES)
    return {name: _plain(float(values[0])) for name, values in found.items()}


def by_chance(one: Maps, seed: int) -> dict[str, float | None]:
    """The mean similarity of the maps of one sample and random maps of the same numbers."""
    found = [alike(one, permuted(one, seed=seed * CHANCE + draw)) for draw in range(CHANCE)]
    return {name: _plain(float(np.nanmean(_floats([each[name] for each in found])))) for name in NAMES}


def column(told: Sequence[Mapping[str, Any]], name: str) -> Floats:
    """The numbers of one similarity, sample by sample."""
    return _floats([one[name] for one in told])


def _floats(values: Sequence[float | None]) -> Floats:
    found = np.array([math.nan if value is None else value for value in values], np.float64)
    return found if np.isfinite(found).any() else np.where(np.isfinite(found), found, np.nan)


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
