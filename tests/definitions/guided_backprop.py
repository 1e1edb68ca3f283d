"""The derivative in which each layer's rectifier passes what is positive, where it is open (arXiv 1412.6806)."""

from __future__ import annotations

from tests.definitions.network import HIDDEN, Floats, Net, relu


def attributions(net: Net, layer: str, x: Floats, baseline: Floats) -> Floats:
    h = net.hidden(x)
    found = (relu(net.v) * (net.z2(h) > 0)) @ net.w2.T
    return found if layer == HIDDEN else (relu(found) * (net.z1(x) > 0)) @ net.w1.T
