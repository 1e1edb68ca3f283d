"""Rows at points of the paths of samples: gradients and activations as they are, for whoever adds them up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.graph_tools.programs.rows import Reduction
from onnx_attribution.server.engine.models.loaded import LoadedModel, rows_key
from onnx_attribution.server.engine.models.scheduler import Work
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import (
    Floats,
    all_finite,
    between,
    row_limit,
    rows_built,
    rows_session,
)
from onnx_attribution.server.engine.rows.fitting import Fitting
from onnx_attribution.server.engine.rows.shared import shared
from onnx_attribution.values import Array

Point = tuple[int, float]
"""A sample and where on its path, from 0 at x' to 1 at x."""


@dataclass(frozen=True)
class Rows:
    """What a run found at some points: per layer gradients and activations `[points, *unit]`, the latter `[points, 0]`
    unless they are asked for, or `totals` `[points, 1]` or `[points, channels]`, and the target's values; `evaluated`
    counts the rows that were run for it."""

    points: Sequence[Point]
    layers: dict[str, tuple[Array, Array]]
    values: Floats
    evaluated: int
    totals: dict[str, Floats] = field(default_factory=dict)


class RowsAt:
    """The rows at points of a request, as many in one run as fit; `totals` and `channels` are those of `rows_program`.

    A row that is not finite is run alone once more, and so are those beside it: NaN of one may be in what others share
    with it.
    """

    def __init__(
        self,
        model: LoadedModel,
        resolved: Resolved,
        memory: int,
        *,
        activations: bool = True,
        totals: Reduction | None = None,
        channels: Mapping[str, int] | None = None,
    ) -> None:
        self._model, self._resolved = model, resolved
        self._session = rows_session(model, resolved, activations, totals, channels)
        shapes = resolved.samples.runs[0].shapes
        limit = row_limit(model, resolved.samples, memory, self._session, shapes)
        self._fitting = Fitting(limit if resolved.samples.together and not resolved.recipe.alone else 1)
        self._places = _places(resolved)

    def __call__(self, points: Sequence[Point]) -> Iterator[Rows]:
        resolved = self._resolved

        def run(part: Sequence[Point]) -> dict[str, Array]:
            work = Work(feeds_at(resolved, part), self._places, len(part), self._fitting.limit)
            return self._model.scheduler.run(self._session, work, resolved.stop)

        for part, found in self._fitting.runs(points, run):
            if len(part) == 1 or all_finite(found):
                yield _rows(resolved, part, found, len(part))
                continue
            for k, point in enumerate(part):
                alone = self._session.run(feeds_at(resolved, [point]))
                yield _rows(resolved, [point], alone, 1 if k else 1 + len(part))


def rows_at(
    model: LoadedModel, resolved: Resolved, points: Sequence[Point], memory: int, **options: Any
) -> Iterator[Rows]:
    """The rows at points, as `RowsAt` has them."""
    return RowsAt(model, resolved, memory, **options)(points)


def rows_of_each(
    model: LoadedModel,
    asked: Sequence[Resolved],
    points: Sequence[Point],
    memory: int,
    *,
    activations: bool = True,
    totals: Reduction | None = None,
    channels: Mapping[str, int] | None = None,
) -> Iterator[list[Rows]]:
    """The rows at points for each of several targets of one tensor, as `rows_at` has them for one.

    The network runs once for all of them, where its program can be divided.
    """
    first = asked[0]
    program = None
    if len(asked) > 1:
        key = rows_key(first.choice, first.recipe.rules, activations, totals, channels)
        build = partial(rows_built, model, first, activations, totals, channels)
        program = shared(model, key, build)
    if program is None:
        options: dict[str, Any] = {"activations": activations, "totals": totals, "channels": channels}
        each = [rows_at(model, one, points, memory, **options) for one in asked]
        for rows in each[0] if len(each) == 1 else ():
            yield [rows]
        if len(each) > 1:
            yield [joined_rows(list(own)) for own in each]
        return
    limit = row_limit(model, first.samples, memory, program.before, first.samples.runs[0].shapes)
    limit = max(limit // 2, 1)  # all that is made for the way back is alive at once
    fitting = Fitting(limit if first.samples.together and not first.recipe.alone else 1)

    def run(part: Sequence[Point]) -> list[dict[str, Array]]:
        assert program is not None
        numbers = [sample for sample, _ in part]
        weights = [one.samples.take(numbers, frozenset(one.samples.runs[0].x)).weight for one in asked]
        with model.scheduler.counted(len(part)):
            return program.run(feeds_at(first, part), weights)

    for part, found in fitting.runs(points, run):
        if len(part) == 1 or all(map(all_finite, found)):
            yield [_rows(one, part, own, len(part)) for one, own in zip(asked, found, strict=True)]
            continue
        for k, point in enumerate(part):
            evaluated = 1 if k else 1 + len(part)
            yield [_rows(one, [point], own, evaluated) for one, own in zip(asked, run([point]), strict=True)]


def joined_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of several runs as one."""
    if len(parts) == 1:
        return parts[0]
    return Rows(
        [point for part in parts for point in part.points],
        {
            name: (
                np.concatenate([part.layers[name][0] for part in parts]),
                np.concatenate([part.layers[name][1] for part in parts]),
            )
            for name in parts[0].layers
        },
        np.concatenate([part.values for part in parts]),
        sum(part.evaluated for part in parts),
        {name: np.concatenate([part.totals[name] for part in parts]) for name in parts[0].totals},
    )


def _rows(resolved: Resolved, points: Sequence[Point], found: dict[str, Array], evaluated: int) -> Rows:
    samples = resolved.samples
    values = found["target/value"].astype(np.float64)
    layers, totals = dict[str, tuple[Array, Array]](), dict[str, Floats]()
    for name in resolved.choice.layers:
        if f"total/{name}" in found:
            totals[name] = found[f"total/{name}"].astype(np.float64)[:, None]
            continue
        if f"channels/{name}" in found:
            totals[name] = found[f"channels/{name}"].astype(np.float64)
            continue
        gradient = samples.first(name, found[f"gradient/{name}"])
        if f"activation/{name}" in found:
            layers[name] = gradient, samples.first(name, found[f"activation/{name}"])
        else:
            layers[name] = gradient, np.empty((len(gradient), 0), gradient.dtype)
    return Rows(points, layers, values, evaluated, totals)


def _places(resolved: Resolved) -> dict[str, RowAxis | None]:
    """Where rows lie in what runs take and give, if they may share a run with those of others."""
    run = resolved.samples.runs[0]
    if not resolved.samples.together or resolved.recipe.alone:
        return {}
    found = {
        f"{kind}/{layer}": run.places[layer]
        for layer in resolved.choice.layers
        for kind in ("gradient", "activation")
    }
    first = RowAxis(0)
    sums = {f"{kind}/{layer}": first for layer in resolved.choice.layers for kind in ("total", "channels")}
    return {**run.places, **found, **sums, "target/value": first}


def row_bytes(model: LoadedModel, resolved: Resolved) -> int:
    """The bytes of the layers of one row, of gradients or of activations."""
    return sum(_unit_bytes(model, resolved, layer) for layer in resolved.choice.layers)


def _unit_bytes(model: LoadedModel, resolved: Resolved, layer: str) -> int:
    run = resolved.samples.runs[0]
    shape = model.shape_at(layer, resolved.samples.place(layer), run.x, run.count)
    if shape is None:
        return model.bytes_per_row(run.x) // 2
    return int(np.prod(shape, dtype=np.int64)) * 4 // run.count


def feeds_at(resolved: Resolved, points: Sequence[Point]) -> dict[str, Array]:
    """The inputs of a program of rows: sources at the points, all else as it is at x."""
    samples, alphas = resolved.samples, np.array([alpha for _, alpha in points])
    numbers = [sample for sample, _ in points]
    if (alphas == 1).all():
        return samples.take(numbers).feeds()
    one = samples.count == 1 or len(set(numbers)) == 1
    whole = one and all(
        place is None or (place.axis == 0 and place.factor == 1)
        for place in map(samples.place, samples.runs[0].baselines)
    )
    ends = samples.take(numbers[:1] if whole else numbers)
    moved = {
        name: between(low, ends.x[name], _along(alphas, ends.places[name], low.ndim))
        for name, low in ends.baselines.items()
    }
    return {**samples.take(numbers, without=frozenset(moved)).feeds(), **moved}


def _along(alphas: Floats, place: RowAxis | None, rank: int) -> Floats:
    """One number a row, laid along the axis of the rows of a tensor of this rank."""
    each = np.repeat(alphas, 1 if place is None else place.factor)
    return each.reshape([-1 if place and k == place.axis else 1 for k in range(rank)])
