"""Shapley values of groups of features: the mean over all orders of what each adds to the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import factorial

import numpy as np

from tests.definitions.network import SOURCE, Floats, Net

Gain = Callable[[frozenset[int]], float]


def shapley(players: Sequence[int], value: Gain) -> dict[int, float]:
    """The Shapley value of each player of a game."""
    count, found = len(players), dict.fromkeys(players, 0.0)
    for player in players:
        others = [other for other in players if other != player]
        for size in range(count):
            weight = factorial(size) * factorial(count - 1 - size) / factorial(count)
            for some in combinations(others, size):
                found[player] += weight * (value(frozenset((*some, player))) - value(frozenset(some)))
    return found


def attributions(
    net: Net,
    layer: str,
    x: Floats,
    baseline: Floats,
    *,
    groups: Mapping[str, np.ndarray] | None = None,
    coalitions: int | None = None,
    seed: int = 0,
) -> Floats:
    ids = np.arange(x.shape[1]) if groups is None else groups[layer]
    found = np.zeros_like(x)
    for k, (high, low) in enumerate(zip(x, baseline, strict=True)):

        def value(players: frozenset[int], high: Floats = high, low: Floats = low) -> float:
            return float(net.value(np.where(np.isin(ids, list(players)), high, low)[None])[0])

        values = shapley(sorted(set(ids.tolist())), value)
        found[k] = [values[int(group)] for group in ids]
    return found


LAYERS = (SOURCE,)
CHANGED = {"groups": {SOURCE: np.array([0, 0, 1, 2, 1])}, "coalitions": 6, "seed": 5}
