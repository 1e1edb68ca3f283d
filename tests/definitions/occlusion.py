"""The target less what it is with the elements of a group at the baseline."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.definitions.network import SOURCE, Floats, Net


def attributions(
    net: Net, layer: str, x: Floats, baseline: Floats, *, groups: Mapping[str, np.ndarray] | None = None
) -> Floats:
    high, low = net.at(layer, x), net.at(layer, baseline)
    ids = np.arange(high.shape[1]) if groups is None else groups[layer]
    found = np.zeros_like(high)
    for group in np.unique(ids):
        without = np.where(ids == group, low, high)
        found[:, ids == group] = (net.from_layer(layer, high) - net.from_layer(layer, without))[:, None]
    return found


LAYERS = (SOURCE,)
CHANGED = {"groups": {SOURCE: np.array([0, 0, 1, 2, 1])}}
