"""Rows where a path needs them: `Adaptive` says which to evaluate next, adds them up and says how wrong the sum may be.

Rows lie on nested Chebyshev levels of 0..1 while their polynomials converge (`spectral`); else on all rows so far and
the middles of the segments over which gradients and activations vary most (`segments`). Nothing is evaluated twice. One
object holds one sample; several layers share its rows.

Estimates are of the L1 error. Where every way to the target crosses a layer, its attributions must sum to the change of
the target: what is missing is no more than the error, so that it is a bound below and a reason to go on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.server.engine.rows import chebyshev, splitting
from onnx_attribution.server.engine.rows.segments import Curves, Segments, Splits
from onnx_attribution.server.engine.rows.spectral import Spectral
from onnx_attribution.server.engine.rows.stored import Floats, Found, Measured, Stored
from onnx_attribution.server.engine.rows.way import STRAIGHT, Way

FIRST, TURNING, LAST = 2, 4, 64
"""The levels of Chebyshev rows with which a path starts, with which one that turns at x', so that fewer rows would all
lie behind the turn, and up to which they may double."""
DECIDES = 8
"""The first level whose agreement with the one before tells a smooth path."""
SLOW = 0.35
"""A ratio of the disagreements of consecutive levels above which polynomials do not converge."""
GROWTH, QUICK_GROWTH = 0.25, 0.5
"""New rows of a round of splitting, as a share of all rows before; the same where segments share rows."""
JUMPS = 4
"""Splits without effect after which a segment is left: g and h both jump there, or are rounded to steps."""
PATIENCE = 48
"""Rows before which no end is made for want of gain."""
LEAST = 0.05
"""No estimate is less than this share of what is tolerated."""
DOUBT = {2: 4.0, 4: 3.0}
"""The error of a level of few rows is at least so many times what its sum misses of the change."""
BLIND = 1 / 128
"""The width down to which segments are split to find what no row shows and the change of the target does."""


class Levels(Protocol):
    """What the levels of a layer sum to, how fast they come closer to each other, and which was the last."""

    found: list[Found]
    rates: list[float]
    last: int

    def up_to(self, level: int) -> None:
        """The sums of a level."""


class Refinement:
    """The rows of one sample along its path, and what they sum to in every layer, whoever adds them up.

    `few_rounds`: rows cost less than what is to be done between runs. `kinked`: the rows to begin with where kinks are
    all that bends a path, so that no polynomial converges; else these are of the level `start`.
    """

    def __init__(
        self,
        layers: Mapping[str, Layer],
        tolerance: float,
        few_rounds: bool = False,
        kinked: Sequence[float] = (),
        start: int = FIRST,
    ) -> None:
        self._layers, self._tolerance = layers, tolerance
        self._few_rounds, self._growth = few_rounds, GROWTH
        self._alphas: set[float] = set()
        self._level, self._split = start, bool(kinked)
        self._first = list(kinked) or self._nodes(self._level)
        self._asked: list[float] = list(self._first)
        self._change: float | None = None
        self._gains: list[tuple[int, float]] = []

    def wanted(self, most: int | None = None) -> Floats:
        """The alphas to evaluate next, `most` at most, ascending; empty where more would gain nothing."""
        return np.array(sorted(self._asked)[:most], dtype=np.float64)

    def note_change(self, change: float, cut: Mapping[str, bool]) -> None:
        """The change of the target from x' to x, and which layers every way to it crosses."""
        self._change = change
        for name, layer in self._layers.items():
            layer.change = change if cut.get(name, False) else None
            layer.renew()
        if not self._asked and self._alphas:
            self._asked = self._next()

    def sums(self) -> dict[str, Floats]:
        """The best sums so far: attributions, or mean gradients where not conductances are summed."""
        return {name: layer.rows.shaped(layer.best.values) for name, layer in self._layers.items()}

    def errors(self) -> dict[str, float]:
        """Estimated L1 errors of the sums, times x - x' where not conductances are summed."""
        return {name: self._error(name) for name in self._layers}

    @property
    def converged(self) -> bool:
        """Whether the estimated error of every layer is within the tolerance times the L1 norm of its sums."""
        return bool(self._alphas) and all(self._excess(name) <= 1 for name in self._layers)

    @property
    def rows(self) -> int:
        """How many rows were added."""
        return len(self._alphas)

    @property
    def how(self) -> str:
        """By what the sums were made, in words."""
        found = {layer.best.how for layer in self._layers.values()}
        return "split" if "split" in found else max(found, key=len) if found else "none"

    # --- one round

    def _nodes(self, level: int) -> list[float]:
        return list(chebyshev.nodes(level))

    def _took(self, alphas: Iterable[float]) -> None:
        """There are these rows now: once those are that were wanted, what they say and which are wanted next."""
        self._alphas.update(alphas)
        self._asked = [alpha for alpha in self._asked if alpha not in self._alphas]
        for layer in self._layers.values():
            layer.renew()
        if not self._asked:
            self._evaluate()
            self._asked = self._next()

    def _evaluate(self) -> None:
        for layer in self._layers.values():
            if self._split:
                layer.segments.refresh()
            else:
                layer.levels.up_to(self._level)
            layer.renew()

    def _next(self) -> list[float]:
        if (self.converged and not self._unseen()) or self._rounded():
            return []
        if not self._split:
            if self._level < DECIDES or (self._level < LAST and self._smooth()):
                self._level = max(2 * self._level, DECIDES if self._few_rounds else 0)
                return self._fresh(self._nodes(self._level))
            self._split = True
            for layer in self._layers.values():
                layer.segments.refresh()
                layer.renew()
            if self.converged and not self._unseen():
                return []
        if not all(np.isfinite(self._error(name)) for name in self._layers):
            return []  # no rows make finite what is not
        return self._fresh(self._splits())

    def _fresh(self, alphas: Iterable[float]) -> list[float]:
        return [float(alpha) for alpha in alphas if float(alpha) not in self._alphas]

    def _smooth(self) -> bool:
        """Whether polynomials converge in every layer that needs more rows."""
        return all(layer.smooth() for name, layer in self._layers.items() if self._excess(name) > 1)

    def _unseen(self) -> bool:
        """Whether the sums are zero and the target changes all the same."""
        none = all(layer.best.norm == 0 for layer in self._layers.values())
        few = len(self._alphas) <= (DECIDES if self._change is None else 1 / BLIND / 4)
        return none and few and self._change != 0

    # --- what is best, and how good

    def _error(self, name: str) -> float:
        layer = self._layers[name]
        found = layer.best
        least = LEAST * self._tolerance * found.norm
        return max(found.error, found.missing(layer.change), least)

    def _excess(self, name: str) -> float:
        """The error of a layer, in units of what is tolerated; infinite for what is not finite."""
        layer = self._layers[name]
        error, allowed = self._error(name), self._tolerance * layer.best.norm
        if not np.isfinite(error) or not np.isfinite(allowed):
            return float("inf")
        return error / allowed if allowed > 0 else (float("inf") if error > 0 else 0.0)

    def _rounded(self) -> bool:
        """Whether nothing but rounding is left of every error."""
        return all(self._error(name) <= 2 * layer.best.rounding for name, layer in self._layers.items())

    def _stands(self, excess: float) -> bool:
        """Whether twice the rows gained next to nothing: paths that jump all along are not summed any better."""
        self._gains.append((self.rows, excess))
        before = [found for count, found in self._gains if PATIENCE <= count <= self.rows / 2]
        return bool(before) and min(before) < 1.2 * min(found for _, found in self._gains)

    def _splits(self) -> list[float]:
        excess = {name: self._excess(name) for name in self._layers}
        excess = {name: ratio for name, ratio in excess.items() if ratio > 1}
        first = next(iter(self._layers.values())).segments
        nodes = np.array(first.nodes)
        widths = np.diff(nodes)
        score = np.zeros(len(widths))
        blind, seen_worst = 0.0, 0.0
        for name in excess:
            layer = self._layers[name]
            best, parts = layer.best, np.array(layer.segments.parts)
            allowed = max(self._tolerance * best.norm, 1e-9 * parts.sum(), 1e-300)
            stuck = (np.array(layer.segments.stuck) >= JUMPS) & (nodes[:-1] > 0)
            score += np.where(stuck, 0, parts) / allowed
            missing, seen = best.missing(layer.change), layer.segments.found[0].error
            seen_worst = max(seen_worst, seen / allowed if not stuck.any() else 0)
            if missing > max(allowed, seen):
                blind = max(blind, 1 - seen / missing)
        possible = widths > np.maximum(splitting.NARROW, 2.0**-22 * nodes[:-1])
        score = np.where(possible & np.isfinite(score), score, 0)
        if score.sum() > 0:
            score = score / score.sum()
        worst = max(excess.values(), default=2.0)
        count = max(1, int(np.ceil(len(nodes) * min(self._growth, max(worst - 1, 0.05)))))
        taken = (
            splitting.all_at_once(score, seen_worst)
            if self._few_rounds and seen_worst > 1
            else splitting.largest(score, count)
        )
        if blind == 0 and self._stands(worst):
            return []
        if blind > 0.5 or (not taken and (blind > 0 or self._unseen())):
            wide = np.where(widths > BLIND, widths, 0)
            half = (count + 1) // 2
            taken = {**dict(list(taken.items())[:half]), **splitting.largest(wide, half)}
        return [
            alpha
            for k, parts in taken.items()
            for alpha in splitting.between(
                float(nodes[k]), float(nodes[k + 1]), first.rounds_at_end(k, float(score[k])), parts
            )
        ]


class Layer:
    """One layer, and what the rules make of its rows."""

    def __init__(self, rows: Measured, levels: Levels, segments: Splits) -> None:
        self.rows, self.levels, self.segments = rows, levels, segments
        self.ray: list[Found] = []
        self.change: float | None = None
        self._best: Found | None = None

    @property
    def best(self) -> Found:
        """Of all sums the one with the least error, as far as the change of the target tells."""
        if self._best is None:
            self._best = self._chosen()
        return self._best

    def renew(self) -> None:
        """What is best is to be found anew: there are more rows, or more is known."""
        self._best = None

    def _chosen(self) -> Found:
        found = [(one.error, one) for one in self.ray + self.segments.found]
        found += [(self._doubted(one), one) for one in self.levels.found]
        if not found:
            return self.rows.found(self.rows.sketch(), math.inf, 0.0, "none")
        error, best = min(found, key=lambda pair: max(pair[0], pair[1].missing(self.change)))
        return replace(best, error=error)

    def _doubted(self, one: Found) -> float:
        return max(one.error, DOUBT.get(self.levels.last, 1.5) * one.missing(self.change))

    def smooth(self) -> bool:
        """Whether polynomials converge: by how levels agree, and not refuted by what is missing."""
        each = zip(self.levels.found, self.levels.rates, strict=True)
        return any(rate <= SLOW and one.missing(self.change) <= 3 * one.error for one, rate in each)


class _Kept(Layer):
    """One whose rows are kept."""

    def __init__(self, rows: Stored, smooth: bool) -> None:
        super().__init__(rows, Spectral(rows, smooth), (Curves if smooth else Segments)(rows))
        self.stored = rows

    def one_row(self) -> None:
        g, h = self.stored.row(1.0)
        values = g * h if self.stored.conductance else g
        self.ray = [self.rows.found(values, 0.0, self.rows.measure(values), "one row")]


class Adaptive(Refinement):
    """The rows of one sample, which are kept.

    `conductance`: the integral of g dh, which differs by layer; otherwise the mean of g, whose error is judged after
    multiplication by `straight[layer]`, x - x'. `ray`: where the gradient is known to be the same all along and the
    path to begin at zero, so that the row at alpha = 1 is enough, the rows that tell the change of the target.
    `smooth`: the network is known to have no kinks. `few_rounds`, `kinked`: see `Refinement`.
    `way`: how the path is run through; all but `wanted` and `add` speak of the places on it.
    """

    def __init__(
        self,
        *,
        conductance: bool,
        tolerance: float,
        layers: Sequence[str],
        straight: Mapping[str, NDArray[Any]] | None = None,
        ray: Sequence[float] = (),
        few_rounds: bool = False,
        smooth: bool = False,
        kinked: Sequence[float] = (),
        way: Way = STRAIGHT,
    ) -> None:
        scales = {} if conductance or straight is None else straight
        self._way, self._places = way, dict[float, float]()
        self._kept = {name: _Kept(Stored(conductance, scales.get(name), way), smooth) for name in layers}
        super().__init__(self._kept, tolerance, few_rounds, kinked, TURNING if way.bend else FIRST)
        self._ray = bool(ray)
        if ray:
            self._asked = list(ray)

    def wanted(self, most: int | None = None) -> Floats:
        found = super().wanted(most)
        if not self._way.bend:
            return found
        alphas = [self._way.alpha(place) for place in found.tolist()]
        self._places.update(zip(alphas, found.tolist(), strict=True))
        return np.array(alphas, dtype=np.float64)

    def add(
        self, alphas: Iterable[float], rows: Mapping[str, tuple[NDArray[Any], NDArray[Any] | None]]
    ) -> None:
        """Take rows `[alphas, *unit]` of every layer; h may be None where not conductances are summed."""
        keys = [self._places.get(float(alpha), self._way.place(float(alpha))) for alpha in alphas]
        fresh = [k for k, key in enumerate(keys) if key not in self._alphas]
        for name, layer in self._kept.items() if fresh else ():
            g, h = rows[name]
            if len(fresh) == len(keys):
                layer.stored.put(keys, g, h)
            else:
                layer.stored.put([keys[k] for k in fresh], g[fresh], None if h is None else h[fresh])
        self._took(keys)

    @property
    def how(self) -> str:
        return "one row" if self._ray else super().how

    def _evaluate(self) -> None:
        if not self._ray:
            super()._evaluate()
            return
        for layer in self._kept.values():
            layer.one_row()
            layer.renew()

    def _next(self) -> list[float]:
        if not self._ray:
            return super()._next()
        if all(self._excess(name) <= 1 for name in self._layers):
            return []
        self._ray = False  # the sum misses the change: not the ray that it was taken for
        for layer in self._layers.values():
            layer.ray = []
            layer.renew()
        return self._fresh(self._first)
