"""Runs paths whose rows lie where they are needed, until the estimated error is small enough."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.server.engine.methods.stages import Evaluations, Stage
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Floats, Path, contribution
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.adaptive import Adaptive, Refinement
from onnx_attribution.server.engine.rows.evaluate import Sums
from onnx_attribution.server.engine.rows.points import Point, Rows, RowsAt, row_bytes, rows_of_each
from onnx_attribution.server.engine.rows.shared import of_one_tensor
from onnx_attribution.server.engine.rows.way import STRAIGHT, Way
from onnx_attribution.values import Array

ROWS = 33
"""Rows of a sample for which there has to be room, so that all samples are refined together."""
SHARED = 16
"""Rows that several targets want from which on a run of their own is worth while."""
SMALL = 1 << 19
"""Bytes of a row from which on it costs more than the work of a round around a run."""
KINKED, TOWARDS_ZERO = 10, 1.5
"""Segments with which a path begins that kinks alone bend; the power by which they narrow towards a baseline of zeros,
where units without a large bias have theirs."""
FEW_ROUNDS = 32
"""Rows that a path may have from which on rounds are few and have many each."""
TOGETHER = ""
"""The name of all layers as one."""


def stages(
    model: LoadedModel, asked: Sequence[Resolved], memory: int, kind: type[Paths] | None = None
) -> Iterator[Stage]:
    """A stage for each refinement of all samples, while their rows fit into `memory`; then one in which those that need
    more are evaluated anew, a few at a time. Where the rows of one path do not fit, it ends with what it has.
    """
    paths = [(kind or Paths)(model, one, memory) for one in asked]
    every = [(path, k) for path in paths for k in range(len(path.samples))]
    at_once = max(room(model, asked, memory), 1)
    if len(every) > at_once:
        yield Stage(lambda: _steps(paths), lambda: _planned(every), lambda: _in_turn(paths, every, at_once))
        return
    open_ones = every
    while open_ones:
        yield Stage(
            lambda: _steps(paths),
            partial(_planned, open_ones),
            partial(_refined, paths, open_ones),
            lambda: any(path.samples[k].open for path, k in every),
        )
        open_ones = [(path, k) for path, k in every if path.samples[k].open]
        if len(open_ones) > 1 and sum(path.kept for path in paths) > memory:
            for path, k in every:
                path.samples[k].close()
            most = max(path.samples[k].rows * path.row_bytes for path, k in open_ones)
            anew = partial(_in_turn, paths, open_ones, max(memory // (2 * most), 1))
            again = sum(path.samples[k].rows for path, k in open_ones)
            yield Stage(lambda: _steps(paths), partial(int, again), anew)
            return


def room(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> int:
    """Of how many samples the rows that they are likely to need can be kept at once."""
    return memory // (ROWS * max(_kept_bytes(model, one) for one in asked))


def _kept_bytes(model: LoadedModel, resolved: Resolved) -> int:
    """The bytes of a row that is kept: gradients, and activations where conductances are made of it."""
    at = resolved.recipe.at
    assert isinstance(at, Path)
    return max(row_bytes(model, resolved), 1) * (1 + at.conductance)


def _steps(paths: Sequence[Paths]) -> int:
    """The segments between the rows of the sample that has most."""
    return max(1, max(one.rows for path in paths for one in path.samples) - 1)


def _planned(ones: Sequence[tuple[Paths, int]]) -> int:
    return sum(len(path.samples[k].wanted()) for path, k in ones)


def _refined(paths: Sequence[Paths], ones: Sequence[tuple[Paths, int]]) -> Evaluations:
    """One refinement of these samples."""
    yield from _refine(paths, ones)
    return [path.sums() for path in paths]


def _refine(paths: Sequence[Paths], ones: Sequence[tuple[Paths, int]]) -> Generator[int, object, object]:
    """Evaluates what these samples want, what several targets of one tensor want together; returns the last word of
    whoever asked."""
    said: object = None
    if len(paths) == 1:
        return (yield from paths[0].refine([k for _, k in ones]))
    for numbers in of_one_tensor([path.resolved for path in paths]):
        group = [paths[k] for k in numbers]
        if len(group) == 1 or not all(path.shares for path in group):
            for path in group:
                said = (yield from path.refine([k for own, k in ones if own is path])) or said
            continue
        wanting: dict[Point, list[Paths]] = {}
        for path, k in ones:
            if path in group:
                for alpha in path.samples[k].wanted():
                    wanting.setdefault((k, float(alpha)), []).append(path)
        together: dict[tuple[Paths, ...], list[Point]] = {}
        for point, own in wanting.items():
            together.setdefault(tuple(own), []).append(point)
        alone: dict[Paths, list[Point]] = {}
        for some, points in together.items():
            if len(some) == 1 or len(points) < SHARED:
                for path in some:
                    alone.setdefault(path, []).extend(points)
                continue
            told: list[set[int]] = [set() for _ in some]
            asked = [path.resolved for path in some]
            activations = some[0].conductance
            for each in rows_of_each(some[0].model, asked, points, some[0].memory, activations=activations):
                for path, rows, known in zip(some, each, told, strict=True):
                    path.take(rows, known)
                said = (yield sum(rows.evaluated for rows in each)) or said
        for path, points in alone.items():
            said = (yield from path.evaluate(sorted(points))) or said
    return said


def _in_turn(paths: Sequence[Paths], ones: Sequence[tuple[Paths, int]], room: int) -> Evaluations:
    """These samples, as many at once as there is room for. When asked to stop, those that have an answer keep it, and
    the others have their first rows only."""
    hurried = False
    for start in range(0, len(ones), room):
        part = ones[start : start + room]
        for path in paths:
            own = [k for of, k in part if of is path and not (hurried and path.samples[k].found)]
            for k in own:
                path.begin(k)
            hurried |= bool((yield from path.refine(own)))
            while not hurried and (left := [k for k in own if path.samples[k].open]):
                hurried |= bool((yield from path.refine(left)))
            for k in own:
                path.samples[k].close()
    return [path.sums() for path in paths]


@dataclass
class Sample:
    """A sample on its path: its rows while it is refined, then what they sum to."""

    adaptive: Refinement | None
    limit: int
    ends: dict[float, float] = field(default_factory=dict)
    rows: int = 0
    found: tuple[dict[str, Floats], dict[str, float]] | None = None

    def wanted(self) -> Floats:
        if self.adaptive is None:
            return np.empty(0)
        return self.adaptive.wanted(max(self.limit - self.rows, 0))

    @property
    def open(self) -> bool:
        """Whether more rows are wanted and may be evaluated."""
        return len(self.wanted()) > 0

    def close(self) -> None:
        """Keeps what the rows sum to, in place of the rows."""
        if self.adaptive is not None:
            self.found, self.adaptive = (self.adaptive.sums(), self.adaptive.errors()), None

    def answer(self) -> tuple[dict[str, Floats], dict[str, float]]:
        if self.adaptive is not None:
            return self.adaptive.sums(), self.adaptive.errors()
        assert self.found is not None
        return self.found

    @property
    def is_kept(self) -> bool:
        """Whether its rows are."""
        return self.adaptive is not None


class Paths:
    """The paths of all samples of a request about one target."""

    shares = True
    """Whether rows may be evaluated together with those of other targets."""

    def __init__(self, model: LoadedModel, resolved: Resolved, memory: int) -> None:
        at, samples, layers = resolved.recipe.at, resolved.samples, resolved.choice.layers
        assert isinstance(at, Path)
        self._model, self._resolved, self._memory, self._at = model, resolved, memory, at
        self.model, self.resolved, self.memory, self.conductance = model, resolved, memory, at.conductance
        self.row_bytes = _kept_bytes(model, resolved)
        self._rows_at: RowsAt | None = None
        limit = min(at.max_steps + 1, max(memory // self.row_bytes, 3))
        self._few_rounds = limit >= FEW_ROUNDS and model.bytes_per_row(samples.runs[0].x) < SMALL
        self._is_smooth = model.is_smooth(resolved.choice)
        self._is_kinked = self._few_rounds and model.is_kinked(resolved.choice)
        self._weighs = not at.conductance and resolved.recipe.reduce is contribution
        self._ends = (
            {} if at.conductance or at.apart else {layer: samples.wide_ends(layer) for layer in layers}
        )
        alone = [layer for layer in layers if resolved.cuts[layer]]
        self._joint = resolved.recipe.sums_to_change and not alone and model.is_joint_cut(resolved.choice)
        ray = model.is_homogeneous(resolved.choice)
        self._is_shifted = not ray and model.is_homogeneous(resolved.choice, shifted=True)
        self._from_zero = _from_zero(resolved)
        self._width = model.width_at_zero(resolved.choice) if self._is_smooth else 0.0
        self.samples = [
            Sample(self._adaptive(k, is_ray), limit, {0.0: 0.0} if is_ray and ray else {})
            for k, is_ray in enumerate((self._from_zero & (ray or self._is_shifted)).tolist())
        ]

    @property
    def kept(self) -> int:
        """The bytes of the rows that are kept."""
        return sum(one.rows * self.row_bytes for one in self.samples if one.is_kept)

    def begin(self, number: int) -> None:
        """Begins anew with a sample whose rows were dropped."""
        one = self.samples[number]
        if not one.is_kept:
            one.adaptive, one.rows = self._adaptive(number, ray=False), 0

    def _adaptive(self, number: int, ray: bool) -> Refinement:
        straight = {
            layer: high[number] - low[number] for layer, (high, low) in self._ends.items() if self._weighs
        }
        layers = self._resolved.choice.layers
        if self._joint and straight:
            straight[TOGETHER] = np.concatenate([one.reshape(-1) for one in straight.values()])
        return Adaptive(
            conductance=self._at.conductance,
            tolerance=self._at.tolerance or 0.0,
            layers=(*layers, TOGETHER) if self._joint else layers,
            straight=straight or None,
            ray=((0.0, 1.0) if self._is_shifted else (1.0,)) if ray else (),
            few_rounds=self._few_rounds,
            smooth=self._is_smooth,
            way=self._way(number),
            kinked=_kinked(bool(self._from_zero[number])) if self._is_kinked else (),
        )

    def _way(self, number: int) -> Way:
        """How the path of a sample is run through: of a network without kinks that normalises what is zero at x', so
        that nothing is singular near it, with the deviation of the sources at x for that of what it takes."""
        if not self._width or not self._from_zero[number]:
            return STRAIGHT
        ends = (self._resolved.samples.ends(name)[0][number] for name in self._resolved.choice.sources)
        deviation = max(float(np.std(high, dtype=np.float64)) for high in ends)
        return Way.from_width(self._width / deviation) if deviation > 0 else STRAIGHT

    def refine(self, numbers: Sequence[int]) -> Generator[int, object, object]:
        """Evaluates what these samples want; returns the last word of whoever asked."""
        return (
            yield from self.evaluate(
                [(k, float(alpha)) for k in numbers for alpha in self.samples[k].wanted()]
            )
        )

    def evaluate(self, points: Sequence[Point]) -> Generator[int, object, object]:
        """Evaluates rows that are wanted."""
        said: object = None
        told = set[int]()
        if self._rows_at is None:
            self._rows_at = RowsAt(
                self._model, self._resolved, self._memory, activations=self._at.conductance
            )
        for rows in self._rows_at(points):
            self.take(rows, told)
            said = (yield rows.evaluated) or said
        return said

    def take(self, rows: Rows, told: set[int]) -> None:
        """Takes rows that are wanted; `told` are the samples whose change is known."""
        for sample, own in itertools.groupby(enumerate(rows.points), lambda each: each[1][0]):
            places, points_there = zip(*own, strict=True)
            one, alphas = self.samples[sample], [alpha for _, alpha in points_there]
            assert isinstance(one.adaptive, Adaptive)
            one.rows += len(alphas)
            for place, alpha in zip(places, alphas, strict=True):
                if alpha in (0.0, 1.0):
                    one.ends[alpha] = float(rows.values[place])
            if len(one.ends) == 2 and sample not in told:
                self._tell_change(one)
                told.add(sample)
            one.adaptive.add(alphas, self._part(rows.layers, slice(places[0], places[-1] + 1)))

    def _tell_change(self, one: Sample) -> None:
        """Tells the sums of a sample what they are to be, where they are to be anything, once both ends are known."""
        assert one.adaptive is not None
        cuts = {**self._resolved.cuts, TOGETHER: True} if self._resolved.recipe.sums_to_change else {}
        one.adaptive.note_change(_change(one.ends[0.0], one.ends[1.0]), cuts)

    def _part(
        self, layers: Mapping[str, tuple[Array, Array]], part: slice
    ) -> dict[str, tuple[Array, Array | None]]:
        """These rows of each layer, and of all layers as one where only together they are a cut."""
        found: dict[str, tuple[Array, Array | None]] = {
            name: (g[part], h[part] if self._at.conductance else None) for name, (g, h) in layers.items()
        }
        if self._joint:
            g, h = (
                np.concatenate([_flat(pair[k][part]) for pair in layers.values()], axis=1) for k in (0, 1)
            )
            found[TOGETHER] = (g, h if self._at.conductance else None)
        return found

    def sums(self) -> Sums:
        """What the rows so far sum to."""
        name, reduced = self._resolved.request.method.name, self._resolved.recipe.reduced
        found = [one.answer() for one in self.samples]
        fine, errors = {}, {}
        for layer in self._resolved.choice.layers:
            fine[layer] = np.stack([sums[layer] for sums, _ in found])
            errors[layer] = np.array([error[layer] for _, error in found])
            if layer in self._ends:
                high, low = self._ends[layer]
                fine[layer] = reduced(name, fine[layer], high - low)
        ends = (np.array([one.ends.get(end, np.nan) for one in self.samples]) for end in (1.0, 0.0))
        value, baseline_value = ends
        return Sums(fine, {}, value, baseline_value, errors)


@functools.cache
def _kinked(from_zero: bool) -> tuple[float, ...]:
    """Where rows lie with which a path begins that kinks alone bend."""
    return tuple((np.arange(KINKED + 1) / KINKED) ** (TOWARDS_ZERO if from_zero else 1.0))


def _flat(rows: Array) -> Array:
    return rows.reshape(len(rows), -1)


def _change(low: float, high: float) -> float:
    """The change of the target; nothing where rounding in float32 explains it."""
    change = high - low
    return 0.0 if abs(change) <= 4e-7 * max(abs(low), abs(high)) else change


def _from_zero(resolved: Resolved) -> NDArray[np.bool_]:
    """Of which samples all sources are zeros at x'."""
    found = np.ones(resolved.samples.count, np.bool_)
    for name in resolved.choice.sources:
        low = resolved.samples.ends(name)[1]
        found &= ~(low != 0).reshape(len(low), -1).any(axis=1)
    return found
