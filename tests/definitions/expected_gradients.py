"""The mean over random points of the line from the reference to the input of the gradient, times the difference; a
layer that is asked for is where the line lies (arXiv 1906.10670, equation 5)."""

from __future__ import annotations

import numpy as np

from tests.definitions.draws import streams
from tests.definitions.network import Floats, Net


def attributions(
    net: Net,
    layer: str,
    x: Floats,
    baseline: Floats,
    *,
    draws: int = 200,
    seed: int = 0,
    stdev: float = 0.0,
    multiply_by_inputs: bool = True,
) -> Floats:
    low, high = net.at(layer, baseline), net.at(layer, x)
    found = np.zeros_like(high)
    for rng in streams(seed, draws):
        alpha, _ = rng.uniform(), rng.integers(1)
        difference = high + stdev * rng.standard_normal(high.shape[1]) - low
        gradient = net.gradient_from(layer, low + alpha * difference)
        found += gradient * (difference if multiply_by_inputs else 1)
    return found / draws


CHANGED = {"draws": 9, "seed": 4, "stdev": 0.3, "multiply_by_inputs": False}
