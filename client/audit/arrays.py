"""Arrays by their names, and functions of them: what metrics take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
