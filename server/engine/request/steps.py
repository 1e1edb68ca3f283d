"""How many steps a path may have."""

from __future__ import annotations

import numpy as np

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import QUADRATURES


def check_steps(steps: int, quadrature: str, limit: int = 16384, name: str = "steps") -> None:
    """Refuses a step count or quadrature that does not exist."""
    if quadrature not in QUADRATURES:
        raise InvalidArgument(
            f"no quadrature {quadrature!r}; there are: {', '.join(QUADRATURES)}", quadrature=quadrature
        )
    if not isinstance(steps, (int, np.integer)) or isinstance(steps, bool):
        raise InvalidArgument(f"{name} is {steps!r}, which is no integer", field=name)
    if not 1 <= steps <= limit:
        raise InvalidArgument(f"{name} is {steps}; it must lie between 1 and {limit}", field=name)
