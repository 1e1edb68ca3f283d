"""Rows where a path needs them, of layers whose rows are too large to be kept: programs add up the segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.server.engine.rows.adaptive import QUICK_GROWTH, Layer, Refinement
from onnx_attribution.server.engine.rows.stored import Floats
from onnx_attribution.server.engine.rows.summed import Doubled, Run, Summed, Told, runs


class AdaptiveSums(Refinement):
    """The rows of one sample, of which only sums over segments are known, and scores.

    Levels are equal segments, extrapolated while that converges, and each is evaluated anew; after that segments are
    split as those of rows that are kept, and what a segment added is taken off again with its ends in the run of its
    parts.
    """

    def __init__(self, *, tolerance: float, layers: Sequence[str]) -> None:
        self._sums = {name: Summed() for name in layers}
        self._told = {name: Told(rows) for name, rows in self._sums.items()}
        super().__init__(
            {name: Layer(rows, Doubled(rows), self._told[name]) for name, rows in self._sums.items()},
            tolerance,
        )
        self._growth = QUICK_GROWTH  # segments beside each other share a row

    @property
    def whole(self) -> bool:
        """Whether all segments come anew."""
        return not self._split or any(told.is_stale for told in self._told.values())

    def wanted(self, most: int | None = None) -> Floats:
        """As of all refinements; a level comes whole or not at all, and rows that were there do not count."""
        fresh = self._fresh(self._asked)
        if most is not None and self.whole and len(fresh) > most:
            return np.empty(0)
        return np.array(sorted(self._asked)[: most if fresh else None], dtype=np.float64)

    def runs(self, limit: int, wanted: Sequence[float]) -> Iterator[Run]:
        """The runs of a round that evaluates these alphas, each of at most `limit` rows."""
        if not self.whole:
            return runs(next(iter(self._told.values())).nodes, wanted, limit)
        return runs((), sorted({*self._alphas, *wanted}), limit)

    def begin(self) -> None:
        """A round begins."""
        if self.whole:
            for rows, told in zip(self._sums.values(), self._told.values(), strict=True):
                rows.begin()
                told.begin()

    def take(self, run: Run, found: Mapping[str, NDArray[Any]]) -> None:
        """What `segments_program` gives of a run."""
        for name, rows in self._sums.items():
            parts = (np.asarray(found[f"{kind}/{name}"]) for kind in ("sum", "square", "varies", "size"))
            rows.take(run, *parts)

    def end(self, wanted: Sequence[float]) -> None:
        """A round is over, in which these alphas were evaluated."""
        self._asked = list(wanted)
        self._took(wanted)

    def _nodes(self, level: int) -> list[float]:
        return [k / level for k in range(level + 1)]

    def _next(self) -> list[float]:
        found = super()._next()
        if self._split and any(told.is_stale for told in self._told.values()):
            return sorted(self._alphas)
        return found
