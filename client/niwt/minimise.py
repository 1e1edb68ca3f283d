"""A minimum by L-BFGS: deterministic, in float64, and small enough to need no library."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Loss = Callable[[Floats], tuple[float, Floats]]
"""From a point to the loss there and its gradient."""

REMEMBERED, HALVINGS = 10, 40
SUFFICIENT = 1e-4  # of the decrease that the gradient promises


def minimum(loss: Loss, start: Floats, *, steps: int = 500, tolerance: float = 1e-10) -> tuple[Floats, float]:
    """A local minimum from `start`, and the loss there.

    It ends when a step lowers the loss by at most `tolerance` of it, or after so many steps.
    """
    shape = start.shape
    x = start.astype(np.float64).ravel()
    value, slope = _at(loss, x, shape)
    pairs: deque[tuple[Floats, Floats]] = deque(maxlen=REMEMBERED)
    for _ in range(steps):
        direction = _direction(slope, pairs)
        descent = float(direction @ slope)
        if descent >= 0:  # the pairs mislead: forget them
            pairs.clear()
            direction, descent = -slope, -float(slope @ slope)
        if descent == 0:
            break
        length = 1.0 if pairs else min(1.0, 1.0 / float(np.linalg.norm(slope)))
        for _ in range(HALVINGS):
            found, steeper = _at(loss, x + length * direction, shape)
            if found <= value + SUFFICIENT * length * descent:
                break
            length /= 2
        else:
            break
        moved, turned = length * direction, steeper - slope
        if float(moved @ turned) > 1e-12 * float(turned @ turned):
            pairs.append((moved, turned))
        gained, x, value, slope = value - found, x + moved, found, steeper
        if gained <= tolerance * abs(value):
            break
    return x.reshape(shape), value


def _at(loss: Loss, x: Floats, shape: tuple[int, ...]) -> tuple[float, Floats]:
    value, slope = loss(x.reshape(shape))
    return (value if np.isfinite(value) else np.inf), np.asarray(slope, np.float64).ravel()


def _direction(slope: Floats, pairs: deque[tuple[Floats, Floats]]) -> Floats:
    """The inverse Hessian that the pairs suggest, times the negative gradient (the two loops of Nocedal)."""
    q, weights = -slope, []
    for moved, turned in reversed(pairs):
        weight = float(moved @ q) / float(moved @ turned)
        weights.append(weight)
        q = q - weight * turned
    if pairs:
        moved, turned = pairs[-1]
        q = q * (float(moved @ turned) / float(turned @ turned))
    for (moved, turned), weight in zip(pairs, reversed(weights), strict=True):
        q = q + moved * (weight - float(turned @ q) / float(moved @ turned))
    return q
