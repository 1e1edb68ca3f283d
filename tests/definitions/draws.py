"""Random draws: of each number its own stream, of which all samples see the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.definitions.network import Floats, Net


def streams(seed: int, draws: int) -> Iterator[np.random.Generator]:
    """The generator of each draw."""
    return (np.random.default_rng([seed, number]) for number in range(draws))


def with_noise(
    net: Net,
    layer: str,
    x: Floats,
    *,
    draws: int = 50,
    seed: int = 0,
    stdev: float | None = None,
    noise_level: float = 0.15,
    absolute: bool = False,
) -> Floats:
    """The gradient at x with normal noise, `[draws, samples, units]`."""
    spread = noise_level * (x.max(axis=1) - x.min(axis=1))[:, None] if stdev is None else stdev
    noise = [rng.standard_normal(x.shape[1]) for rng in streams(seed, draws)]
    found = np.stack([net.gradient(layer, x + spread * one) for one in noise])
    return np.abs(found) if absolute else found
