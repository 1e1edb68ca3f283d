"""Rows at points of the paths of samples: gradients and activations as they are, for whoever adds them up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_attribution.errors import Overloaded
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.graph_tools.programs.rows import Reduction
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.models.scheduler import Work
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Floats, all_finite, between, row_limit, rows_session
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


def rows_at(
    model: LoadedModel,
    resolved: Resolved,
    points: Sequence[Point],
    memory: int,
    *,
    activations: bool = True,
    totals: Reduction | None = None,
    channels: Mapping[str, int] | None = None,
) -> Iterator[Rows]:
    """The rows at points, as many in one run as fit; `totals` and `channels` are those of `rows_program`.

    A row that is not finite is run alone once more, and so are those beside it: NaN of one may be in what others share
    with it.
    """
    session = rows_session(model, resolved, activations, totals, channels)
    limit = row_limit(model, resolved.samples, memory, session, resolved.samples.runs[0].shapes)
    if resolved.recipe.alone:
        limit = 1
    start = 0
    while start < len(points):
        part = points[start : start + (limit if resolved.samples.together else 1)]
        try:
            found = model.scheduler.run(session, _work(resolved, part, limit), resolved.stop)
        except Overloaded:
            if limit == 1:
                raise
            limit = max(limit // 2, 1)
            continue
        start += len(part)
        if len(part) == 1 or all_finite(found):
            yield _rows(resolved, part, found, len(part))
            continue
        for k, point in enumerate(part):
            alone = session.run(feeds_at(resolved, [point]))
            yield _rows(resolved, [point], alone, 1 if k else 1 + len(part))


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


def _work(resolved: Resolved, points: Sequence[Point], limit: int) -> Work:
    """The rows as work that may share a run with others, if their rows may."""
    run = resolved.samples.runs[0]
    places: dict[str, RowAxis | None] = {}
    if resolved.samples.together and not resolved.recipe.alone:
        found = {
            f"{kind}/{layer}": run.places[layer]
            for layer in resolved.choice.layers
            for kind in ("gradient", "activation")
        }
        sums = {
            f"{kind}/{layer}": RowAxis(0)
            for layer in resolved.choice.layers
            for kind in ("total", "channels")
        }
        places = {**run.places, **found, **sums, "target/value": RowAxis(0)}
    return Work(feeds_at(resolved, points), places, len(points), limit)


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
    numbers, samples = [sample for sample, _ in points], resolved.samples
    alphas = np.array([alpha for _, alpha in points])
    if (alphas == 1).all():
        return samples.take(numbers).feeds()
    whole = {samples.place(name) for name in samples.runs[0].baselines} <= {RowAxis(0), None}
    ends = samples.take(numbers[:1] if whole and len(set(numbers)) == 1 else numbers)
    moved = {
        name: between(low, ends.x[name], _along(alphas, ends.places[name], low.ndim))
        for name, low in ends.baselines.items()
    }
    return {**samples.take(numbers, without=frozenset(moved)).feeds(), **moved}


def _along(alphas: Floats, place: RowAxis | None, rank: int) -> Floats:
    """One number a row, laid along the axis of the rows of a tensor of this rank."""
    each = np.repeat(alphas, 1 if place is None else place.factor)
    return each.reshape([-1 if place and k == place.axis else 1 for k in range(rank)])
