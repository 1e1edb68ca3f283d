"""The mean gradient of each channel, in which a position counts by its share of the values, times these (arXiv
2008.02312)."""

from __future__ import annotations

from typing import Any

from tests.definitions.maps import LAYER, Weigh, counted, of_net
from tests.definitions.network import Floats, Net


def weights(sign: str = "signed") -> Weigh:
    def weigh(g: list[float], a: list[float]) -> list[float]:
        whole = sum(a) + 1e-7
        return [sum(counted(x, sign) * value / whole for x, value in zip(g, a, strict=True))] * len(g)

    return weigh


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
CHANGED = {"sign": "positive"}
