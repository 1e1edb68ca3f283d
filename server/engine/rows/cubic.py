"""Integrals of g dh over the segments between rows, by the parabolas through the rows about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_attribution.server.engine.rows.stored import Floats


@dataclass(frozen=True, eq=False)
class Pieces:
    """Of each segment and unit: the trapezoid, what the mean of two parabolas adds to it, how far these are apart, and
    the root mean square error of the trapezoid where one kink lies anywhere."""

    trapezoid: Floats
    bent: Floats
    apart: Floats
    kinked: Floats


def pieces(alphas: Sequence[float], g: Floats, h: Floats) -> Pieces:
    """Those between the rows of g and h, three at least.

    With q(t) = (t - low) (t - high) and second divided differences g2 and h2 a parabola adds
    (width^2 / 6) (h2 dg - g2 dh). A segment at an end has one parabola, which is as far off as it adds.
    """
    widths = np.diff(np.asarray(alphas, np.float64))[:, None]
    dg, dh = np.diff(g, axis=0), np.diff(h, axis=0)
    reach = widths[1:] + widths[:-1]
    g2, h2 = (np.diff(d / widths, axis=0) / reach for d in (dg, dh))
    sixth = widths**2 / 6
    left, right = (
        sixth * (dg * h2[places] - dh * g2[places])
        for places in (
            np.maximum(np.arange(len(dg)) - 1, 0),
            np.minimum(np.arange(len(dg)), len(dg) - 2),
        )
    )
    bent, apart = 0.5 * (left + right), left - right
    apart[[0, -1]] = bent[[0, -1]]
    return Pieces(0.5 * (g[1:] + g[:-1]) * dh, bent, apart, np.abs(dg * dh) / 12**0.5)
