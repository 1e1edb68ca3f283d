"""Points on the line from the baseline to the input, and what each weighs in an integral over it."""

from __future__ import annotations

import numpy as np

from tests.definitions.network import Floats


def line(low: Floats, high: Floats, steps: int) -> Floats:
    """`[steps + 1, samples, units]`, both ends included."""
    alphas = np.linspace(0, 1, steps + 1)[:, None, None]
    return np.asarray(low + alphas * (high - low))


def integral(values: Floats, quadrature: str) -> Floats:
    """The mean of `[steps + 1, ...]` over the line."""
    mean = {"trapezoid": (values[1:] + values[:-1]) / 2, "left": values[:-1], "right": values[1:]}[quadrature]
    return np.asarray(mean.mean(axis=0))
