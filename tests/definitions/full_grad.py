"""The map of FullGrad of an input without positions: its own terms, in magnitude, brought to a range of 1, summed."""

from __future__ import annotations

import numpy as np

from tests.definitions.maps import counted
from tests.definitions.network import SOURCE, Floats, Net


def normalised(terms: Floats, sign: str) -> Floats:
    """Those of one sample."""
    found = np.vectorize(lambda term: counted(float(term), sign))(terms)
    if sign == "signed":
        return np.asarray(found / (np.abs(found).max() + 1e-6))
    found = found - found.min()
    return np.asarray(found / (found.max() + 1e-6))


def attributions(
    net: Net, layer: str, x: Floats, baseline: Floats, *, sign: str = "absolute", normalise: bool = True
) -> Floats:
    terms = x * net.gradient(SOURCE, x)
    if not normalise:
        return np.array([[sum(counted(float(term), sign) for term in row)] for row in terms])
    return np.array([[normalised(row, sign).sum()] for row in terms])


LAYERS = (SOURCE,)
ASKED = ()
CHANGED = {"sign": "positive", "normalise": False}
