"""Occlusion: by how much the target falls where a group of features is at its baseline.

For a group G, `F(x) - F(x with the elements of G at the baseline)`, in units of the target. Every element has the value
of its group, as in Captum's FeatureAblation; where windows overlap, the mean over those that cover it, as in Captum's
Occlusion (sliding windows: Zeiler and Fergus 2014, arXiv 1311.2901). No derivative is taken, so that any model that
runs can be asked. The values do not sum to F(x) - F(x') unless F is additive in the groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import Overloaded
from onnx_attribution.methods import Occlusion
from onnx_attribution.server.engine.methods.stages import Evaluations, Stage
from onnx_attribution.server.engine.models.forward import moved
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Groups, Recipe, recipe
from onnx_attribution.server.engine.request import targets
from onnx_attribution.server.engine.request.groups import Features
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Sums, row_limit
from onnx_attribution.values import Array

Row = tuple[int, int]
"""A sample and the group that is at its baseline there, or one of the ends."""
INPUT, BASELINE = -1, -2


@recipe(Occlusion)
def occlusion(method: Occlusion) -> Recipe:
    return Recipe(Groups(method.groups, method.windows, method.strides), layer_is_source=True)


def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
    """One stage: every group is evaluated, once for all targets."""
    yield Stage(lambda: 0, lambda: len(rows_of(asked[0])), lambda: effects_of(model, asked, memory))


def rows_of(resolved: Resolved) -> list[Row]:
    """What is evaluated: both ends and the groups that differ from their baseline. Others have no effect."""
    touched: list[set[int]] = [set() for _ in range(resolved.samples.count)]
    for name, parts in _features(resolved).of.items():
        high, low = resolved.samples.ends(name)
        for groups, x, y in zip(touched, high, low, strict=True):
            both_nan = (x != x) & (y != y)
            groups |= parts.touched(np.asarray((x != y) & ~both_nan))
    return [(k, group) for k, groups in enumerate(touched) for group in (INPUT, BASELINE, *sorted(groups))]


def effects_of(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Evaluations:
    """The effects of all groups on each target, spread over their elements."""
    resolved = asked[0]  # but for the target, one is as the others
    features, rows = _features(resolved), rows_of(resolved)
    found = np.full((len(asked), resolved.samples.count, features.count + 2), np.nan)  # the ends come last
    limit = row_limit(model, resolved.samples, memory) if resolved.samples.together else 1
    ends = {name: resolved.samples.ends(name) for name in features.of}
    start = 0
    while start < len(rows):
        part = rows[start : start + limit]
        try:
            values = _values(model, asked, part, _occluded(resolved, ends, part))
        except Overloaded:
            if limit == 1:
                raise
            limit = max(limit // 2, 1)
            continue
        samples, groups = np.array(part).T
        for each, value in zip(found, values, strict=True):
            each[samples, groups] = value
        start += len(part)
        yield len(part)
    effects = np.zeros((*found.shape[:2], features.count))
    samples, groups = np.array([row for row in rows if row[1] >= 0], np.int64).reshape(-1, 2).T
    effects[:, samples, groups] = found[:, samples, INPUT] - found[:, samples, groups]
    return [
        Sums(
            {name: parts.spread(effect) for name, parts in features.of.items()},
            {},
            ends[:, INPUT],
            ends[:, BASELINE],
        )
        for effect, ends in zip(effects, found, strict=True)
    ]


def _features(resolved: Resolved) -> Features:
    assert resolved.features is not None
    return resolved.features


def _occluded(
    resolved: Resolved, ends: dict[str, tuple[Array, Array]], rows: Sequence[Row]
) -> dict[str, Array]:
    """The sources at the rows, `[rows, *unit]`."""
    samples = [k for k, _ in rows]
    found: dict[str, Array] = {}
    for name, parts in _features(resolved).of.items():
        high, low = ends[name]
        masks = np.stack(
            [
                parts.mask(group) if group >= 0 else np.full(parts.mask(0).shape, group == BASELINE)
                for _, group in rows
            ]
        )
        found[name] = np.where(masks, low[samples], high[samples])
    return found


def _values(
    model: LoadedModel, asked: Sequence[Resolved], rows: Sequence[Row], sources: dict[str, Array]
) -> list[NDArray[np.float64]]:
    """The targets at the rows."""
    samples = [k for k, _ in rows]
    run = asked[0].samples.take(samples)
    given = {name: run.back(name, array) for name, array in sources.items()}
    names = [one.choice.target for one in asked]
    found = moved(model, run.x, given, names, where="with a group at its baseline")
    return [
        targets.values([found[name]], one.samples.place(name), one.selection[samples])
        for name, one in zip(names, asked, strict=True)
    ]
