"""Polynomials through the Chebyshev rows of 0..1: what they sum to, and how well two levels agree."""

from __future__ import annotations

import numpy as np

from onnx_attribution.server.engine.rows import chebyshev, cubic
from onnx_attribution.server.engine.rows.stored import Floats, Found, Stored

SAFETY, POWER = 2.0, 0.5
"""An error is SAFETY times what two levels disagree by, times the POWER of how much less that is than before."""
KINK = 0.3
"""The error of a gradient that is taken to jump at an end and may do so anywhere before the next node."""
RESOLVED = 8
"""The level from which on the coefficients tell how fast the polynomials of a smooth path converge."""
CUBIC, TAIL = 1.75, 2.2
"""Of a smooth path an error is at least CUBIC times the distance to what parabolas sum to, and TAIL times what two
levels disagree by, times the share of the upper half of the coefficients."""


class Spectral:
    """The levels of one layer: of all rows, without the gradient of the first, without that of the last.

    A gradient at an end is often of another kind than those beside it: at a baseline of zeros units sit on their kinks.
    `smooth`: the network has no kinks.
    """

    def __init__(self, rows: Stored, smooth: bool = False) -> None:
        self._rows, self._is_smooth = rows, smooth
        self._sums: list[Floats] = []
        self.found: list[Found] = []
        self.rates: list[float] = []
        self.last = 0
        self._sizes: list[float] = []
        self._doubts: list[float] = []
        self._apart: list[list[float]] = []
        self._tail, self._from_cubic = 1.0, 0.0

    def up_to(self, level: int) -> None:
        """The sums of a level, and of those that lead to it."""
        while self.last < level:
            self._level(max(2, 2 * self.last))

    def _level(self, level: int) -> None:
        """The sums of a level, double the one before."""
        before = self._sums or self._of(level // 2)
        self._sums = self._of(level)
        apart = [self._rows.measure(new - old) for new, old in zip(self._sums, before, strict=True)]
        rates = self._rates(apart)
        self._apart.append(apart)
        self.last = level
        self.rates = rates
        errors = [
            SAFETY * now * rate**POWER + doubt
            for now, rate, doubt in zip(apart, rates, self._doubts, strict=True)
        ]
        if self._is_smooth and level >= RESOLVED:
            errors[0] = min(errors[0], max(CUBIC * self._from_cubic, TAIL * self._tail * apart[0]))
            rates[0] = min(rates[0], 2 * self._tail)
        self.found = [
            self._rows.found(values, error, size, f"spectral {level}")
            for values, error, size in zip(self._sums, errors, self._sizes, strict=True)
        ]

    def _rates(self, apart: list[float]) -> list[float]:
        """How the levels come closer to each other from one to the next, by the last and by the last two."""
        rates = [1.0] * len(apart)
        for back, power in ((1, 1.0), (2, 0.5)):
            if len(self._apart) >= back:
                then = self._apart[-back]
                now = [min(a / max(b, 1e-300), 1.0) ** power for a, b in zip(apart, then, strict=True)]
                rates = now if back == 1 else [max(pair) for pair in zip(rates, now, strict=True)]
        return rates

    def _of(self, level: int) -> list[Floats]:
        alphas = list(chebyshev.nodes(level))
        found = [np.zeros(self._rows.size) for _ in range(3)]
        sizes = [np.zeros(self._rows.size) for _ in range(3)]
        doubts = [np.zeros(self._rows.size) for _ in range(3)]
        bent, degrees = np.zeros(self._rows.size), np.zeros(level + 1)
        matrix, jumps = chebyshev.products(level), chebyshev.jumps(level)
        with np.errstate(invalid="ignore", over="ignore"):
            for part, g, h in self._rows.blocks(alphas):
                spread = matrix @ h
                lost = [np.where(np.isfinite(g[k]), 0, np.nan) for k in (0, -1)]
                g[[0, -1]] = np.where(np.isfinite(g[[0, -1]]), g[[0, -1]], 0)
                terms = g * spread
                first, last = jumps[0, 1:] @ g[1:], jumps[1, :-1] @ g[:-1]
                found[0][part] = terms.sum(axis=0) + lost[0] + lost[1]
                found[1][part] = terms[1:].sum(axis=0) + first * spread[0] + lost[1]
                found[2][part] = terms[:-1].sum(axis=0) + last * spread[-1] + lost[0]
                doubts[1][part] = KINK * np.abs((first - g[0]) * (h[1] - h[0]))
                doubts[2][part] = KINK * np.abs((last - g[-1]) * (h[-1] - h[-2]))
                if self._is_smooth and level >= RESOLVED:
                    pieces = cubic.pieces(alphas, g, h)
                    bent[part] = (pieces.trapezoid + pieces.bent).sum(axis=0)
                    weight = np.abs(self._rows.weighed(np.abs(np.diff(h, axis=0)).sum(axis=0), part))
                    degrees += np.abs(chebyshev.coefficients(level) @ g) @ np.broadcast_to(
                        weight, g.shape[1:]
                    )
                terms = np.abs(terms)
                sizes[0][part] = terms.sum(axis=0)
                sizes[1][part], sizes[2][part] = terms[1:].sum(axis=0), terms[:-1].sum(axis=0)
        self._from_cubic = self._rows.measure(bent - found[0])
        lower, upper = degrees[1 : level // 2 + 1].sum(), degrees[level // 2 + 1 :].sum()
        self._tail = float(upper / lower) if lower > 0 else 0.0
        self._sizes = [self._rows.measure(size) for size in sizes]
        self._doubts = [self._rows.measure(doubt) for doubt in doubts]
        return found
