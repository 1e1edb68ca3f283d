"""The sum over the line from the baseline to the input of the gradients with respect to the layer times the differences
of its values (arXiv 1807.09946, equation 3)."""

from __future__ import annotations

import numpy as np

from tests.definitions.network import Floats, Net
from tests.definitions.path import line


def attributions(
    net: Net, layer: str, x: Floats, baseline: Floats, *, steps: int = 2048, quadrature: str = "trapezoid"
) -> Floats:
    points = line(baseline, x, steps)
    g, h = net.gradient(layer, points), net.at(layer, points)
    weighed = {"trapezoid": (g[1:] + g[:-1]) / 2, "left": g[:-1], "right": g[1:]}[quadrature]
    return np.asarray((weighed * np.diff(h, axis=0)).sum(axis=0))


GIVEN = {"steps": 64}
CHANGED = {"steps": 5, "quadrature": "right"}
TOLERANCE = 0.01
"""Of the L1 norm: with defaults as many rows are taken as that needs, and the definition is the integral itself."""
