"""Ablation and other interventions: what the target is where activations are removed, set, scaled or patched.

Of every sample and intervention there is one row, in which the tensors that the intervention edits have other values
and all that depends on them follows. Rows share runs as far as the memory allows. Edited layers that lie behind no
other edited one are given as they are at x, so that what lies before them is run once for each sample, not for each
row. No derivative is taken: any model that runs can be asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, ModelError, Reason
from onnx_attribution.graph_tools.ir.emit import element_type, holds_elements
from onnx_attribution.graph_tools.ir.reach import ancestors, dependents
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.graph_tools.programs.ablate import ablate_program, mask_of, scale_of, value_of
from onnx_attribution.graph_tools.select.targets import require_numbers
from onnx_attribution.interventions import MEAN, Edit, Intervened, InterventionRequest, Patch
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.server.engine.models.forward import forward
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.models.scheduler import Work
from onnx_attribution.server.engine.recipe import Recipe, Values
from onnx_attribution.server.engine.request import targets
from onnx_attribution.server.engine.request.edits import Change, Layer, changes_of, stacked
from onnx_attribution.server.engine.request.inputs import batch_words, checked_inputs, shared_by_all
from onnx_attribution.server.engine.request.samples import WEIGHT, Samples, split_samples
from onnx_attribution.server.engine.rows.evaluate import row_limit
from onnx_attribution.server.engine.rows.fitting import Fitting
from onnx_attribution.values import Array, ResolvedTarget

MAX_INTERVENTIONS = 16384  # as many as there may be groups of features
Row = tuple[int, int]
"""An intervention and a sample."""
FORWARD = Recipe(Values())
"""What is said of targets of which no derivative is taken."""


@dataclass
class _Request:
    """An intervention request in arrays; layers and outputs are tensors, and `layers` those of each intervention.

    `clean` holds, for each of the runs of the samples, the tensors as they are without any edit.
    """

    model: LoadedModel
    chosen: targets.Chosen
    layers: list[tuple[str, ...]]
    changes: list[list[Change]]
    edited: dict[str, Layer]
    outputs: tuple[str, ...]
    samples: Samples
    clean: list[dict[str, Array]]
    weights: NDArray[np.float64]
    memory: int
    evaluated: int
    stop: Callable[[], object] = lambda: None

    @property
    def measured(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.chosen.tensors, *self.outputs)))


@dataclass
class _Found:
    """What the rows gave, by intervention and sample."""

    values: NDArray[np.float64]
    largest: NDArray[np.int64]
    outputs: dict[str, list[list[Array]]] = field(default_factory=dict)


def intervened(
    model: LoadedModel,
    request: InterventionRequest,
    memory: int,
    stop: Callable[[], object] = lambda: None,
) -> Intervened:
    """The answer to a request.

    Raises:
        InvalidArgument, NotFound, ModelError: the message names the intervention, the layer and what would do.
    """
    started = time.monotonic()
    if len(request.interventions) > MAX_INTERVENTIONS:
        raise InvalidArgument(
            f"the request holds {len(request.interventions)} interventions; it may hold {MAX_INTERVENTIONS}",
            reason=Reason.REQUEST_TOO_LARGE, limit=MAX_INTERVENTIONS, actual=len(request.interventions),
        )  # fmt: skip
    model.require_computed([request.target.tensor, *request.outputs])
    chosen = targets.chosen(model, request.target, FORWARD)
    outputs = tuple(dict.fromkeys(_output(model, name) for name in request.outputs))
    named = _layers(model, request.interventions, (*chosen.tensors, *outputs))
    layers = [tuple(dict.fromkeys(named[edit.layer] for edit in one)) for one in request.interventions]
    edited = tuple(dict.fromkeys(name for names in layers for name in names))
    measured = tuple(dict.fromkeys((*chosen.tensors, *outputs)))

    inputs = checked_inputs(model, request.inputs)
    given = split_samples(model, inputs)
    tensors = tuple(dict.fromkeys((*measured, *edited)))
    rows, together, warnings = _places(model, tensors)
    if shared := ", ".join(map(repr, shared_by_all(model, inputs))):
        warnings.append(f"{shared} is shared by all samples: {batch_words(model)}")
    if random := model.randomness(chosen.tensor, inputs):
        warnings.append(random)
    rows = {**rows, WEIGHT: None}
    samples = Samples.laid(model, given, rows, together, 1)
    clean = _at(model, samples, tensors, memory)
    units = {name: _units(samples, clean, name) for name in edited}
    donors, evaluated = dict(units), samples.count
    if request.donors:
        wanted = _taken_from(request.interventions, named)
        others = split_samples(model, checked_inputs(model, request.donors))
        theirs = Samples.laid(model, others, rows, together, 1)
        seen = _at(model, theirs, wanted, memory) if wanted else []
        donors |= {name: _units(theirs, seen, name) for name in wanted}
        evaluated += theirs.count * bool(wanted)
    known = {
        name: Layer(
            name,
            element_type(model.tensors[name]),
            units[name],
            donors[name],
            rows[name] is None and clean[0][name].ndim > units[name][0].ndim,
        )
        for name in edited
    }
    changes = changes_of(request.interventions, {name: known[tensor] for name, tensor in named.items()})
    weights, words, labels, notes = targets.selection(model, chosen, request.target, samples, clean)
    asked = _Request(
        model, chosen, layers, changes, known, outputs, samples, clean, weights, memory, evaluated, stop
    )  # fmt: skip
    before = _without(asked)
    found = _evaluated(asked, before)
    value = ResolvedTarget(chosen.tensor, words, before.values[0], np.full(samples.count, np.nan), labels)
    return Intervened(
        value,
        found.values,
        found.largest,
        before.largest[0],
        {name: _stacked(name, each) for name, each in found.outputs.items()},
        {name: _stacked(name, each)[0] for name, each in before.outputs.items()},
        model.network.batch,
        asked.evaluated,
        time.monotonic() - started,
        model.digest,
        model.backend.provider,
        tuple(dict.fromkeys((*model.network.notes, *warnings, *chosen.notes, *notes))),
    )


# --- what is asked


def _layers(
    model: LoadedModel, interventions: Sequence[Sequence[Edit]], measured: Sequence[str]
) -> dict[str, str]:
    """The tensors of the layers by the names that the edits have.

    Raises:
        NotFound, InvalidArgument: there is no such layer, it holds nothing that can be edited, or nothing that is
            measured depends on it.
    """
    found: dict[str, str] = {}
    before = ancestors(model.nodes, list(measured))
    for number, edit in ((k, edit) for k, edits in enumerate(interventions) for edit in edits):
        if edit.layer in found:
            continue
        model.require_computed([edit.layer])
        name = edit.layer if edit.layer in model.network.input_axes else model.tensor(edit.layer)
        _require_elements(model, name, "layer")
        value = model.tensors[name]
        if (kind := element_type(value)).kind == "V":
            raise InvalidArgument(
                f"the layer {name!r} holds {kind.name}, of which onnxruntime takes no arrays; name one before or "
                "behind it",
                reason=Reason.LAYER_INVALID, layer=name,
            )  # fmt: skip
        if name not in before:
            raise InvalidArgument(
                f"interventions[{number}]: the layer {name!r} does not lead to {' or '.join(map(repr, measured))}, so "
                "that an edit of it changes nothing; name a layer before that, or what it leads to in outputs",
                reason=Reason.LAYER_INVALID, layer=name, intervention=number,
            )  # fmt: skip
        found[edit.layer] = name
    return found


def _output(model: LoadedModel, name: str) -> str:
    """A further tensor that is measured."""
    found = name if name in model.network.input_axes else model.tensor(name)
    _require_elements(model, found, "output")
    return found


def _require_elements(model: LoadedModel, name: str, role: str) -> None:
    """Refuses what is no tensor, or a constant; inputs may hold text, too."""
    if not (name in model.network.input_axes and holds_elements(model.tensors[name])):
        require_numbers(model.graph, name, role, Reason.LAYER_INVALID)


def _taken_from(interventions: Sequence[Sequence[Edit]], named: Mapping[str, str]) -> tuple[str, ...]:
    """The layers of which patches or means are taken."""
    edits = (edit for one in interventions for edit in one)
    return tuple(
        dict.fromkeys(named[edit.layer] for edit in edits if isinstance(edit.to, Patch) or _is_mean(edit))
    )


def _is_mean(edit: Edit) -> bool:
    return isinstance(edit.to, str) and edit.to == MEAN


def _places(model: LoadedModel, tensors: Sequence[str]) -> tuple[dict[str, RowAxis | None], bool, list[str]]:
    """Where rows lie in the tensors, whether they share runs, and what is to be said where they cannot."""
    rows = model.rows_of(tensors)
    if all(rows[name] is not None for name in tensors):
        return rows, True, []
    warnings = list[str]()
    if model.network.batch != "single":
        listed = ", ".join(repr(name) for name in tensors if rows[name] is None)
        warnings.append(f"rows are evaluated one by one: those of {listed} are not separable")
    return model.places_of(tensors), False, warnings


def _at(model: LoadedModel, samples: Samples, tensors: Sequence[str], memory: int) -> list[dict[str, Array]]:
    """The tensors as they are without any edit, for each run of the samples; as many at once as fit."""
    limit = row_limit(model, samples, memory)
    found: list[dict[str, Array]] = []
    for run in samples.runs:
        starts = range(0, run.count, limit)
        parts = [
            forward(model, run.take(range(k, min(k + limit, run.count))).x, list(tensors)) for k in starts
        ]
        places = {name: run.places[name] for name in tensors}
        found.append(
            {
                name: parts[0][name]
                if len(parts) == 1 or place is None
                else np.concatenate([part[name] for part in parts], axis=place.axis)
                for name, place in places.items()
            }
        )
    return found


def _units(samples: Samples, found: Sequence[Mapping[str, Array]], name: str) -> list[Array]:
    """A tensor of several runs by sample, without an axis for it."""
    place, units = samples.place(name), list[Array]()
    for each in found:
        array: NDArray[Any] = each[name]
        if place is not None:
            units.extend(place.first(array))
        else:
            units.append(array[0] if array.ndim > 1 and array.shape[0] == 1 else array)
    return units


# --- what is evaluated


@dataclass(frozen=True)
class _Group:
    """The interventions that edit the same layers: one program, of which they are rows."""

    layers: tuple[str, ...]
    sources: tuple[str, ...]
    scaled: tuple[str, ...]
    numbers: tuple[int, ...]


def _groups(asked: _Request) -> Iterator[_Group]:
    found: dict[tuple[str, ...], list[int]] = {}
    for number, names in enumerate(asked.layers):
        found.setdefault(tuple(sorted(names)), []).append(number)
    for names, numbers in found.items():
        changes = [change for number in numbers for change in asked.changes[number]]
        scaled = {change.layer for change in changes if change.value is None}
        yield _Group(names, _first(asked.model, names), tuple(sorted(scaled)), tuple(numbers))


def _first(model: LoadedModel, names: Sequence[str]) -> tuple[str, ...]:
    """The hidden ones of these tensors that lie behind no other of them."""
    behind = {name: dependents(model.nodes, [name]) - {name} for name in names} if len(names) > 1 else {}
    hidden = [name for name in names if name not in model.network.input_axes]
    return tuple(name for name in hidden if not any(name in found for found in behind.values()))


def _without(asked: _Request) -> _Found:
    """What is measured without any edit."""
    samples, found = asked.samples, _nothing(asked, 1)
    for number, each in enumerate(asked.clean):
        _measure(asked, each, [(0, k) for k in samples.numbers(number)], found)
    return found


def _nothing(asked: _Request, count: int) -> _Found:
    shape = (count, asked.samples.count)
    none: Array = np.empty(0)
    outputs = {name: [[none] * shape[1] for _ in range(count)] for name in asked.outputs}
    return _Found(np.full(shape, np.nan), np.full(shape, -1, np.int64), outputs)


def _evaluated(asked: _Request, before: _Found) -> _Found:
    """What is measured under each intervention."""
    model, samples, found = asked.model, asked.samples, _nothing(asked, len(asked.layers))
    fitting = Fitting(row_limit(model, samples, asked.memory) if samples.together else 1)
    for group in _groups(asked):
        if not group.layers:  # lists without any edit
            for number in group.numbers:
                found.values[number], found.largest[number] = before.values[0], before.largest[0]
                for name, each in found.outputs.items():
                    each[number] = before.outputs[name][0]
            continue
        rows = [(number, k) for number in group.numbers for k in range(samples.count)]
        session = _session(asked, group)
        for _ in fitting.runs(rows, partial(_run, asked, group, session, fitting, found)):
            pass
    return found


def _session(asked: _Request, group: _Group) -> Session:
    key = ("ablate", group.layers, asked.measured, group.sources, group.scaled)
    return asked.model.session(
        key,
        lambda: ablate_program(
            asked.model.network, group.layers, asked.measured, group.sources, group.scaled
        ),
    )


def _run(
    asked: _Request, group: _Group, session: Session, fitting: Fitting, found: _Found, rows: Sequence[Row]
) -> None:
    """Evaluates rows; each alone where one of them fails, or is NaN, which may be in what others share with it."""
    work = Work(_feeds(asked, group, session, rows), _work_places(asked, group), len(rows), fitting.limit)
    asked.evaluated += len(rows)
    try:
        made = asked.model.scheduler.run(session, work, asked.stop)
    except ModelError as error:
        if len(rows) == 1:
            raise InvalidArgument(
                f"interventions[{rows[0][0]}]: the model cannot be run with it: "
                f"{error.metadata.get('detail', error.message)}",
                reason=Reason.INPUT_INVALID, intervention=rows[0][0],
            ) from error  # fmt: skip
        made = None
    if made is not None:
        made = {name: made[name] if name in made else made[f"output/{name}"] for name in asked.measured}
        if len(rows) == 1 or not any(a.dtype.kind in "fV" and np.isnan(a).any() for a in made.values()):
            _measure(asked, made, rows, found)
            return
    for row in rows:
        _run(asked, group, session, fitting, found, [row])


def _feeds(asked: _Request, group: _Group, session: Session, rows: Sequence[Row]) -> dict[str, Array]:
    """The inputs of the program at the rows."""
    samples, numbers = asked.samples, [k for _, k in rows]
    unused = frozenset(asked.samples.runs[0].x) - frozenset(session.inputs)
    feeds: dict[str, Array] = {
        name: array for name, array in samples.take(numbers, unused).x.items() if name in session.inputs
    }
    run = asked.clean[numbers[0] // samples.a_run]

    def laid(name: str, units: Array) -> Array:
        place = samples.place(name)
        return units[0].reshape(run[name].shape) if place is None else place.back(units)

    for name in group.sources:
        feeds[name] = laid(name, np.stack([asked.edited[name].units[k] for k in numbers]))
    for name in group.layers:
        layer = asked.edited[name]
        mask, value, scale = stacked(layer, [(asked.changes[number], k) for number, k in rows])
        feeds[mask_of(name)], feeds[value_of(name)] = laid(name, mask), laid(name, value)
        if name in group.scaled:
            feeds[scale_of(name)] = laid(name, np.ones(mask.shape, layer.kind) if scale is None else scale)
    return feeds


def _work_places(asked: _Request, group: _Group) -> dict[str, RowAxis | None]:
    """Where rows lie in what goes into a program and comes out of it; nowhere if they share no run."""
    samples = asked.samples
    if not samples.together:
        return {}
    places: dict[str, RowAxis | None] = dict(samples.runs[0].places)
    for name in group.layers:
        places |= {of(name): samples.place(name) for of in (mask_of, value_of, scale_of)}
    return places | {f"output/{name}": samples.place(name) for name in asked.measured}


def _measure(asked: _Request, made: Mapping[str, Array], rows: Sequence[Row], found: _Found) -> None:
    """Puts what is measured in these rows where it belongs."""
    samples, chosen = asked.samples, asked.chosen
    place = np.array(rows).T
    whole = targets.stacked([made[chosen.tensor]], samples.place(chosen.tensor))
    weights = asked.weights[place[1]]
    if whole.shape[1:] != weights.shape[1:]:
        raise InvalidArgument(
            f"interventions[{rows[0][0]}]: the target has shape {list(whole.shape[1:])} with it, and "
            f"{list(weights.shape[1:])} without",
            reason=Reason.TARGET_INVALID,
        )
    found.values[tuple(place)] = targets.dot(whole, weights)
    read = targets.units(made[chosen.indexed], samples.place(chosen.indexed)) * (
        1 if chosen.made else chosen.sign
    )
    if read.size and sum(size > 1 for size in read.shape[1:]) < 2:
        flat = read.reshape(len(rows), -1)
        found.largest[tuple(place)] = np.where(np.isnan(flat).any(axis=1), -1, flat.argmax(axis=1))
    for name, each in found.outputs.items():
        for (number, k), unit in zip(rows, _units(samples, [made], name), strict=True):
            each[number][k] = np.asarray(unit)


def _stacked(name: str, each: Sequence[Sequence[Array]]) -> Array:
    """What is measured of a tensor, `[interventions, samples, *unit]`."""
    if len(shapes := {one.shape for row in each for one in row}) > 1:
        listed = " and ".join(str(list(shape)) for shape in sorted(shapes))
        raise InvalidArgument(
            f"the output {name!r} has different shapes for the samples or interventions: {listed}; ask about them "
            "one by one",
            reason=Reason.LAYER_INVALID,
        )
    return np.stack([np.stack(list(row)) for row in each])
