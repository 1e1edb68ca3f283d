"""Guided backpropagation at the input times the map of grad_cam at its size (arXiv 1610.02391, section 3.2)."""

from __future__ import annotations

import numpy as np

from tests.definitions import grad_cam, guided_backprop
from tests.definitions.maps import LAYER, of_net, sized
from tests.definitions.network import SOURCE, Floats, Net


def attributions(
    net: Net,
    layer: str,
    x: Floats,
    baseline: Floats,
    *,
    sign: str = "signed",
    relu_attributions: bool = True,
    channel_axis: int = 1,
    upsample: str = "nearest",
) -> Floats:
    maps = of_net(net, x, grad_cam.weights(sign), channel_axis, relu_attributions=relu_attributions)
    lines = maps.reshape(len(x), -1)
    return np.stack([sized(line, x.shape[1:], upsample) for line in lines]) * guided_backprop.attributions(
        net, SOURCE, x, baseline
    )


LAYERS = (SOURCE,)
ASKED = [LAYER]
CHANGED = {"sign": "absolute", "relu_attributions": False, "channel_axis": -1, "upsample": "linear"}
