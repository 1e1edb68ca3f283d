"""Runs the programs of a request and adds up what they give, in float64 on the host."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.graph_tools.programs.rows import Reduction, rows_program
from onnx_attribution.graph_tools.programs.signature import Program
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.server.engine.models.loaded import LoadedModel, rows_key
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.samples import Run, Samples
from onnx_attribution.server.engine.request.targets import per_sample
from onnx_attribution.supports import Support
from onnx_attribution.values import Array

Floats = NDArray[np.float64]
Evaluation = Generator[int, None, "Sums"]
"""Yields the rows evaluated by each run; returns the sums."""
MAX_ROWS = 256
ARENA = 2
"""Bytes of onnxruntime's arena for each that is alive: it grows by doubling, and nodes run in another order."""
SMALL = 64
"""Times the network's tensors that a program does not reach: budgets beyond need no closer look."""


@dataclass(frozen=True)
class Sums:
    """Per layer the attributions `[samples, *unit]` and, for path methods, those of the coarse grid, or `errors`
    `[samples]`, estimates of their L1 error.

    `value` and `baseline_value` `[samples]` are the target at x and at x'; NaN: the programs that ran do not say it.
    `spread` `[samples]` is there where samples have several references: see `LayerAttribution`. `averaged`: the others
    are means over the references already. `missed`, of terms that should sum to F(x): what they sum to
    beside it, and the sum of their magnitudes. `notes`: what the method says of itself. `supports`: of each
    sample, where the method has one.
    """

    fine: dict[str, Floats]
    coarse: dict[str, Floats]
    value: Floats = field(default_factory=lambda: np.full(1, np.nan))
    baseline_value: Floats = field(default_factory=lambda: np.full(1, np.nan))
    errors: dict[str, Floats] = field(default_factory=dict)
    spread: dict[str, Floats] = field(default_factory=dict)
    averaged: bool = False
    missed: tuple[Floats, Floats] | None = None
    notes: tuple[str, ...] = ()
    supports: tuple[Support, ...] = ()


def averaged(resolved: Resolved, sums: Sums) -> tuple[Resolved, Sums]:
    """The request and its sums with one entry a sample: the mean over its references."""
    count = resolved.samples.references
    if count == 1:
        return resolved, sums

    def apart(array: Floats) -> Floats:
        return array.reshape(-1, count, *array.shape[1:])

    def spread(array: Floats) -> Floats:
        if resolved.request.sums_only:
            array = per_sample(array)[:, None]
        return per_sample(apart(array).std(axis=1, dtype=np.float64))

    answered = replace(
        resolved,
        index=resolved.index[::count],
        labels=resolved.labels[::count],
        value=resolved.value[::count],
        baseline_value=apart(resolved.baseline_value).mean(axis=1),
    )
    if sums.averaged:
        return answered, sums
    fine, coarse = (
        {layer: np.asarray(apart(array).mean(axis=1, dtype=np.float64)) for layer, array in part.items()}
        for part in (sums.fine, sums.coarse)
    )
    spreads = {layer: spread(array) for layer, array in sums.fine.items()}
    errors = {layer: np.asarray(apart(array).mean(axis=1)) for layer, array in sums.errors.items()}
    return answered, Sums(fine, coarse, answered.value, answered.baseline_value, errors, spreads)


def row_limit(
    model: LoadedModel,
    samples: Samples,
    memory: int,
    session: Session | None = None,
    shapes_at: Callable[[int], Mapping[str, tuple[int, ...]]] | None = None,
) -> int:
    """How many rows a run may have within `memory` bytes.

    By the network's tensors, and of a program whose session is given by those that it holds at once, of which
    `shapes_at` says the shapes of the inputs at a number of rows.
    """
    row = model.bytes_per_row(samples.runs[0].x)
    limit = int(np.clip(memory // row, 1, MAX_ROWS))
    if session is None or session.footprint is None or shapes_at is None or row * MAX_ROWS * SMALL < memory:
        return limit
    few, more = (session.footprint.peak(shapes_at(rows)) for rows in (4, 8))
    each = max((more - few) / 4, 1)
    return int(np.clip((memory / ARENA - (few - 4 * each)) // each, 1, limit))


Several = list[dict[str, Array]]
"""What a run finds for each of several targets."""


def apart(parts: Sequence[Run], run: Callable[[Sequence[Run]], Several]) -> Iterator[tuple[Several, int]]:
    """What `run` finds for some samples, which stand here once for each target, and how many it evaluated for that.

    All at once; where something is not finite each sample alone, since NaN of one may be in what others share with it:
    0 times NaN is NaN.
    """
    found, count = run(parts), parts[0].count
    if count == 1 or all(map(all_finite, found)):
        yield found, count
        return
    for k in range(count):
        yield run([part.take([k]) for part in parts]), 1 if k else 1 + count


def all_finite(found: Mapping[str, Array]) -> bool:
    """Whether what comes out of the way back is finite; the network's own values may be infinite by right."""
    for name, array in found.items():
        if name.startswith("target/"):
            if np.isnan(array).any():
                return False
        elif not name.startswith("activation/") and not np.isfinite(array).all():
            return False
    return True


def between(low: Array, high: Array, alpha: float | Floats) -> Array:
    """The point at `alpha` of the way from `low` to `high`, in their type; `alpha` may broadcast to them."""
    found = np.multiply(alpha, high, dtype=np.float64)
    if low.any():
        found = found + np.multiply(1 - alpha, low, dtype=np.float64)
    return np.asarray(found, high.dtype)


def rows_session(
    model: LoadedModel,
    resolved: Resolved,
    activations: bool = True,
    totals: Reduction | None = None,
    channels: Mapping[str, int] | None = None,
) -> Session:
    return model.session(
        rows_key(resolved.choice, resolved.recipe.rules, activations, totals, channels),
        lambda: rows_built(model, resolved, activations, totals, channels),
    )


def rows_built(
    model: LoadedModel,
    resolved: Resolved,
    activations: bool,
    totals: Reduction | None,
    channels: Mapping[str, int] | None,
) -> Program:
    """The program of rows of a request."""
    found = resolved.recipe
    return rows_program(
        model.network,
        resolved.choice,
        rules=found.table,
        activations=activations,
        totals=totals,
        channels=channels,
        relevance=found.relevance,
        partial=found.partial,
    )
