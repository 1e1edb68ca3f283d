"""The trapezoid over all rows of a path, kept up to date as segments are split, and how wrong each may be."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

import numpy as np

from onnx_attribution.server.engine.rows import cubic
from onnx_attribution.server.engine.rows.stored import Floats, Found, Measured, Stored

SURE, LUCK = 1.5, 0.5
"""Times what the model of errors expects: SURE where many add up, as much as LUCK more where one may be all."""
BENT, APART = 2.0, 1.0
"""Times the error that is expected of parabolas; times how far these are apart: the least that their mean is wrong."""
WHOLE = 1 << 17
"""Numbers of rows up to which all segments are added up anew: to take away and to add costs two such works."""
ROUNDED = 1e-3
"""Of the largest error so far, what is left of squares in float32 once these are taken off."""


class Splits:
    """The segments of one layer: what varies over each, and how often it was split without varying less.

    Over a segment in which one kink lies anywhere, or many do, the trapezoid is wrong by |dg dh| / sqrt(12), root mean
    square; these errors have no common sign, so that their squares add up, unit by unit.
    """

    def __init__(self, rows: Measured) -> None:
        self._measured = rows
        self.nodes: list[float] = []
        self.parts: list[float] = []
        self.stuck: list[int] = []
        self.found: list[Found] = []
        self._largest = 0.0
        self._rounds = [0, 0]

    def refresh(self) -> None:
        """Take in the rows that came since."""
        raise NotImplementedError

    def rounds_at_end(self, segment: int, share: float) -> int:
        """For how many rounds, before this one, the segment at an end has been most of all that is wrong."""
        for end, at in ((0, 0), (1, len(self.nodes) - 2)):
            if at == segment:
                self._rounds[end] = self._rounds[end] + 1 if share > 0.5 else 0
                return max(self._rounds[end] - 1, 0)
        return 0

    def _error(self, squares: Floats) -> float:
        """The error where the squares of what varies over the segments sum to these, unit by unit."""
        expected = np.sqrt(np.maximum(squares, 0) / 12)
        error = self._measured.measure(expected)
        many = max(min(_many(self._measured.weighed(expected)), _many(np.array(self.parts))), 1.0)
        return float((SURE + LUCK / many**0.5) * error)

    def _begin(self, alphas: list[float]) -> None:
        """All segments come anew."""
        self._keep(alphas, self._put(list(itertools.pairwise(alphas)), 1))

    def _split(self, alphas: list[float]) -> None:
        """Puts the parts of segments in their place, where rows came between."""
        nodes, inside = self.nodes, self._inside(alphas)
        split = [k for k, each in enumerate(inside) if len(each) > 2]
        self._put([(nodes[k], nodes[k + 1]) for k in split], -1)
        fresh = iter(self._put([pair for k in split for pair in itertools.pairwise(inside[k])], 1))
        parts = list[float]()
        for before, each in zip(self.parts, inside, strict=True):
            parts += [before] if len(each) == 2 else itertools.islice(fresh, len(each) - 1)
        self._keep(alphas, parts)

    def _keep(self, alphas: list[float], parts: list[float]) -> None:
        """These are the segments now, and what varies over each; those that were split varied as much before."""
        if not self.nodes:
            self.stuck = (self.stuck + [0] * len(parts))[: len(parts)]
        elif len(alphas) > len(self.nodes):
            stuck, place = list[int](), 0
            for before, times, each in zip(self.parts, self.stuck, self._inside(alphas), strict=True):
                count = len(each) - 1
                times += min(count - 1, 2)
                stuck += [
                    times if count == 1 or 0.8 * before < part < 1.25 * before else 0
                    for part in parts[place : place + count]
                ]
                place += count
            self.stuck = stuck
        self.nodes, self.parts = list(alphas), parts

    def _inside(self, alphas: list[float]) -> list[list[float]]:
        """Of each segment its ends, and the rows that came between."""
        places = [bisect.bisect_left(alphas, node) for node in self.nodes]
        return [alphas[a : b + 1] for a, b in itertools.pairwise(places)]

    def _put(self, segments: Sequence[tuple[float, float]], sign: int) -> list[float]:
        """Adds segments to the sum and the squares, or takes them away; of each the L1 norm of what varies over it."""
        raise NotImplementedError


class Segments(Splits):
    """Those between rows that are kept."""

    def __init__(self, rows: Stored) -> None:
        super().__init__(rows)
        self._rows = rows
        self.size = 0.0
        self._sum, self._squares = np.zeros(0), np.zeros(0)

    def refresh(self) -> None:
        alphas = self._rows.alphas
        if not self.nodes or len(alphas) * self._rows.size < WHOLE:
            self._rebuild(alphas)
        else:
            self._split(alphas)
        error = self._error(self._squares)
        if error < ROUNDED * self._largest:  # nothing is left of what large squares rounded
            self._rebuild(alphas)
            error = self._error(self._squares)
        self.found = [self._rows.found(self._sum.copy(), error, self.size, "split")]

    def _rebuild(self, alphas: list[float]) -> None:
        self.size = 0.0
        self._sum, self._squares = np.zeros(self._rows.size), np.zeros(self._rows.size)
        self._begin(alphas)
        self._largest = self._error(self._squares)

    def _put(self, segments: Sequence[tuple[float, float]], sign: int) -> list[float]:
        if not segments:
            return []
        alphas = sorted({alpha for pair in segments for alpha in pair})
        chain = len(segments) == len(alphas) - 1
        place = {alpha: k for k, alpha in enumerate(alphas)}
        lows, highs = (
            (slice(None, -1), slice(1, None))
            if chain
            else ([place[low] for low, _ in segments], [place[high] for _, high in segments])
        )
        norms = np.zeros(len(segments))
        for part, g, h in self._rows.blocks(alphas):
            left, right = g[lows], g[highs]
            with np.errstate(invalid="ignore", over="ignore"):
                step = h[highs] - h[lows]
                mean, varies = left + right, right - left
                if not np.isfinite(mean).all():  # at an end the other side's gradient, and all of it in doubt
                    left, right, mean = self._without_ends(segments, left, right)
                    varies = right - left
                mean *= 0.5 * step
                varies *= step
                np.abs(varies, out=varies)
                self._sum[part] += sign * mean.sum(axis=0)
                self._squares[part] += sign * np.einsum("ij,ij->j", varies, varies)
                self.size += sign * float(np.abs(self._rows.weighed(mean, part)).sum())
                norms += np.abs(self._rows.weighed(varies, part)).sum(axis=1)
        return norms.tolist()

    @staticmethod
    def _without_ends(
        segments: Sequence[tuple[float, float]], left: Floats, right: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Gradients on both sides of segments, and their sums, where one that is not finite at an end is left out."""
        at_start, at_end = (np.array([pair[end] == end for pair in segments])[:, None] for end in (0, 1))
        lost, gone = ~np.isfinite(left) & at_start, ~np.isfinite(right) & at_end
        left, right = np.where(lost, 0, left), np.where(gone, 0, right)
        return left, right, np.where(lost, 2 * right, np.where(gone, 2 * left, left + right))


class Curves(Segments):
    """Those of a network without kinks: with parabolas, where these agree well enough.

    By how much two parabolas about a segment are less apart than a kink in it would make them, the error of their mean
    is less than what they are apart, as from one order to the next. All is added up anew from round to round.
    """

    def refresh(self) -> None:
        alphas = self._rows.alphas
        found, self.size, squares = np.zeros(self._rows.size), 0.0, np.zeros(self._rows.size)
        agreement = self._agreement(alphas)
        if agreement is None:
            self.nodes = []  # sums of another kind
            super().refresh()
            return
        apart, parts = np.zeros(self._rows.size), np.zeros(len(alphas) - 1)
        bends = (agreement < 1)[:, None]
        share = np.minimum(agreement, 1)[:, None] ** 2
        for part, g, h in self._rows.blocks(alphas):
            each = cubic.pieces(alphas, g, h)
            sums = each.trapezoid + np.where(bends, each.bent, 0)
            found[part] = sums.sum(axis=0)
            self.size += float(np.abs(self._rows.weighed(sums, part)).sum())
            left = each.kinked * share
            squares[part] = (left**2).sum(axis=0)
            apart[part] = (np.where(bends, each.apart, 0) ** 2).sum(axis=0)
            parts += np.abs(self._rows.weighed(left, part)).sum(axis=1)
        error = max(BENT * self._rows.measure(np.sqrt(squares)), APART * self._rows.measure(np.sqrt(apart)))
        self.nodes, self.parts, self.stuck = list(alphas), parts.tolist(), [0] * len(parts)
        self.found = [self._rows.found(found, error, self.size, "split")]

    def _agreement(self, alphas: list[float]) -> Floats | None:
        """Of each segment how far parabolas are apart, in units of what one kink would make them; None where rows are
        not finite."""
        apart, kinked = np.zeros(len(alphas) - 1), np.zeros(len(alphas) - 1)
        for part, g, h in self._rows.blocks(alphas):
            if not (np.isfinite(g).all() and np.isfinite(h).all()):
                return None
            each = cubic.pieces(alphas, g, h)
            apart += np.abs(self._rows.weighed(each.apart, part)).sum(axis=1)
            kinked += np.abs(self._rows.weighed(each.kinked, part)).sum(axis=1)
        found = np.asarray(3**0.5 * apart / np.maximum(kinked, 1e-300))
        found[[0, -1]] = np.maximum(found[[0, -1]], found[[1, -2]])  # one parabola tells little
        return found


def _many(sizes: Floats) -> float:
    """How many of equal size these would be."""
    total = float(sizes.sum())
    return total * total / float((sizes**2).sum()) if total > 0 and np.isfinite(total) else 1.0
