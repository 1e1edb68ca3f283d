"""The variance of the gradient over normal noise at the source."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.definitions.draws import with_noise
from tests.definitions.network import Floats, Net


def attributions(net: Net, layer: str, x: Floats, baseline: Floats, **parameters: Any) -> Floats:
    found = with_noise(net, layer, x, **parameters)
    return np.asarray(found.var(axis=0))


CHANGED = {"draws": 7, "seed": 3, "stdev": 0.5, "absolute": True}
