"""The mean gradient of each channel times its values, summed over the channels (arXiv 1610.02391)."""

from __future__ import annotations

from typing import Any

from tests.definitions.maps import LAYER, Weigh, counted, of_net
from tests.definitions.network import Floats, Net


def weights(sign: str = "signed") -> Weigh:
    return lambda g, a: [sum(counted(x, sign) for x in g) / len(g)] * len(g)


def attributions(
    net: Net,
    layer: str,
    x: Floats,
    baseline: Floats,
    *,
    sign: str = "signed",
    channel_axis: int = 1,
    **rest: Any,
) -> Floats:
    return of_net(net, x, weights(sign), channel_axis, **rest)


LAYERS = (LAYER,)
CHANGED = {"sign": "positive", "channel_axis": -1, "attr_dim_summation": False}
