"""Runs the programs of a request and adds up what they give, in float64 on the host."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import Overloaded
from onnx_attribution.graph_tools.programs.path import path_program
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.samples import Run, Samples
from onnx_attribution.server.engine.request.targets import per_sample
from onnx_attribution.server.engine.rows.plan import Batch, Plan, Term, batches, by_sample
from onnx_attribution.values import Array

Floats = NDArray[np.float64]
Evaluation = Generator[int, None, "Sums"]
"""Yields the rows evaluated by each run; returns the sums."""
MAX_ROWS = 256
ARENA = 2
"""Bytes of onnxruntime's arena for each that is alive: it grows by doubling, and nodes run in another order."""
SMALL = 64
"""Times the network's tensors that a program does not reach: budgets beyond need no closer look."""

ROW_FIELDS = ("row_sample", "row_alpha")
TERM_FIELDS = ("gradient_row", "left_row", "right_row", "weight", "slot")
"""The inputs of a path program that have an entry a row, or a term."""


@dataclass(frozen=True)
class Sums:
    """Per layer the attributions `[samples, *unit]` and, for path methods, those of the coarse grid, or `errors`
    `[samples]`, estimates of their L1 error.

    `value` and `baseline_value` `[samples]` are the target at x and at x'; NaN: the programs that ran do not say it.
    `spread` `[samples]` is there where samples have several references: see `LayerAttribution`.
    """

    fine: dict[str, Floats]
    coarse: dict[str, Floats]
    value: Floats = field(default_factory=lambda: np.full(1, np.nan))
    baseline_value: Floats = field(default_factory=lambda: np.full(1, np.nan))
    errors: dict[str, Floats] = field(default_factory=dict)
    spread: dict[str, Floats] = field(default_factory=dict)


def averaged(resolved: Resolved, sums: Sums) -> tuple[Resolved, Sums]:
    """The request and its sums with one entry a sample: the mean over its references."""
    count = resolved.samples.references
    if count == 1:
        return resolved, sums

    def apart(array: Floats) -> Floats:
        return array.reshape(-1, count, *array.shape[1:])

    def spread(array: Floats) -> Floats:
        return per_sample(apart(array).std(axis=1))

    fine, coarse = (
        {layer: np.asarray(apart(array).mean(axis=1)) for layer, array in part.items()}
        for part in (sums.fine, sums.coarse)
    )
    spreads = {layer: spread(array) for layer, array in sums.fine.items()}
    errors = {layer: np.asarray(apart(array).mean(axis=1)) for layer, array in sums.errors.items()}
    answered = replace(
        resolved,
        index=resolved.index[::count],
        value=resolved.value[::count],
        baseline_value=apart(resolved.baseline_value).mean(axis=1),
    )
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


def apart(part: Run, run: Callable[[Run], dict[str, Array]]) -> Iterator[tuple[dict[str, Array], int]]:
    """What `run` finds for some samples, and how many it evaluated for that.

    All at once; where something is not finite each sample alone, since NaN of one may be in what others share with it:
    0 times NaN is NaN.
    """
    found = run(part)
    if part.count == 1 or all_finite(found):
        yield found, part.count
        return
    for k in range(part.count):
        yield run(part.take([k])), 1 if k else 1 + part.count


def all_finite(found: Mapping[str, Array]) -> bool:
    """Whether what comes out of the way back is finite; the network's own values may be infinite by right."""
    for name, array in found.items():
        if name.startswith("target/"):
            if np.isnan(array).any():
                return False
        elif not name.startswith("activation/") and not np.isfinite(array).all():
            return False
    return True


def along_path(model: LoadedModel, resolved: Resolved, plan: Plan, delta: bool, memory: int) -> Evaluation:
    """Sums over the plan's terms: of gradients times differences of activations, or (not `delta`) of gradients."""
    if not resolved.samples.together:
        return (yield from _one_by_one(model, resolved, plan, delta))
    table = resolved.recipe.table
    key = ("path", resolved.choice, delta, id(table))
    session = model.session(
        key, lambda: path_program(model.network, resolved.choice, delta=delta, rules=table)
    )
    common = _common(resolved.samples)

    def shapes_at(rows: int) -> dict[str, tuple[int, ...]]:
        terms = dict.fromkeys(TERM_FIELDS, (rows + -(-rows // 2),))  # the fine grid and the coarse one
        sizes = dict.fromkeys(ROW_FIELDS, (rows,)) | terms
        return {
            **{name: array.shape for name, array in common.items()},
            **{f"path/{n}": s for n, s in sizes.items()},
        }

    limit = row_limit(model, resolved.samples, memory, session, shapes_at)
    while True:
        try:
            return (yield from _together(session, resolved, plan, common, limit))
        except Overloaded:
            if limit <= 3:
                raise
            limit = max(limit // 2, 3)


def _common(samples: Samples) -> dict[str, Array]:
    """The inputs of a path program that all runs have."""
    (run,) = samples.runs
    return {
        **{f"sample/{name}": array for name, array in run.x.items()},
        **run.feeds(baselines=True),  # those that all rows share keep their names
        "path/slots": np.zeros(2 * run.count, dtype=np.float32),
    }


def _together(
    session: Session, resolved: Resolved, plan: Plan, common: Mapping[str, Array], limit: int
) -> Evaluation:
    totals: dict[str, Floats] = {}
    at_ends = np.full((2, resolved.samples.count), np.nan)
    for batch in batches(plan, resolved.samples.count, limit):
        found = session.run({**common, **_fields(batch)})
        parts = {layer: found[f"sum/{layer}"].astype(np.float64) for layer in resolved.choice.layers}
        _note_ends(at_ends, plan, batch, found)
        yield len(batch.row_sample)
        if not all_finite(found):  # NaN of one sample is in all slots: of each, only its own run counts
            for part in parts.values():
                part[:] = 0
            for sample, alone in by_sample(batch):
                if len(alone.row_sample) < len(batch.row_sample):
                    found = session.run({**common, **_fields(alone)})
                    yield len(alone.row_sample)
                _note_ends(at_ends, plan, alone, found)
                own = slice(2 * sample, 2 * sample + 2)
                for layer, part in parts.items():
                    part[own] = found[f"sum/{layer}"][own]
        for layer, part in parts.items():
            totals[layer] = totals[layer] + part if layer in totals else part
    fine = {layer: total[0::2] for layer, total in totals.items()}
    coarse = {layer: total[1::2] for layer, total in totals.items()} if plan.coarse else {}
    low, high = at_ends
    return Sums(fine, coarse, high, low)


def _note_ends(at_ends: Floats, plan: Plan, batch: Batch, found: Mapping[str, Array]) -> None:
    """Keeps the target of the rows that are at x' or at x."""
    for values, node in zip(at_ends, plan.ends, strict=True):
        here = batch.nodes == node
        values[batch.row_sample[here]] = found["target/value"][here]


def _fields(batch: Batch) -> dict[str, Array]:
    return {f"path/{name}": getattr(batch, name) for name in (*ROW_FIELDS, *TERM_FIELDS)}


def _one_by_one(model: LoadedModel, resolved: Resolved, plan: Plan, delta: bool) -> Evaluation:
    """The same sums with one row a run, for networks whose rows cannot share one."""
    session = rows_session(model, resolved)
    fine: dict[str, list[Floats]] = {layer: [] for layer in resolved.choice.layers}
    coarse: dict[str, list[Floats]] = {layer: [] for layer in resolved.choice.layers}
    ready, last_need = _schedule(plan)
    ends: list[list[Floats]] = [[], []]
    for run in resolved.samples.runs:
        rows: dict[int, dict[str, tuple[Floats, Floats]]] = {}
        totals: dict[tuple[str, int], Floats] = {}
        for node, alpha in enumerate(plan.points):
            moved = {n: between(low, run.x[n], float(alpha)) for n, low in run.baselines.items()}
            found = session.run({**run.feeds(), **moved})
            rows[node] = pairs(resolved, found)
            for values, end in zip(ends, plan.ends, strict=True):
                if node == end:
                    values.append(found["target/value"].astype(np.float64))
            yield 1
            for layer in resolved.choice.layers:
                for term, level in ready.get(node, ()):
                    part = _product(term, rows, layer, delta)
                    totals[layer, level] = totals[layer, level] + part if (layer, level) in totals else part
            rows = {n: row for n, row in rows.items() if last_need.get(n, -1) > node}
        for layer in resolved.choice.layers:
            fine[layer].append(totals[layer, 0])
            if plan.coarse:
                coarse[layer].append(totals[layer, 1])
    return Sums(
        {layer: np.concatenate(p) for layer, p in fine.items()},
        {layer: np.concatenate(p) for layer, p in coarse.items()} if plan.coarse else {},
        np.concatenate(ends[1]),
        np.concatenate(ends[0]),
    )


def _schedule(plan: Plan) -> tuple[dict[int, list[tuple[Term, int]]], dict[int, int]]:
    """After which node each term can be added up, and until which node each row is needed."""
    ready: dict[int, list[tuple[Term, int]]] = {}
    last_need: dict[int, int] = {}
    for level, terms in enumerate((plan.fine, plan.coarse)):
        for term in terms:
            nodes = (term.gradient, term.left, term.right)
            ready.setdefault(max(nodes), []).append((term, level))
            for node in nodes:
                last_need[node] = max(last_need.get(node, -1), max(nodes))
    return ready, last_need


def between(low: Array, high: Array, alpha: float) -> Array:
    """The point at `alpha` of the way from `low` to `high`, in their type."""
    wide = alpha * high.astype(np.float64) + (1 - alpha) * low.astype(np.float64)
    return wide.astype(high.dtype)


def _product(
    term: Term, rows: Mapping[int, Mapping[str, tuple[Floats, Floats]]], layer: str, delta: bool
) -> Floats:
    g = rows[term.gradient][layer][1]
    return term.weight * (g * (rows[term.right][layer][0] - rows[term.left][layer][0]) if delta else g)


def rows_session(model: LoadedModel, resolved: Resolved) -> Session:
    table = resolved.recipe.table
    key = ("rows", resolved.choice, id(table))
    return model.session(key, lambda: rows_program(model.network, resolved.choice, rules=table))


def pairs(resolved: Resolved, found: Mapping[str, Array]) -> dict[str, tuple[Floats, Floats]]:
    """Per layer activation and gradient as `[samples, *unit]`."""
    return {
        layer: (
            resolved.samples.units(layer, found[f"activation/{layer}"]),
            resolved.samples.units(layer, found[f"gradient/{layer}"]),
        )
        for layer in resolved.choice.layers
    }
