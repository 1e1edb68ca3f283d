"""Arrays by their names, and functions of them: what metrics take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.values import Array

Floats = NDArray[np.float64]
Inputs = Mapping[str, Array]
"""The model's inputs, each with its samples."""
Maps = Mapping[str, Floats]
"""By source, attributions `[samples, *unit]`."""
Explain = Callable[[Inputs], Maps]
Forward = Callable[[Inputs], Floats]
"""From inputs to the explained number of each sample."""


def from_json(values: Sequence[float | None]) -> Floats:
    """Numbers as an array: null, which JSON has in place of what is not finite, is NaN."""
    return np.array([math.nan if value is None else value for value in values], np.float64)
