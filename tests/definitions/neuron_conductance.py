"""The integral over the line from the baseline to the input of the derivative by a hidden unit times the unit's
gradient, times the difference of the inputs (arXiv 1805.12233, equation 2)."""

from __future__ import annotations

from collections.abc import Mapping

from tests.definitions.network import HIDDEN, SOURCE, Floats, Net
from tests.definitions.path import integral, line


def attributions(
    net: Net,
    layer: str,
    x: Floats,
    baseline: Floats,
    *,
    neuron: Mapping[str, tuple[int, ...]],
    steps: int = 64,
    quadrature: str = "trapezoid",
    multiply_by_inputs: bool = True,
) -> Floats:
    (unit,) = neuron[HIDDEN]
    points = line(baseline, x, steps)
    slope = (net.z1(points)[..., unit] > 0)[..., None] * net.w1[:, unit]
    mean = integral(net.gradient(HIDDEN, points)[..., unit, None] * slope, quadrature)
    return mean * (x - baseline) if multiply_by_inputs else mean


LAYERS = (SOURCE,)
GIVEN = {"neuron": {HIDDEN: (2,)}, "steps": 64}
CHANGED = {"neuron": {HIDDEN: (-1,)}, "steps": 7, "quadrature": "left", "multiply_by_inputs": False}
