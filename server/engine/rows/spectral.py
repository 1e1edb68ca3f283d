"""Polynomials through the Chebyshev rows of 0..1: what they sum to, and how well two levels agree."""

from __future__ import annotations

from collections.abc import Sequence

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
        self._before: list[Floats] = []
        self.found: list[Found] = []
        self.rates: list[float] = []
        self.last = 0
        self._apart: list[list[float]] = []

    def up_to(self, level: int) -> None:
        """The sums of a level, and of those that lead to it."""
        levels = [2**k for k in range(level.bit_length()) if self.last < 2**k]
        for each in self._of(levels) if levels else ():
            if each.level > 1:
                self._take(each)
            self._before = each.sums

    def _take(self, new: _Level) -> None:
        """The next level, double the one before."""
        level = self.last = new.level
        apart = [self._rows.measure(new - old) for new, old in zip(new.sums, self._before, strict=True)]
        rates = self.rates = self._rates(apart)
        self._apart.append(apart)
        errors = [
            SAFETY * now * rate**POWER + doubt
            for now, rate, doubt in zip(apart, rates, new.doubts, strict=True)
        ]
        if self._is_smooth and level >= RESOLVED:
            tail = new.tail()
            from_cubic = self._rows.measure(new.bent - new.sums[0])
            errors[0] = min(errors[0], max(CUBIC * from_cubic, TAIL * tail * apart[0]))
            rates[0] = min(rates[0], 2 * tail)
        self.found = [
            self._rows.found(values, error, size, f"spectral {level}")
            for values, error, size in zip(new.sums, errors, new.sizes, strict=True)
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

    def _of(self, levels: Sequence[int]) -> list[_Level]:
        """The sums of levels, each of which is nested in the next one."""
        found = [_Level(level, self._rows, self._is_smooth) for level in levels]
        alphas = list(chebyshev.nodes(levels[-1]))
        with np.errstate(invalid="ignore", over="ignore"):
            for part, g, h in self._rows.blocks(alphas):
                ends = g[[0, -1]]
                finite = np.isfinite(ends)
                lost = None if finite.all() else np.where(finite, 0, np.nan)
                if lost is not None:
                    g[[0, -1]] = np.where(finite, ends, 0)
                for each in found:
                    step = levels[-1] // each.level
                    each.add(part, g[::step], h[::step], lost)
        return found


class _Level:
    """The sums of one level, what their terms are in L1, and how far gradients that are left out may be off."""

    def __init__(self, level: int, rows: Stored, is_smooth: bool) -> None:
        self.level, self._rows = level, rows
        self.sums = [np.zeros(rows.size) for _ in range(3)]
        self.sizes, self.doubts = [0.0] * 3, [0.0] * 3
        self._is_curved = is_smooth and level >= RESOLVED
        self.bent, self._degrees = np.zeros(rows.size if self._is_curved else 0), np.zeros(level + 1)

    def tail(self) -> float:
        """The share of the upper half of the coefficients."""
        half = self.level // 2 + 1
        lower, upper = self._degrees[1:half].sum(), self._degrees[half:].sum()
        return float(upper / lower) if lower > 0 else 0.0

    def add(self, part: slice, g: Floats, h: Floats, lost: Floats | None) -> None:
        """Some units; `lost` are NaN for gradients of the ends, which are 0 here, that were not finite."""
        spread, jumps = chebyshev.products(self.level) @ h, chebyshev.jumps(self.level)
        terms = g * spread
        at_ends = [terms[0], terms[-1]]
        inner = terms[1:-1].sum(axis=0)
        first, last = jumps[0, 1:] @ g[1:], jumps[1, :-1] @ g[:-1]
        others = [first * spread[0], last * spread[-1]]
        sums = [
            inner + at_ends[0] + at_ends[1],
            inner + others[0] + at_ends[1],
            inner + at_ends[0] + others[1],
        ]
        if lost is not None:
            sums = [sums[0] + lost[0] + lost[1], sums[1] + lost[1], sums[2] + lost[0]]
        for kept, found in zip(self.sums, sums, strict=True):
            kept[part] = found
        size = self._total(np.abs(terms).sum(axis=0), part)
        without = [0.0, *(self._total(one, part) for one in at_ends)]
        self.sizes = [old + size - less for old, less in zip(self.sizes, without, strict=True)]
        self.doubts[1] += KINK * self._total((first - g[0]) * (h[1] - h[0]), part)
        self.doubts[2] += KINK * self._total((last - g[-1]) * (h[-1] - h[-2]), part)
        if self._is_curved:
            pieces = cubic.pieces(list(chebyshev.nodes(self.level)), g, h)
            self.bent[part] = (pieces.trapezoid + pieces.bent).sum(axis=0)
            weight = np.abs(self._rows.weighed(np.abs(np.diff(h, axis=0)).sum(axis=0), part))
            degrees = np.abs(chebyshev.coefficients(self.level) @ g)
            self._degrees += degrees @ np.broadcast_to(weight, g.shape[1:])

    def _total(self, values: Floats, part: slice) -> float:
        return float(np.abs(self._rows.weighed(values, part)).sum())
