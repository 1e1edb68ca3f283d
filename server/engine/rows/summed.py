"""Paths whose rows stay inside a program: the runs of a round, and what their sums and scores say of a layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.server.engine.rows.segments import ROUNDED, Splits
from onnx_attribution.server.engine.rows.spectral import POWER, SAFETY
from onnx_attribution.server.engine.rows.stored import Floats, Found, Measured

Pair = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """Rows of one run, ascending, and segments between them: where each begins and ends, and whether it is added (1)
    or taken off (-1)."""

    alphas: tuple[float, ...]
    segments: tuple[tuple[Pair, int], ...]

    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """What `segments_program` is told of them."""
        place = {alpha: k for k, alpha in enumerate(self.alphas)}
        ends = np.zeros((len(self.segments), len(self.alphas)), np.float32)
        for k, ((low, high), _) in enumerate(self.segments):
            ends[k, place[low]], ends[k, place[high]] = -1, 1
        return {
            "segment/ends": ends,
            "segment/sign": np.array([sign for _, sign in self.segments], np.float32),
            "segment/width": np.array([high - low for (low, high), _ in self.segments], np.float32),
        }

    def halves(self) -> list[Run]:
        """Two runs of half of the segments each."""
        middle = len(self.segments) // 2
        return [
            Run(tuple(sorted({alpha for pair, _ in part for alpha in pair})), part)
            for part in (self.segments[:middle], self.segments[middle:])
        ]


def runs(nodes: Sequence[float], fresh: Sequence[float], limit: int) -> Iterator[Run]:
    """The runs of a round, of at most `limit` rows (and at least 2): those segments between `nodes` anew that rows
    come between; of no nodes the segments between the fresh rows.

    Segments beside each other share a run and the row between them, as far as that goes.
    """
    limit = max(limit, 2)
    rows: list[float] = []
    taken: list[tuple[Pair, int]] = []
    for group in _groups(nodes, fresh, limit):
        own = sorted({alpha for pair, _ in group for alpha in pair})
        if rows and len({*rows, *own}) > limit:
            yield Run(tuple(rows), tuple(taken))
            rows, taken = [], []
        rows = sorted({*rows, *own})
        taken += group
    if taken:
        yield Run(tuple(rows), tuple(taken))


def _groups(nodes: Sequence[float], fresh: Sequence[float], limit: int) -> Iterator[list[tuple[Pair, int]]]:
    """Segments that share a run: a whole one with its parts, where so many rows fit."""
    if not nodes:
        for pair in itertools.pairwise(fresh):
            yield [(pair, 1)]
        return
    for low, high in itertools.pairwise(nodes):
        inside = [alpha for alpha in fresh if low < alpha < high]
        if not inside:
            continue
        parts: list[tuple[Pair, int]] = [(pair, 1) for pair in itertools.pairwise([low, *inside, high])]
        whole = ((low, high), -1)
        if len(inside) + 2 <= limit:
            yield [whole, *parts]
        else:
            yield [whole]
            for part in parts:
                yield [part]


class Summed(Measured):
    """The sums over the segments of a layer, and the scores of each segment: the L1 norm of what varies over it, and of
    what it adds."""

    def __init__(self) -> None:
        super().__init__(None)
        self.sum, self.squares = np.zeros(0), np.zeros(0)
        self.scores: dict[Pair, tuple[float, float]] = {}

    @property
    def alphas(self) -> list[float]:
        return sorted({alpha for pair in self.scores for alpha in pair})

    @property
    def size(self) -> int:
        return len(self.sum)

    def sketch(self) -> Floats:
        return self.sum

    def begin(self) -> None:
        """All segments come anew."""
        self.sum, self.squares = np.zeros(self.size), np.zeros(self.size)
        self.scores.clear()

    def take(
        self, run: Run, total: NDArray[Any], squares: NDArray[Any], varies: NDArray[Any], sizes: NDArray[Any]
    ) -> None:
        """Take what a run gives; `total` is `[1, *unit]`."""
        self.shape = total.shape[1:]
        if not self.size:
            self.sum, self.squares = np.zeros(total.size), np.zeros(total.size)
        self.sum += total.reshape(-1)
        self.squares += squares.reshape(-1)
        for (pair, sign), part, size in zip(run.segments, varies.tolist(), sizes.tolist(), strict=True):
            if sign > 0:
                self.scores[pair] = part, size
            else:
                del self.scores[pair]

    @property
    def terms(self) -> float:
        """The L1 norm of all that is summed."""
        return math.fsum(size for _, size in self.scores.values())


class Told(Splits):
    """The segments of a layer, by the scores that programs give of them."""

    def __init__(self, rows: Summed) -> None:
        super().__init__(rows)
        self._summed = rows
        self._left = 0.0

    def begin(self) -> None:
        """All segments come anew."""
        self.nodes, self._largest = [], 0.0

    @property
    def is_stale(self) -> bool:
        """Whether nothing is left of the squares but what those that were taken off rounded."""
        return self._left < ROUNDED * self._largest

    def refresh(self) -> None:
        alphas = self._summed.alphas
        if self.nodes:
            self._split(alphas)
        else:
            self._begin(alphas)
        self._left = self._error(self._summed.squares)
        self._largest = max(self._largest, self._left)
        error = max(self._left, ROUNDED * self._largest)
        self.found = [self._summed.found(self._summed.sum.copy(), error, self._summed.terms, "split")]

    def _put(self, segments: Sequence[Pair], sign: int) -> list[float]:
        return [self._summed.scores[pair][0] for pair in segments] if sign > 0 else []


class Doubled:
    """The trapezoid on equal segments that are halved from level to level, extrapolated from each two of them.

    Of a smooth path the error of the trapezoid falls by four with every level, and so a third of what two levels differ
    by is taken off the finer one.
    """

    def __init__(self, rows: Summed) -> None:
        self._summed = rows
        self.found: list[Found] = []
        self.rates: list[float] = []
        self.last = 0
        self._sums: Floats | None = None
        self._extrapolated: Floats | None = None
        self._apart: float | None = None

    def up_to(self, level: int) -> None:
        """The sum on a level, of which the program has just given the segments."""
        new, old = self._summed.sum, self._sums
        self._sums, self.last = new, level
        if old is None:
            return
        with np.errstate(invalid="ignore", over="ignore"):
            better = new + (new - old) / 3
            apart = self._summed.measure(better - (new if self._extrapolated is None else self._extrapolated))
        rate = 1.0 if self._apart is None else min(apart / max(self._apart, 1e-300), 1.0)
        error = SAFETY * apart * rate**POWER
        self._extrapolated, self._apart, self.rates = better, apart, [rate]
        self.found = [self._summed.found(better, error, self._summed.terms, f"doubled {level}")]
