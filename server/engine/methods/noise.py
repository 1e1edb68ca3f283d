"""Random draws of another method: noise at its sources, or points between drawn references and the input.

Draw k has a random stream of its own, of the seed and k, so that neither the number of rows in a run nor what else is
asked moves a number; all samples and targets share it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.methods import ExpectedGradients, SmoothGrad, SmoothGradSquared, VarGrad
from onnx_attribution.server.engine.methods.stages import Driver, Evaluations, Stage
from onnx_attribution.server.engine.models.forward import moved
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import (
    AtInput,
    Draws,
    Floats,
    Recipe,
    Reduction,
    contribution,
    multiplier,
    recipe,
    recipe_of,
)
from onnx_attribution.server.engine.request import targets
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.samples import Run, Samples
from onnx_attribution.server.engine.request.targets import per_sample
from onnx_attribution.server.engine.rows.evaluate import Sums, row_limit
from onnx_attribution.values import Array, AttributionRequest

Rows = NDArray[np.intp]


@recipe(ExpectedGradients)
def expected_gradients(method: ExpectedGradients) -> Recipe:
    of = Recipe(AtInput(), contribution if method.multiply_by_inputs else multiplier)
    at = Draws(of, method.draws, method.seed, method.stdev, along=True)
    return Recipe(at, sums_to_change=method.multiply_by_inputs, layer_is_source=True)


@recipe(SmoothGrad)
def smoothgrad(method: SmoothGrad) -> Recipe:
    return _noisy(method, "mean")


@recipe(SmoothGradSquared)
def smoothgrad_sq(method: SmoothGradSquared) -> Recipe:
    return _noisy(method, "mean_square")


@recipe(VarGrad)
def vargrad(method: VarGrad) -> Recipe:
    return _noisy(method, "variance")


def _noisy(method: SmoothGrad | SmoothGradSquared | VarGrad, reduction: Reduction) -> Recipe:
    of = recipe_of(method.inner())
    if isinstance(of.at, Draws):
        raise InvalidArgument(
            f"{method.name} is of a method that draws nothing itself, not of {method.of!r}", option="of"
        )
    at = Draws(
        of, method.draws, method.seed, method.stdev, method.noise_level, reduction, absolute=method.absolute
    )
    return Recipe(at, layer_is_source=of.layer_is_source)


def driver(inner: Mapping[type, Driver]) -> Driver:
    """The driver of draws, by the drivers of what is drawn."""

    def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
        """One stage, whatever the stages of one draw are."""
        at = _draws(asked[0])
        run = inner[type(at.of.at)]
        plain = [replace(one, recipe=at.of, request=_whole(one)) for one in asked]

        def planned() -> int:
            drawn = next(iter(run(model, plain, memory))).planned() * at.count
            ends = asked[0].samples.count * (1 + asked[0].recipe.needs_reference)
            ends *= len(asked) if _has_values(asked[0]) else 1
            return ends + (drawn // asked[0].samples.references if at.along else drawn)

        yield Stage(lambda: 0, planned, lambda: _drawn(model, asked, memory, run))

    return stages


def _whole(resolved: Resolved) -> AttributionRequest:
    """The request with the values of units, of which means and squares are taken."""
    request = resolved.request
    is_whole = not request.sums_only and request.channel_sums is None
    return request if is_whole else request.changed(sums_only=False, channel_sums=None)


def _draws(resolved: Resolved) -> Draws:
    assert isinstance(resolved.recipe.at, Draws)
    return resolved.recipe.at


def _drawn(model: LoadedModel, asked: Sequence[Resolved], memory: int, run: Driver) -> Evaluations:
    """The moments of the attributions over all draws."""
    at, first = _draws(asked[0]), asked[0]
    _require_numbers(first)
    ends = [] if _has_values(first) else (yield from _both_ends(model, asked, memory))
    totals = [{layer: _Moments(at.reduction) for layer in one.choice.layers} for one in asked]
    size = _draws_a_run(model, first, memory)
    for start in range(0, at.count, size):
        numbers = range(start, min(start + size, at.count))
        points = _points(first, numbers)
        count = len(points.rows)
        if not ends:
            points = points.and_ends(first)
        moving = [_moved(one, points) for one in asked]
        sums: list[Sums] = []
        for stage in run(model, moving, memory):  # the last is the finest
            sums = yield from stage.run()
        for total, one in zip(totals, sums, strict=True):
            for layer, moments in total.items():
                moments.add(_of_each(first, points, layer, one.fine[layer][:count], len(numbers)))
        if not ends:
            ends = [_split(first, one.value[count:]) for one in sums]
    return [
        Sums(
            {layer: moments.value() for layer, moments in total.items()},
            {},
            *ends[k],
            errors={layer: per_sample(moments.error()) for layer, moments in total.items()},
            averaged=True,
        )
        for k, total in enumerate(totals)
    ]


Ends = tuple[Floats, Floats]
"""A target at x and at x'; NaN where the method knows no x'."""


def _both_ends(
    model: LoadedModel, asked: Sequence[Resolved], memory: int
) -> Generator[int, None, list[Ends]]:
    """The targets at both ends, by runs of their own."""
    names = asked[0].choice.sources
    high = yield from _values(model, asked, memory, lambda run: {name: run.x[name] for name in names})
    low = [np.full_like(values, np.nan) for values in high]
    if asked[0].recipe.needs_reference:
        low = yield from _values(model, asked, memory, lambda run: run.baselines)
    return list(zip(high, low, strict=True))


def _split(resolved: Resolved, values: Floats) -> Ends:
    """The values of the rows that `and_ends` adds."""
    count = resolved.samples.count
    return values[:count], values[count:] if len(values) > count else np.full(count, np.nan)


def _values(
    model: LoadedModel, asked: Sequence[Resolved], memory: int, at: Callable[[Run], Mapping[str, Array]]
) -> Generator[int, None, list[Floats]]:
    """The targets where the sources are what `at` says of a run; yields the rows evaluated by each run."""
    samples, names = asked[0].samples, [one.choice.target for one in asked]
    values: list[list[Floats]] = [[] for _ in asked]
    start = 0
    for part in samples.parts(row_limit(model, samples, memory)):
        found = moved(model, part.x, at(part), names)
        yield part.count
        for parts, one, name in zip(values, asked, names, strict=True):
            weights = one.selection[start : start + part.count]
            parts.append(targets.values([found[name]], samples.place(name), weights))
        start += part.count
    return [np.concatenate(parts) for parts in values]


def _require_numbers(resolved: Resolved) -> None:
    """Refuses noise on text and truth values."""
    for name in resolved.choice.sources:
        kind = resolved.samples.runs[0].x[name].dtype
        if kind.kind not in "fViu":
            raise InvalidArgument(
                f"noise is added to numbers; the source {name!r} holds {'text' if kind.kind in 'OSU' else kind.name}; "
                "name other sources",
                reason=Reason.SOURCE_INVALID,
                source=name,
            )


def _has_values(resolved: Resolved) -> bool:
    """Whether the draws themselves may say the target's values at both ends: a gradient comes with its value."""
    return isinstance(_draws(resolved).of.at, AtInput) and _may_share(resolved)


def _may_share(resolved: Resolved) -> bool:
    """Whether more rows than samples may share a run: no tensor is shared by all samples."""
    choice, samples = resolved.choice, resolved.samples
    places = [
        samples.place(name) for name in (*choice.sources, *choice.layers, *resolved.beside, choice.target)
    ]
    return samples.together and all(place is not None for place in places)


def _draws_a_run(model: LoadedModel, resolved: Resolved, memory: int) -> int:
    """How many draws share what one call of the other method evaluates; 1 where samples share a tensor."""
    samples = resolved.samples
    if samples.together and not _may_share(resolved):
        return 1
    return max(row_limit(model, samples, memory) // samples.count, 1)


@dataclass(frozen=True)
class _Points:
    """Where some draws are evaluated: `rows` of the request, draw by draw, and there the sources `[rows, *unit]` and
    the differences that belong to their gradients, where these are taken along a line."""

    rows: Rows
    sources: Mapping[str, Array]
    differences: Mapping[str, Floats]

    def and_ends(self, resolved: Resolved) -> _Points:
        """With a row of every sample at x, and one at x' where the method knows an x'."""
        samples, ends = resolved.samples, 1 + resolved.recipe.needs_reference
        rows = np.concatenate([self.rows, *[np.arange(samples.count)] * ends])
        sources = {
            name: np.concatenate([array, *samples.ends(name)[:ends]]) for name, array in self.sources.items()
        }
        return _Points(rows, sources, self.differences)


def _points(resolved: Resolved, numbers: Sequence[int]) -> _Points:
    at, samples, names = _draws(resolved), resolved.samples, resolved.choice.sources
    references, every = samples.references, np.arange(samples.count)
    ends = {name: samples.ends(name) for name in names}
    scales = {name: noise_scale(at, high) for name, (high, _) in ends.items()}
    rows: list[Rows] = []
    sources: dict[str, list[Array]] = {name: [] for name in names}
    differences: dict[str, list[Floats]] = {name: [] for name in names}
    for number in numbers:
        rng = np.random.default_rng([at.seed, number])
        chosen, alpha = every, 1.0
        if at.along:
            alpha, reference = rng.uniform(), rng.integers(references)
            chosen = every.reshape(-1, references)[:, reference]
        rows.append(chosen)
        for name, (high, low) in ends.items():
            noise = rng.standard_normal(high.shape[1:])
            noisy = high[chosen].astype(np.float64) + scales[name][chosen] * noise
            if at.along:
                base = low[chosen].astype(np.float64)
                differences[name].append(noisy - base)
                noisy = base + alpha * (noisy - base)
            sources[name].append(_as(high.dtype, noisy))
    return _Points(
        np.concatenate(rows),
        {name: np.concatenate(parts) for name, parts in sources.items()},
        {name: np.concatenate(parts) for name, parts in differences.items() if parts},
    )


def noise_scale(at: Draws, high: Array) -> Floats:
    """The standard deviation of the noise of each sample, which broadcasts to `[samples, *unit]`."""
    shape = (len(high), *[1] * (high.ndim - 1))
    if at.stdev is not None:
        return np.full(shape, at.stdev)
    flat = high.reshape(len(high), -1).astype(np.float64)
    finite = np.isfinite(flat)
    top = np.where(finite, flat, -np.inf).max(axis=1, initial=-np.inf)
    bottom = np.where(finite, flat, np.inf).min(axis=1, initial=np.inf)
    return np.asarray(at.noise_level * np.where(top > bottom, top - bottom, 0)).reshape(shape)


def _moved(resolved: Resolved, points: _Points) -> Resolved:
    """The request of the other method with a sample for each row of the points."""
    rows = points.rows
    of = _draws(resolved).of
    if points.differences:  # these take the activation's place
        of = replace(of, reduce=multiplier)
    samples = _placed(resolved.samples, points)
    return replace(
        resolved,
        request=_whole(resolved),
        recipe=of,
        samples=samples,
        index=tuple(resolved.index[row] for row in rows),
        labels=(),
        value=np.full(len(rows), np.nan),
        baseline_value=np.full(len(rows), np.nan),
        selection=resolved.selection[rows],
    )


def _placed(samples: Samples, points: _Points) -> Samples:
    """The rows of the request with their sources at the points."""
    if samples.together:
        runs = [samples.runs[0].take([int(row) for row in points.rows])]
    else:
        runs = [samples.runs[row] for row in points.rows]
    start, placed = 0, []
    for run in runs:
        part = slice(start, start + run.count)
        own = {name: run.back(name, units[part]) for name, units in points.sources.items()}
        placed.append(replace(run, x={**run.x, **own}))
        start += run.count
    return Samples(tuple(placed), samples.together)


def _as(kind: np.dtype[np.generic], array: Floats) -> Array:
    """The array in the type of its source; integers are rounded."""
    return (np.rint(array) if kind.kind in "iu" else array).astype(kind)


def _of_each(resolved: Resolved, points: _Points, layer: str, found: Floats, draws: int) -> Floats:
    """The attributions `[draws, samples, *unit]` of what was evaluated at the points."""
    at, references = _draws(resolved), resolved.samples.references
    if points.differences and at.of.reduce is contribution:
        found = found * points.differences[layer]
    found = found.reshape(draws, -1, *found.shape[1:])
    if not at.along and references > 1:
        found = found.reshape(draws, -1, references, *found.shape[2:]).mean(axis=2)
    return np.abs(found) if at.absolute else found


class _Moments:
    """What draws add up to, in float64 and about the first draw, so that equal draws have no variance."""

    def __init__(self, reduction: Reduction) -> None:
        self._reduction, self._count = reduction, 0
        self._sums: list[Floats] = []
        self._about: Floats | None = None

    def add(self, draws: Floats) -> None:
        """Adds `[draws, ...]`."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = draws**2 if self._reduction == "mean_square" else draws
            if self._about is None:
                self._about = values[0]
                self._sums = [np.zeros_like(values[0]) for _ in range(self._powers)]
            for value in values:
                part = value - self._about
                power = part
                for k in range(self._powers):
                    self._sums[k] += power
                    power = power * part
        self._count += len(draws)

    def value(self) -> Floats:
        """The mean, or the variance."""
        first, second = self._raw[:2]
        assert self._about is not None
        return np.asarray(second - first**2 if self._reduction == "variance" else self._about + first)

    def error(self) -> Floats:
        """The standard error of the value; NaN of one draw."""
        count = self._count
        if count < 2:
            return np.full_like(self._sums[0], np.nan)
        first, second, *higher = self._raw
        variance = second - first**2
        if self._reduction == "variance":
            third, fourth = higher
            central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
            return np.asarray(np.sqrt(np.maximum(central - variance**2, 0) / count))
        return np.asarray(np.sqrt(np.maximum(variance, 0) / (count - 1)))

    @property
    def _powers(self) -> int:
        return 4 if self._reduction == "variance" else 2

    @property
    def _raw(self) -> list[Floats]:
        return [one / self._count for one in self._sums]
