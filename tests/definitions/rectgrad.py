"""Rectifiers pass what is above the quantile of a R in a sample (arXiv 1902.04893); times the values."""

from __future__ import annotations

import numpy as np

from tests.definitions.network import HIDDEN, Floats, Net, relu


def attributions(
    net: Net,
    layer: str,
    x: Floats,
    baseline: Floats,
    *,
    quantile: float = 98.0,
    tau: float | None = None,
    absolute: bool = False,
    proportional: bool = False,
    multiply_by_inputs: bool = True,
) -> Floats:
    def passed(a: Floats, found: Floats) -> Floats:
        product = np.abs(a * found) if absolute else a * found
        bound = np.percentile(product, quantile, axis=1, keepdims=True) if tau is None else tau
        return np.where(product > bound, found, 0)

    h = net.hidden(x)
    found = passed(relu(net.z2(h)), np.broadcast_to(net.v, (len(x), len(net.v)))) @ net.w2.T
    if layer != HIDDEN:
        found = passed(h, found) @ net.w1.T
    return found * net.at(layer, x) if multiply_by_inputs else found


CHANGED = {"quantile": 35.0, "absolute": True, "multiply_by_inputs": False}
