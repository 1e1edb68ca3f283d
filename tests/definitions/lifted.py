"""DeepLIFT's multipliers back through both layers (arXiv 1704.02685, sections 3.5.2 and 3.5.3)."""

from __future__ import annotations

import numpy as np

from tests.definitions.network import HIDDEN, Floats, Net, relu


def multipliers(net: Net, layer: str, x: Floats, baseline: Floats, revealed: tuple[bool, bool]) -> Floats:
    """Those of a layer, `[samples, units]`; `revealed`: whether the first and the second layer take RevealCancel."""
    found = np.broadcast_to(net.v, (len(x), len(net.v)))
    h, h0 = net.hidden(x), net.hidden(baseline)
    found = _back(found, h - h0, net.w2, net.z2(h0), revealed[1])
    return found if layer == HIDDEN else _back(found, x - baseline, net.w1, net.z1(baseline), revealed[0])


def _back(m: Floats, dx: Floats, w: Floats, z0: Floats, revealed: bool) -> Floats:
    """From the multipliers of relu(z) to those of x, where z = x W + b."""
    parts = dx[:, :, None] * w  # [samples, inputs, units]
    plus, minus = np.maximum(parts, 0).sum(axis=1), np.minimum(parts, 0).sum(axis=1)
    if not revealed:
        slope = (relu(z0 + plus + minus) - relu(z0)) / (plus + minus)
        return np.asarray((m * slope) @ w.T)
    up = (relu(z0 + plus) - relu(z0) + relu(z0 + plus + minus) - relu(z0 + minus)) / 2
    down = (relu(z0 + minus) - relu(z0) + relu(z0 + minus + plus) - relu(z0 + plus)) / 2
    local = ((z0 > 0) * 0.5) + (z0 + plus + minus > 0) * 0.5  # for a part of nothing
    rising = np.divide(up, plus, out=local.copy(), where=plus != 0)[:, None]
    falling = np.divide(down, minus, out=local.copy(), where=minus != 0)[:, None]
    slopes = np.where(parts > 0, rising, falling)
    slopes = np.where(
        dx[:, :, None] == 0, (rising + falling) / 2, slopes
    )  # half of nothing belongs to either
    return np.asarray((m[:, None] * slopes * w).sum(axis=2))
