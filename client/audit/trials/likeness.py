"""How alike two maps of a sample are, beside maps of chance: what the checks of randomisation have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnx_attribution.client.audit.arrays import Floats, Maps, from_json
from onnx_attribution.client.audit.metrics.randomisation import permuted
from onnx_attribution.client.audit.metrics.sensitivity import compared
from onnx_attribution.client.audit.metrics.similarity import NAMES
from onnx_attribution.errors import InvalidArgument

JUDGED = ("spearman",)
"""The similarities that count in a verdict; all are in report.json. Magnitudes, as SSIM and HOG compare them, stay
alike where a map is a product with the input, whatever the other factor."""
CHANCE, ELEMENTS = 8, 1 << 17
"""Random maps of each sample; fewer of maps that have more elements together, whose ranks scatter less. Of these only
what is judged is measured."""


def alike(one: Maps, other: Maps | None) -> dict[str, float | None]:
    """Every similarity of the maps of one sample; null where there is none, or the maps are large."""
    if other is None:
        return dict.fromkeys(NAMES)
    try:
        small = sum(values.size for values in one.values()) <= ELEMENTS
        found = compared(one, other, names=NAMES if small else JUDGED)
    except InvalidArgument:  # of other layers or shapes, or not finite
        return dict.fromkeys(NAMES)
    return {name: _plain(float(found[name][0])) if name in found else None for name in NAMES}


def by_chance(one: Maps, seed: int) -> dict[str, float | None]:
    """The mean similarity of the maps of one sample and random maps of the same numbers."""
    size = sum(values.size for values in one.values())
    draws = max(min(CHANCE, ELEMENTS // max(size, 1)), 1)
    found = [alike(one, permuted(one, seed=seed * CHANCE + draw)) for draw in range(draws)]
    means = {}
    for name in NAMES:
        known = [value for each in found if (value := each[name]) is not None]
        means[name] = float(np.mean(known)) if known else None
    return means


def column(told: Sequence[Mapping[str, Any]], name: str) -> Floats:
    """The numbers of one similarity, sample by sample."""
    return from_json([one[name] for one in told])


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
