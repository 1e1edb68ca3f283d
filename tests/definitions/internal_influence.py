"""The integral of the gradient with respect to the layer over the line from the baseline to the input (arXiv
1802.03788)."""

from __future__ import annotations

from tests.definitions.network import Floats, Net
from tests.definitions.path import integral, line


def attributions(
    net: Net, layer: str, x: Floats, baseline: Floats, *, steps: int = 64, quadrature: str = "trapezoid"
) -> Floats:
    return integral(net.gradient(layer, line(baseline, x, steps)), quadrature)


GIVEN = {"steps": 64}
CHANGED = {"steps": 5, "quadrature": "right"}
