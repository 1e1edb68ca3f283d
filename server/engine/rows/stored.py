"""The rows of one layer of one sample, as they were given, and the measure of what is summed over them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.server.engine.rows.way import STRAIGHT, Way

Floats = NDArray[np.float64]
ROUNDING = 2e-7
"""What rows in float32 are wrong by, relative to the terms of a sum."""
FEW = 0.5
"""The share of units that move up to which only these are kept."""
BLOCK, LEAST_UNITS = 1 << 17, 1 << 12
"""Numbers of rows that are worked on at once, so that they stay near the processor, and units, at least."""


@dataclass(frozen=True, eq=False)
class Found:
    """A sum over rows, the estimate of its L1 error, the part of it that is rounding, and by what it was made; its L1
    norm and its total as they are judged."""

    values: Floats
    error: float
    rounding: float
    how: str
    norm: float
    total: float

    def missing(self, change: float | None) -> float:
        """What it misses of the change; 0 where it need not be the change, infinite where it is not finite."""
        missing = 0.0 if change is None else abs(self.total - change)
        return missing if math.isfinite(missing) else math.inf


class Measured:
    """What is summed in one layer, and the measure of it; `scale`: x - x', with which mean gradients are judged."""

    def __init__(self, scale: NDArray[Any] | None) -> None:
        self.scale = None if scale is None else np.asarray(scale, np.float64).reshape(-1)
        self.shape: tuple[int, ...] = ()

    @property
    def alphas(self) -> list[float]:
        """Where rows lie, ascending."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """How many units there are; 0 before the first row."""
        raise NotImplementedError

    def sketch(self) -> Floats:
        """A sum over whatever is there."""
        raise NotImplementedError

    def measure(self, values: Floats) -> float:
        """The L1 norm, times x - x' of mean gradients."""
        return float(np.abs(self.weighed(values)).sum())

    def weighed(self, values: Floats, units: slice = slice(None)) -> Floats:
        """The values of these units as they are judged: mean gradients times x - x'."""
        return values if self.scale is None else values * self.scale[units]

    def found(self, values: Floats, error: float, size: float, how: str) -> Found:
        """A sum whose terms have this L1 norm."""
        rounding = ROUNDING * size
        error = max(error, rounding) if math.isfinite(error) and math.isfinite(size) else math.inf
        weighed = self.weighed(values)
        return Found(values, error, rounding, how, float(np.abs(weighed).sum()), float(weighed.sum()))

    def shaped(self, values: Floats) -> Floats:
        return values.reshape(self.shape) if self.size else values


class Stored(Measured):
    """Gradients and activations by the place on their way, as they were given.

    Of mean gradients only those are kept that x - x' gives a weight, where these are few; the others' mean is said to
    be 0, or NaN where a row was not finite.
    """

    def __init__(self, conductance: bool, scale: NDArray[Any] | None, way: Way = STRAIGHT) -> None:
        super().__init__(scale)
        self.conductance, self._way = conductance, way
        self._moving: NDArray[np.intp] | None = None
        self._lost: NDArray[np.bool_] | None = None
        if self.scale is not None and not conductance:
            moving = np.flatnonzero(self.scale)
            if 0 < len(moving) <= FEW * len(self.scale):
                self._moving, self._all = moving, len(self.scale)
                self.scale = self.scale[moving]
        self._rows: dict[float, tuple[NDArray[Any], NDArray[Any] | None]] = {}
        self._alphas: list[float] = []

    def put(self, alphas: Sequence[float], g: NDArray[Any], h: NDArray[Any] | None) -> None:
        """Keep the rows `[alphas, *unit]`."""
        self.shape = g.shape[1:]
        flat = g.reshape(len(g), -1)
        if self._moving is not None:
            if not np.isfinite(flat).all():
                lost = ~np.isfinite(flat).all(axis=0)
                self._lost = lost if self._lost is None else self._lost | lost
            flat = flat[:, self._moving]
        beside = [None] * len(g) if h is None else h.reshape(len(h), -1)
        self._rows.update(zip(alphas, zip(flat, beside, strict=True), strict=True))
        self._alphas = sorted(self._rows)

    @property
    def alphas(self) -> list[float]:
        return self._alphas

    @property
    def size(self) -> int:
        if self._moving is not None:
            return len(self._moving) if self._rows else 0
        return math.prod(self.shape) if self._rows else 0

    def shaped(self, values: Floats) -> Floats:
        if self._moving is None or not self.size:
            return super().shaped(values)
        every = np.zeros(self._all)
        if self._lost is not None:
            every[self._lost] = np.nan
        every[self._moving] = values
        return every.reshape(self.shape)

    def row(self, alpha: float) -> tuple[Floats, Floats]:
        g, h = self._rows[alpha]
        return g.astype(np.float64), self._way.alpha(alpha) * np.ones(
            1
        ) if h is None or not self.conductance else h.astype(np.float64)

    def blocks(self, alphas: Sequence[float]) -> Iterator[tuple[slice, Floats, Floats]]:
        """g and h `[alphas, units]` of some units at a time; h is alpha itself for mean gradients."""
        rows = [self._rows[alpha] for alpha in alphas]
        at_once = max(BLOCK // max(len(rows), 1), LEAST_UNITS)
        for start in range(0, self.size, at_once):
            part = slice(start, start + at_once)
            g = _wide([g for g, _ in rows], part)
            yield (
                part,
                g,
                _wide([_of(h) for _, h in rows], part) if self.conductance else np.array(alphas)[:, None],
            )

    def sketch(self) -> Floats:
        """The trapezoid over whatever rows there are."""
        alphas = self.alphas
        values = np.zeros(self.size)
        for part, g, h in self.blocks(alphas) if alphas else ():
            values[part] = (0.5 * (g[1:] + g[:-1]) * np.diff(h, axis=0)).sum(axis=0)
        return values


def _wide(rows: Sequence[NDArray[Any]], part: slice) -> Floats:
    """These units of the rows, in float64."""
    if part.start or part.stop < len(rows[0]):
        rows = [row[part] for row in rows]
    return np.concatenate(rows, dtype=np.float64, casting="unsafe").reshape(len(rows), -1)


def _of(h: NDArray[Any] | None) -> NDArray[Any]:
    assert h is not None, "conductances need activations"
    return h
