"""DeepLIFT with the Rescale rule at both layers."""

from __future__ import annotations

from tests.definitions.lifted import multipliers
from tests.definitions.network import Floats, Net


def attributions(
    net: Net, layer: str, x: Floats, baseline: Floats, *, multiply_by_inputs: bool = True
) -> Floats:
    found = multipliers(net, layer, x, baseline, (False, False))
    return found * (net.at(layer, x) - net.at(layer, baseline)) if multiply_by_inputs else found


CHANGED = {"multiply_by_inputs": False}
