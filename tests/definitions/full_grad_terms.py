"""Each source times its gradient, and each bias times that of the tensor to which it is added (arXiv 1905.00780,
equation 3)."""

from __future__ import annotations

import numpy as np

from tests.definitions.network import HIDDEN, SOURCE, Floats, Net

FIRST, SECOND = "c", "z2"
"""What the convolution and the dense layer make."""


def attributions(net: Net, layer: str, x: Floats, baseline: Floats) -> Floats:
    if layer == SOURCE:
        return x * net.gradient(SOURCE, x)
    if layer == FIRST:
        return ((net.z1(x) > 0) * net.gradient(HIDDEN, x) * net.b1)[:, None]
    return np.asarray((net.z2(net.hidden(x)) > 0) * net.v * net.b2)


LAYERS = (SOURCE, FIRST, SECOND)
ASKED = ()
