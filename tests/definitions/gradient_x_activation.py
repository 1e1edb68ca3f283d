"""The derivative times the layer's values."""

from __future__ import annotations

from tests.definitions.network import Floats, Net


def attributions(
    net: Net, layer: str, x: Floats, baseline: Floats, *, multiply_by_inputs: bool = True
) -> Floats:
    gradient = net.gradient(layer, x)
    return gradient * net.at(layer, x) if multiply_by_inputs else gradient


CHANGED = {"multiply_by_inputs": False}
