"""Grad-CAM++ (arXiv 1710.11063, equations 10 and 19): gradients times alpha, in the authors' form and in that of
pytorch-grad-cam."""

from __future__ import annotations

from typing import Any

from tests.definitions.maps import LAYER, Weigh, counted, of_net
from tests.definitions.network import Floats, Net


def weights(sign: str = "positive", form: str = "authors") -> Weigh:
    def weigh(g: list[float], a: list[float]) -> list[float]:
        alphas = []
        for x in g:
            below = 2 * x**2 + sum(a) * x**3
            if form == "jacobgil":
                below += 1e-6
            alphas.append(x**2 / (below or 1.0))
        if sign != "positive":
            alphas = [abs(alpha) for alpha in alphas]
        if form == "authors":
            whole = sum(alpha for alpha, x in zip(alphas, g, strict=True) if counted(x, sign) != 0)
            alphas = [alpha / (whole or 1.0) for alpha in alphas]
        return [sum(alpha * counted(x, sign) for alpha, x in zip(alphas, g, strict=True))] * len(g)

    return weigh


def attributions(
    net: Net,
    layer: str,
    x: Floats,
    baseline: Floats,
    *,
    sign: str = "positive",
    form: str = "authors",
    channel_axis: int = 1,
    **rest: Any,
) -> Floats:
    return of_net(net, x, weights(sign, form), channel_axis, **rest)


LAYERS = (LAYER,)
CHANGED = {"sign": "signed", "form": "jacobgil", "relu_attributions": True}
