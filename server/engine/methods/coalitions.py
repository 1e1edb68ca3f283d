"""The target where some groups of features are at their baseline, for methods that take no derivative."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.server.engine.models.forward import moved
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Floats
from onnx_attribution.server.engine.request import targets
from onnx_attribution.server.engine.request.groups import Features
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import row_limit
from onnx_attribution.server.engine.rows.fitting import Fitting
from onnx_attribution.values import Array

Numbers = NDArray[np.intp]
Row = tuple[int, int]
"""A sample and the number of what is evaluated of it, from 0, or one of the ends."""
Absent = Callable[[int, int], Numbers]
"""From a sample and a number to the groups that are at their baseline."""
INPUT, BASELINE = -1, -2


def features_of(resolved: Resolved) -> Features:
    assert resolved.features is not None
    return resolved.features


def touched(resolved: Resolved) -> list[list[int]]:
    """Per sample the groups that differ from their baseline. Others have no effect."""
    found: list[set[int]] = [set() for _ in range(resolved.samples.count)]
    for name, parts in features_of(resolved).of.items():
        high, low = resolved.samples.ends(name)
        for groups, x, y in zip(found, high, low, strict=True):
            both_nan = (x != x) & (y != y)
            groups |= parts.touched(np.asarray((x != y) & ~both_nan))
    return [sorted(groups) for groups in found]


def rows_of(counts: Sequence[int]) -> list[Row]:
    """Of each sample both ends, and so many numbers."""
    return [(k, number) for k, count in enumerate(counts) for number in (INPUT, BASELINE, *range(count))]


def values_at(
    model: LoadedModel, asked: Sequence[Resolved], counts: Sequence[int], absent: Absent, memory: int
) -> Generator[int, None, list[tuple[Floats, Floats, Floats]]]:
    """Per sample each target at x, `[targets]`, at x', and at the numbers, `[targets, count]`; yields the rows of each
    run."""
    found, parts, start = (yield from _values_at(model, asked, rows_of(counts), absent, memory)), [], 0
    for count in counts:
        parts.append((found[:, start], found[:, start + 1], found[:, start + 2 : start + 2 + count]))
        start += 2 + count
    return parts


def _values_at(
    model: LoadedModel, asked: Sequence[Resolved], rows: Sequence[Row], absent: Absent, memory: int
) -> Generator[int, None, Floats]:
    """Each target at each row, `[targets, rows]`."""
    resolved = asked[0]  # but for the target, one is as the others
    limit = row_limit(model, resolved.samples, memory) if resolved.samples.together else 1
    ends = {name: resolved.samples.ends(name) for name in features_of(resolved).of}
    found = []

    def run(part: Sequence[Row]) -> list[Floats]:
        return _values(model, asked, part, _replaced(resolved, ends, part, absent))

    for part, values in Fitting(limit).runs(rows, run):
        found.append(values)
        yield len(part)
    return np.concatenate(found, axis=1)


def _replaced(
    resolved: Resolved, ends: Mapping[str, tuple[Array, Array]], rows: Sequence[Row], absent: Absent
) -> dict[str, Array]:
    """The sources at the rows, `[rows, *unit]`."""
    samples = [k for k, _ in rows]
    found: dict[str, Array] = {}
    of = features_of(resolved).of
    both = {INPUT: np.empty(0, np.intp), BASELINE: np.arange(features_of(resolved).count)}
    groups = [both[number] if number in both else absent(k, number) for k, number in rows]
    for name, parts in of.items():
        high, low = ends[name]
        masks = np.stack([parts.mask(some) for some in groups])
        found[name] = np.where(masks, low[samples], high[samples])
    return found


def _values(
    model: LoadedModel, asked: Sequence[Resolved], rows: Sequence[Row], sources: dict[str, Array]
) -> list[Floats]:
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
