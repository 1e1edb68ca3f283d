"""The integral of the gradient over the line from the layer's values at the baseline, times the difference
(arXiv 1703.01365, equation 1); a layer that is asked for is where the line lies."""

from __future__ import annotations

from tests.definitions.network import Floats, Net
from tests.definitions.path import integral, line


def attributions(
    net: Net,
    layer: str,
    x: Floats,
    baseline: Floats,
    *,
    steps: int = 2048,
    quadrature: str = "trapezoid",
    multiply_by_inputs: bool = True,
) -> Floats:
    low, high = net.at(layer, baseline), net.at(layer, x)
    mean = integral(net.gradient_from(layer, line(low, high, steps)), quadrature)
    return mean * (high - low) if multiply_by_inputs else mean


GIVEN = {"steps": 64}
CHANGED = {"steps": 7, "quadrature": "left", "multiply_by_inputs": False}
TOLERANCE = 0.01
"""Of the L1 norm: with defaults as many rows are taken as that needs, and the definition is the integral itself."""
