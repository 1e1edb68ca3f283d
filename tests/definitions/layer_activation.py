"""The layer's values."""

from __future__ import annotations

from tests.definitions.network import Floats, Net


def attributions(net: Net, layer: str, x: Floats, baseline: Floats) -> Floats:
    return net.at(layer, x)
