"""Runs the programs of a question and adds up what they give, in float64 on the host."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import Overloaded
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.graph_tools.programs.program import path_program, rows_program
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.server.engine.models.forward import taken as taken
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.request.resolve import Question, source_ends
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
    """Per layer the attributions `[samples, *unit]` and, for path methods, those of the coarse grid.

    `spread` `[samples]` is there where samples have several references: see `LayerAttribution`.
    """

    fine: dict[str, Floats]
    coarse: dict[str, Floats]
    evaluations: int
    spread: dict[str, Floats] = field(default_factory=dict)


def averaged(question: Question, sums: Sums) -> tuple[Question, Sums]:
    """The question and its sums with one entry a sample: the mean over its references."""
    count = question.references
    if count == 1:
        return question, sums

    def apart(array: Floats) -> Floats:
        return array.reshape(-1, count, *array.shape[1:])

    def spread(array: Floats) -> Floats:
        return per_sample(apart(array).std(axis=1))

    fine, coarse = (
        {layer: np.asarray(apart(array).mean(axis=1)) for layer, array in part.items()}
        for part in (sums.fine, sums.coarse)
    )
    spreads = {layer: spread(array) for layer, array in sums.fine.items()}
    answered = replace(
        question,
        index=question.index[::count],
        value=question.value[::count],
        baseline_value=apart(question.baseline_value).mean(axis=1),
    )
    return answered, Sums(fine, coarse, sums.evaluations, spreads)


def row_limit(
    model: LoadedModel,
    question: Question,
    memory: int,
    session: Session | None = None,
    shapes_at: Callable[[int], Mapping[str, tuple[int, ...]]] | None = None,
) -> int:
    """How many rows a run may have within `memory` bytes.

    By the network's tensors, and of a program whose session is given by those that it holds at once, of which
    `shapes_at` says the shapes of the inputs at a number of rows.
    """
    row = model.bytes_per_row(question.samples[0])
    limit = int(np.clip(memory // row, 1, MAX_ROWS))
    if session is None or session.footprint is None or shapes_at is None or row * MAX_ROWS * SMALL < memory:
        return limit
    few, more = (session.footprint.peak(shapes_at(rows)) for rows in (4, 8))
    each = max((more - few) / 4, 1)
    return int(np.clip((memory / ARENA - (few - 4 * each)) // each, 1, limit))


def shapes_of(
    model: LoadedModel, question: Question, rows: int, references: bool = False
) -> dict[str, tuple[int, ...]]:
    """The shapes of the inputs of a program that runs the network at this many rows."""
    baselines = question.baselines[0] if references else {}
    fed = {**question.samples[0], **{f"baseline/{n}": a for n, a in baselines.items()}}
    places = {n: axis_of(model, question, n) for n in fed}
    fed["target/weight"], places["target/weight"] = question.weights[0], question.rows[question.choice.target]
    return {n: _with_rows(a.shape, places[n], rows) for n, a in fed.items()}


def _with_rows(shape: tuple[int, ...], place: RowAxis | None, rows: int) -> tuple[int, ...]:
    if place is None:
        return shape
    return tuple(rows * place.factor if k == place.axis else d for k, d in enumerate(shape))


def gradient(model: LoadedModel, question: Question, memory: int) -> Evaluation:
    """Gradients at x, times the activation for gradient_x_activation."""
    session = _rows_session(model, question)
    times = question.request.method == "gradient_x_activation" and question.request.multiply_by_inputs
    parts: dict[str, list[Floats]] = {layer: [] for layer in question.choice.layers}
    evaluations = 0

    def run(inputs: Mapping[str, Array], weight: Array) -> dict[str, Array]:
        return session.run({**inputs, "target/weight": weight})

    limit = row_limit(model, question, memory, session, lambda rows: shapes_of(model, question, rows))
    for inputs, weight in slices(model, question, limit):
        for found, rows in apart(model, question, inputs, weight, run):
            evaluations += rows
            yield rows
            for layer, (h, g) in _pairs(question, found).items():
                parts[layer].append(g * h if times else g)
    return Sums({layer: np.concatenate(p) for layer, p in parts.items()}, {}, evaluations)


def apart(
    model: LoadedModel,
    question: Question,
    inputs: Mapping[str, Array],
    weight: Array,
    run: Callable[[Mapping[str, Array], Array], dict[str, Array]],
) -> Iterator[tuple[dict[str, Array], int]]:
    """What `run` finds for the samples of the inputs, and how many it evaluated for that.

    All at once; where something is not finite each sample alone, since NaN of one may be in what others share with it:
    0 times NaN is NaN.
    """
    found, count = run(inputs, weight), count_of(model, inputs) if question.together else 1
    if count == 1 or _all_finite(found):
        yield found, count
        return
    rows = question.rows[question.choice.target]
    for k in range(count):
        one = {n: taken(a, axis_of(model, question, n), [k]) for n, a in inputs.items()}
        yield run(one, taken(weight, rows, [k])), 1 if k else 1 + count


def _all_finite(found: Mapping[str, Array]) -> bool:
    """Whether what comes out of the way back is finite; the network's own values may be infinite by right."""
    return all(
        np.isfinite(a).all() for name, a in found.items() if not name.startswith(("activation/", "target/"))
    )


def path_sums(model: LoadedModel, question: Question, plan: Plan, memory: int) -> Evaluation:
    """The attributions of a path method."""
    hidden = question.request.method == "neuron_ig"
    sums = yield from along_path(model, question, plan, hidden, memory)
    if hidden or not question.request.multiply_by_inputs:
        return sums
    ends = {layer: unit_of(question, layer) for layer in question.choice.layers}
    scaled = [
        {layer: total * (ends[layer][0] - ends[layer][1]) for layer, total in part.items()}
        for part in (sums.fine, sums.coarse)
    ]
    return replace(sums, fine=scaled[0], coarse=scaled[1])


def missed(question: Question, sums: Sums) -> Floats:
    """Per sample what multipliers of Integrated Gradients, multiplied, miss of the change, relative to their L1 norm; 0
    for all else, whose answer holds its residual."""
    request, names = question.request, question.choice.layers
    if request.multiply_by_inputs or request.method != "integrated_gradients":
        return np.zeros(question.count // question.references)
    parts = {}
    for name in names:
        high, low = unit_of(question, name)
        parts[name] = sums.fine[name] * (high - low)
    answered, mean = averaged(question, Sums(parts, {}, 0))
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum([per_sample(part) for part in mean.fine.values()], axis=0)
        norm = np.sum([per_sample(np.abs(part)) for part in mean.fine.values()], axis=0)
        ratio = np.abs(total - (answered.value - answered.baseline_value)) / np.maximum(norm, 1e-30)
    return np.asarray(np.where(np.isfinite(norm), ratio, 0))


def along_path(model: LoadedModel, question: Question, plan: Plan, delta: bool, memory: int) -> Evaluation:
    """Sums over the plan's terms: of gradients times differences of activations, or (not `delta`) of gradients."""
    if not question.together:
        return (yield from _one_by_one(model, question, plan, delta))
    key = ("path", question.choice, delta)
    session = model.session(key, lambda: path_program(model.network, question.choice, delta=delta))
    common = _common(question)

    def shapes_at(rows: int) -> dict[str, tuple[int, ...]]:
        terms = dict.fromkeys(TERM_FIELDS, (rows + -(-rows // 2),))  # the fine grid and the coarse one
        sizes = dict.fromkeys(ROW_FIELDS, (rows,)) | terms
        return {
            **{name: array.shape for name, array in common.items()},
            **{f"path/{n}": s for n, s in sizes.items()},
        }

    limit = row_limit(model, question, memory, session, shapes_at)
    while True:
        try:
            return (yield from _together(session, question, plan, common, limit))
        except Overloaded:
            if limit <= 3:
                raise
            limit = max(limit // 2, 3)


def _common(question: Question) -> dict[str, Array]:
    """The inputs of a path program that all runs have."""
    return {
        **{f"sample/{name}": array for name, array in question.samples[0].items()},
        **question.samples[0],  # those that all rows share keep their names
        **{f"baseline/{name}": array for name, array in question.baselines[0].items()},
        "target/weight": question.weights[0],
        "path/slots": np.zeros(2 * question.count, dtype=np.float32),
    }


def _together(
    session: Session, question: Question, plan: Plan, common: Mapping[str, Array], limit: int
) -> Evaluation:
    totals: dict[str, Floats] = {}
    evaluations = 0
    for batch in batches(plan, question.count, limit):
        found = session.run({**common, **_fields(batch)})
        parts = {layer: found[f"sum/{layer}"].astype(np.float64) for layer in question.choice.layers}
        evaluations += len(batch.row_sample)
        yield len(batch.row_sample)
        if not _all_finite(found):  # NaN of one sample is in all slots: of each, only its own run counts
            for part in parts.values():
                part[:] = 0
            for sample, alone in by_sample(batch):
                if len(alone.row_sample) < len(batch.row_sample):
                    found = session.run({**common, **_fields(alone)})
                    evaluations += len(alone.row_sample)
                    yield len(alone.row_sample)
                own = slice(2 * sample, 2 * sample + 2)
                for layer, part in parts.items():
                    part[own] = found[f"sum/{layer}"][own]
        for layer, part in parts.items():
            totals[layer] = totals[layer] + part if layer in totals else part
    fine = {layer: total[0::2] for layer, total in totals.items()}
    coarse = {layer: total[1::2] for layer, total in totals.items()} if plan.coarse else {}
    return Sums(fine, coarse, evaluations)


def _fields(batch: Batch) -> dict[str, Array]:
    return {f"path/{name}": getattr(batch, name) for name in (*ROW_FIELDS, *TERM_FIELDS)}


def _one_by_one(model: LoadedModel, question: Question, plan: Plan, delta: bool) -> Evaluation:
    """The same sums with one row a run, for networks whose rows cannot share one."""
    session = _rows_session(model, question)
    fine: dict[str, list[Floats]] = {layer: [] for layer in question.choice.layers}
    coarse: dict[str, list[Floats]] = {layer: [] for layer in question.choice.layers}
    ready, last_need = _schedule(plan)
    for sample, baseline, weight in zip(question.samples, question.baselines, question.weights, strict=True):
        rows: dict[int, dict[str, tuple[Floats, Floats]]] = {}
        totals: dict[tuple[str, int], Floats] = {}
        for node, alpha in enumerate(plan.alphas):
            moved = {n: between(baseline[n], sample[n], float(alpha)) for n in question.choice.sources}
            rows[node] = _pairs(question, session.run({**sample, **moved, "target/weight": weight}))
            yield 1
            for layer in question.choice.layers:
                for term, level in ready.get(node, ()):
                    part = _product(term, rows, layer, delta)
                    totals[layer, level] = totals[layer, level] + part if (layer, level) in totals else part
            rows = {n: row for n, row in rows.items() if last_need.get(n, -1) > node}
        for layer in question.choice.layers:
            fine[layer].append(totals[layer, 0])
            if plan.coarse:
                coarse[layer].append(totals[layer, 1])
    return Sums(
        {layer: np.concatenate(p) for layer, p in fine.items()},
        {layer: np.concatenate(p) for layer, p in coarse.items()} if plan.coarse else {},
        len(plan.alphas) * question.count,
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


def _rows_session(model: LoadedModel, question: Question) -> Session:
    return model.session(("rows", question.choice), lambda: rows_program(model.network, question.choice))


def _pairs(question: Question, found: Mapping[str, Array]) -> dict[str, tuple[Floats, Floats]]:
    """Per layer activation and gradient as `[samples, *unit]`."""
    return {
        layer: (
            unit(found[f"activation/{layer}"], question.rows[layer]),
            unit(found[f"gradient/{layer}"], question.rows[layer]),
        )
        for layer in question.choice.layers
    }


def unit(array: Array, rows: RowAxis | None) -> Floats:
    """A tensor as `[samples, *unit]`."""
    wide = array.astype(np.float64)
    return wide[None] if rows is None else rows.first(wide)


def unit_of(question: Question, name: str) -> tuple[Floats, Floats]:
    """A source at x and at x' as `[samples, *unit]`."""
    high, low = source_ends(question, name)
    return high.astype(np.float64), low.astype(np.float64)


def slices(
    model: LoadedModel, question: Question, limit: int, references: bool = False
) -> Iterator[tuple[dict[str, Array], Array]]:
    """Inputs and target weights of at most `limit` samples at a time."""
    for sample, baseline, weight in zip(question.samples, question.baselines, question.weights, strict=True):
        fed = {**sample, **({f"baseline/{n}": a for n, a in baseline.items()} if references else {})}
        if not question.together or question.count <= limit:
            yield fed, weight
            continue
        rows = question.rows[question.choice.target]
        assert rows is not None
        for start in range(0, question.count, limit):
            stop = min(start + limit, question.count)
            part = {n: taken(a, axis_of(model, question, n), range(start, stop)) for n, a in fed.items()}
            yield part, taken(weight, rows, range(start, stop))


def axis_of(model: LoadedModel, question: Question, name: str) -> RowAxis | None:
    plain = name.removeprefix("baseline/")
    if plain in model.network.input_axes:
        axis = model.network.input_axes[plain]
        return None if axis is None else RowAxis(axis)
    return question.rows[plain]


def one_sample(
    model: LoadedModel, question: Question, sample: int
) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """Inputs, baselines and target weights of one sample, as a run takes them."""
    if not question.together:
        return question.samples[sample], question.baselines[sample], question.weights[sample]
    inputs, baselines = (
        {n: taken(a, axis_of(model, question, n), [sample]) for n, a in arrays.items()}
        for arrays in (question.samples[0], question.baselines[0])
    )
    return inputs, baselines, taken(question.weights[0], question.rows[question.choice.target], [sample])


def only(model: LoadedModel, question: Question, sample: int) -> Question:
    """The question of one sample."""
    inputs, baselines, weight = one_sample(model, question, sample)
    return replace(
        question,
        samples=(inputs,),
        baselines=(baselines,),
        weights=(weight,),
        index=(question.index[sample],),
        value=question.value[[sample]],
        baseline_value=question.baseline_value[[sample]],
        selection=question.selection[[sample]],
        count=1,
        references=1,
    )


def count_of(model: LoadedModel, inputs: Mapping[str, Array]) -> int:
    """How many samples the inputs hold."""
    axes = model.network.input_axes
    return next((a.shape[axes[n]] for n, a in inputs.items() if axes.get(n) is not None), 1)  # type: ignore[index]
