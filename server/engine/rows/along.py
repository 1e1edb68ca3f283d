"""Sums over the rows of a plan: of rows that are kept for a moment, or inside a program where layers are large."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_attribution.errors import Overloaded
from onnx_attribution.graph_tools.programs.path import path_program
from onnx_attribution.server.engine.backend import Held, Session
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Path
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.samples import Samples
from onnx_attribution.server.engine.rows.evaluate import Evaluation, Floats, Sums, all_finite, row_limit
from onnx_attribution.server.engine.rows.plan import Batch, Plan, Term, batches, by_sample, count_rows
from onnx_attribution.server.engine.rows.points import Point, row_bytes, rows_of_each
from onnx_attribution.values import Array

ROW_FIELDS = ("row_sample", "row_alpha")
TERM_FIELDS = ("gradient_row", "left_row", "right_row", "weight", "slot")
"""The inputs of a path program that have an entry a row, or a term."""
BLOCK = 1 << 16
"""Units that are added up at once."""


def along_path(
    model: LoadedModel, asked: Sequence[Resolved], plan: Plan, delta: bool, memory: int
) -> Generator[int, None, list[Sums]]:
    """Sums over the plan's terms, of targets in one tensor: of gradients times differences of activations, or (not
    `delta`) of gradients."""
    if not _inside(model, asked[0], memory):
        return (yield from _on_host(model, asked, plan, delta, memory))
    found = []
    for one in asked:
        found.append((yield from _in_program(model, one, plan, delta, memory)))
    return found


def planned(model: LoadedModel, resolved: Resolved, plan: Plan, memory: int) -> int:
    """How many rows `along_path` evaluates, as far as that is known before."""
    if _inside(model, resolved, memory):
        return count_rows(plan, resolved.samples.count, row_limit(model, resolved.samples, memory))
    return len(plan.points) * resolved.samples.count


def _inside(model: LoadedModel, resolved: Resolved, memory: int) -> bool:
    """Whether the rows of a run take so much memory that only their sums should leave the program."""
    if not resolved.samples.together:
        return False
    if only_totals(resolved):
        return True
    rows = min(row_limit(model, resolved.samples, memory), 16)
    return 4 * rows * row_bytes(model, resolved) > memory


def only_totals(resolved: Resolved) -> bool:
    """Whether the sums over terms are summed over units as well before they leave the program."""
    at = resolved.recipe.at
    return resolved.request.sums_only and isinstance(at, Path) and at.conductance


# --- rows as they come


def _on_host(
    model: LoadedModel, asked: Sequence[Resolved], plan: Plan, delta: bool, memory: int
) -> Generator[int, None, list[Sums]]:
    count = asked[0].samples.count
    adding = [[_Adding(plan, delta) for _ in range(count)] for _ in asked]
    points: list[Point] = [(k, float(alpha)) for k in range(count) for alpha in plan.points]
    for each in rows_of_each(model, asked, points, memory, activations=delta):
        for target, rows in zip(adding, each, strict=True):
            samples = np.array([sample for sample, _ in rows.points])
            for sample in dict.fromkeys(samples.tolist()):
                own = np.flatnonzero(samples == sample)
                part = slice(int(own[0]), int(own[-1]) + 1)
                target[sample].add(
                    {name: (g[part], h[part] if delta else None) for name, (g, h) in rows.layers.items()},
                    rows.values[part],
                )
        yield sum(rows.evaluated for rows in each)
    return [_added(one, plan, target) for one, target in zip(asked, adding, strict=True)]


def _added(resolved: Resolved, plan: Plan, adding: Sequence[_Adding]) -> Sums:
    """What the rows of all samples sum to."""
    low, high = (np.array([one.values[end] for one in adding]) for end in plan.ends)
    layers = resolved.choice.layers
    fine = {layer: np.stack([one.totals[layer][0] for one in adding]) for layer in layers}
    coarse = {layer: np.stack([one.totals[layer][1] for one in adding]) for layer in layers}
    return Sums(fine, coarse if plan.coarse else {}, high, low)


@dataclass
class _Adding:
    """The sums of one sample, whose rows come in the order of the plan's points."""

    plan: Plan
    delta: bool
    values: list[float] = field(default_factory=list)
    totals: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)
    _kept: dict[str, list[tuple[int, Array, Array | None]]] = field(default_factory=dict)

    def add(self, rows: Mapping[str, tuple[Array, Array | None]], values: Array) -> None:
        """Takes the next rows `[rows, *unit]` of each layer, adds up the terms that are complete with them, and keeps
        the rows that others need."""
        start = len(self.values)
        self.values += [float(value) for value in values]
        end = len(self.values)
        levels = [
            [term for term in terms if start <= max(term.gradient, term.left, term.right) < end]
            for terms in (self.plan.fine, self.plan.coarse)
        ]
        needed = self.plan.needed_from(end)
        for name, (g, h) in rows.items():
            held = self._kept.get(name, [])
            held = held + [(start + k, g[k], None if h is None else h[k]) for k in range(end - start)]
            if name not in self.totals:
                self.totals[name] = (np.zeros(g.shape[1:]), np.zeros(g.shape[1:]))
            for total, terms in zip(self.totals[name], levels, strict=True):
                if terms:
                    _add_terms(total, terms, held)
            self._kept[name] = [each for each in held if each[0] in needed]


def _add_terms(total: Floats, terms: list[Term], held: list[tuple[int, Array, Array | None]]) -> None:
    place = {number: k for k, (number, _, _) in enumerate(held)}
    weights = np.array([term.weight for term in terms])
    gradient = [place[term.gradient] for term in terms]
    left, right = (
        [place[node] for node in nodes] for nodes in zip(*((t.left, t.right) for t in terms), strict=True)
    )
    g_rows = [np.reshape(g, -1) for _, g, _ in held]
    h_rows = [np.reshape(h, -1) for _, _, h in held if h is not None]
    flat = total.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        part = slice(start, start + BLOCK)
        values = np.stack([row[part] for row in g_rows]).astype(np.float64)[gradient]
        with np.errstate(invalid="ignore", over="ignore"):
            if h_rows:
                h = np.stack([row[part] for row in h_rows]).astype(np.float64)
                values = values * (h[right] - h[left])
            flat[part] += (weights[:, None] * values).sum(axis=0)


# --- sums inside a program


def _in_program(model: LoadedModel, resolved: Resolved, plan: Plan, delta: bool, memory: int) -> Evaluation:
    table, totals = resolved.recipe.table, only_totals(resolved)
    few = delta and not totals and len(plan.points) == len(plan.alphas)  # large, each in some difference
    key = ("path", resolved.choice, delta, resolved.recipe.rules, totals, few)
    session = model.session(
        key,
        lambda: path_program(
            model.network, resolved.choice, delta=delta, rules=table, totals=totals, products=few
        ),
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
    held = session.hold(common)
    while True:
        try:
            return (yield from _together(session, resolved, plan, held, limit))
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
    session: Session, resolved: Resolved, plan: Plan, common: Mapping[str, Held], limit: int
) -> Evaluation:
    totals: dict[str, Floats] = {}
    at_ends = np.full((2, resolved.samples.count), np.nan)
    for batch in batches(plan, resolved.samples.count, limit):
        found = session.run({**common, **_fields(batch)})
        parts = {layer: found[f"sum/{layer}"] for layer in resolved.choice.layers}
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
            if layer in totals:
                np.add(totals[layer], part, out=totals[layer])
            else:
                totals[layer] = part.astype(np.float64)
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
