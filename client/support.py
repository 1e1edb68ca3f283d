"""The support of an attribution: where it is not 0, the boxes of its connected parts, and what layers keep of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.supports import Box, boxes, support
from onnx_attribution.values import Attribution

__all__ = ["Box", "Kept", "boxes", "kept", "support"]


class Kept(NamedTuple):
    """Of one layer, per sample: how many units are not 0, of how many, and the sum of their magnitudes."""

    support: NDArray[np.intp]
    units: int
    mass: NDArray[np.float64]


def kept(answer: Attribution) -> Mapping[str, Kept]:
    """How many units each layer of an answer keeps, and how much: of fb_trace with all layers, the flow."""
    found = {}
    for name, layer in answer.layers.items():
        flat = np.asarray(layer.values, np.float64).reshape(len(layer.values), -1)
        found[name] = Kept((flat != 0).sum(axis=1), flat.shape[1], np.abs(flat).sum(axis=1))
    return found
