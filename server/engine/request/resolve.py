"""Turns a request into arrays: checked inputs, sources, layers, the target's weights and the baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import AttributionError, InvalidArgument, Reason
from onnx_attribution.graph_tools.ir.emit import element_type
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.graph_tools.relevance.guided import rectifiers
from onnx_attribution.server.engine.models.forward import forward, moved
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Groups, Recipe
from onnx_attribution.server.engine.request import targets
from onnx_attribution.server.engine.request.baselines import baselines_of, references_of
from onnx_attribution.server.engine.request.channels import Axes, channel_axes
from onnx_attribution.server.engine.request.groups import Features, features_of
from onnx_attribution.server.engine.request.inputs import (
    batch_words,
    by_tensor,
    checked_inputs,
    require_finite,
    shared_by_all,
)
from onnx_attribution.server.engine.request.samples import Samples, split_samples
from onnx_attribution.server.engine.request.selectors import reads_values
from onnx_attribution.server.engine.request.tensors import (
    EVERY,
    beside_tensors,
    check_between,
    neuron_of,
    require_known_names,
    source_and_layers,
    with_index,
)
from onnx_attribution.values import Array, AttributionRequest, Target


@dataclass(frozen=True)
class Resolved:
    """A request about one of its targets in arrays: names are tensors, and the samples are laid out in runs.

    A sample stands here once for each of its references, and all that is said of samples counts these. `selection` are
    the target's weights `[samples, *unit]`. `value` and `baseline_value` are NaN until a program has run that gives
    them; `evaluated` counts the rows that were run to read the request. `beside` are tensors that an answer about the
    layers is made of. `channels` says of layers whose positions are summed where the channels lie.
    """

    request: AttributionRequest
    recipe: Recipe
    choice: Choice
    cuts: Mapping[str, bool]
    samples: Samples
    index: tuple[str, ...]
    value: NDArray[np.float64]
    baseline_value: NDArray[np.float64]
    warnings: tuple[str, ...]
    selection: NDArray[np.float64]
    features: Features | None = None
    evaluated: int = 0
    stop: Callable[[], object] = lambda: None
    labels: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    channels: Axes = field(default_factory=dict)

    def known(self, value: NDArray[np.float64], baseline_value: NDArray[np.float64]) -> Resolved:
        """The same with the target's values at x and x', as far as these are there."""
        return replace(
            self,
            value=self.value if np.isnan(value).all() else value,
            baseline_value=self.baseline_value if np.isnan(baseline_value).all() else baseline_value,
        )

    def only(self, number: int) -> Resolved:
        """The same of one sample."""
        return replace(
            self,
            samples=self.samples.only(number),
            index=(self.index[number],),
            value=self.value[[number]],
            baseline_value=self.baseline_value[[number]],
            selection=self.selection[[number]],
            labels=self.labels[number : number + 1],
        )


def resolve(
    model: LoadedModel, request: AttributionRequest, recipe: Recipe, stop: Callable[[], object] = lambda: None
) -> list[Resolved]:
    """What a request, whose method has this recipe, asks of the model: one entry for each target, alike but for it;
    `stop` says whether the request is still wanted.

    Raises:
        InvalidArgument, NotFound, NotDifferentiable: the message names what cannot be used.
    """
    if isinstance(request.layers, str) or isinstance(request.source, str):
        raise InvalidArgument("layers and source are sequences of names, not one name")
    model.require_computed([name for name in (*request.layers, *request.source) if name not in EVERY])
    asked = request.each_target
    wanted = []
    for k, one in enumerate(asked):
        with _named(model, request, k):
            model.require_computed([one.tensor])
            wanted.append(_target(model, request, one, recipe))
    names = list(dict.fromkeys(one.tensor for one in wanted))
    sources, layers, is_default = source_and_layers(model, request, recipe, names)
    require_known_names(model, request, recipe)
    through = neuron_of(model, request, recipe)
    beside = beside_tensors(model, request, recipe, sources, names)
    choices = {name: Choice(sources, layers, name, through) for name in names}
    if recipe.needs_target:
        for choice in choices.values():
            check_between(model, replace(choice, layers=(*layers, *beside)))
    references = references_of(request)
    inputs = checked_inputs(model, request.inputs)
    if recipe.takes_differences:
        require_finite(request.method.name, sources, inputs)
    given = split_samples(model, inputs, references, len(asked))
    at_targets = dict.fromkeys(name for one in wanted for name in one.tensors)
    tensors = [*at_targets, *sources, *layers, *beside, *([through.tensor] if through else [])]
    own = {name: _notes(model, request, recipe, choice, is_default) for name, choice in choices.items()}
    warnings = list(model.network.notes)
    if (pooled := recipe.mapped) is not None and not request.layers:
        warnings.append(
            f"no layer is named: the map is of {(beside or layers)[0]!r}, the last with positions, with its channels "
            f"on axis {pooled.channel_axis}"
        )
    if shared := ", ".join(map(repr, shared_by_all(model, inputs))):
        warnings.append(f"{shared} is shared by all samples: {batch_words(model)}")
    rows, together = _rows(model, tensors, sources, names if recipe.needs_derivatives else (), warnings)
    plain = Samples.laid(model, given, rows, together, references)
    channels = channel_axes(model, request, layers, rows)
    run_for_it = 0
    if through:
        place, run_for_it = with_index(model, plain, through)
        choices = {name: replace(choice, through=place) for name, choice in choices.items()}
    hidden = [s for s in sources if s not in model.network.input_axes]
    at_x, known, evaluated = _at_input(model, plain, hidden, wanted, asked)
    evaluated += run_for_it
    samples = plain.filled(
        x=[{**run.x, **{s: each[s] for s in hidden}} for run, each in zip(plain.runs, at_x, strict=True)]
    )
    samples = samples.filled(baselines=baselines_of(model, request, recipe, sources, samples, warnings))
    unsure = [name for name in names if name not in known] if recipe.needs_reference else []
    at_reference = [
        moved(model, run.x, run.baselines, unsure, where="at the baseline") for run in samples.runs if unsure
    ]
    evaluated += samples.count * bool(unsure)
    at = recipe.inner.at
    features = _features(model, at, samples, sources) if isinstance(at, Groups) else None
    cuts = {name: {layer: layer in model.cuts(sources, name) for layer in layers} for name in names}
    resolved = []
    for k, (found, target) in enumerate(zip(wanted, asked, strict=True)):
        name, lead = found.tensor, rows[found.tensor]
        with _named(model, request, k):
            plus, words, labels, notes = targets.selection(model, found, target, plain, at_x)
            value = baseline_value = np.full(samples.count, np.nan)
            if name not in known:
                value = targets.values([each[name] for each in at_x], lead, plus)
            if name in unsure:
                baseline_value = targets.values([each[name] for each in at_reference], lead, plus)
        weighted = samples.weighted(name, plus, [each[name] for each in at_x])
        said = (*warnings, *found.notes, *notes, *own[name])
        resolved.append(
            Resolved(
                request=request,
                recipe=recipe,
                choice=choices[name],
                cuts=cuts[name],
                samples=weighted,
                index=words,
                value=value,
                baseline_value=baseline_value,
                warnings=said,
                selection=plus,
                features=features,
                evaluated=evaluated if k == 0 else 0,
                stop=stop,
                labels=labels,
                beside=beside,
                channels=channels,
            )
        )
    return resolved


def _rows(
    model: LoadedModel,
    tensors: Sequence[str],
    sources: tuple[str, ...],
    differentiated: Sequence[str],
    warnings: list[str],
) -> tuple[Mapping[str, RowAxis | None], bool]:
    """Where the rows of these tensors lie, and whether samples share a run; where they do not, `warnings` say why.

    They share one if rows are separable in all the tensors, and in the gradients of the `differentiated` ones.
    """
    rows = model.rows_of(tensors)
    together = all(rows[name] is not None for name in tensors)
    if model.network.batch != "single" and not together:
        listed = ", ".join(repr(n) for n in dict.fromkeys(tensors) if rows[n] is None)
        warnings.append(f"rows are evaluated one by one: those of {listed} are not separable")
    if together:
        mixed = [name for name in differentiated if not model.gradients_apart(sources, name)]
        together = not mixed
        warnings += [
            f"rows are evaluated one by one: the gradient of {name!r} in one row depends on the others"
            for name in mixed
        ]
    return rows if together else model.places_of(tensors), together


def explain(model: LoadedModel, asked: Sequence[Resolved]) -> None:
    """Says what is wrong with what was given, after a run that failed.

    Raises:
        InvalidArgument: the model cannot be run at x, or at x'.
    """
    for run in asked[0].samples.runs:
        names = [one.choice.target for one in asked]
        moved(model, run.x, {}, names)
        moved(model, run.x, run.baselines, names, where="at the baseline")


def _at_input(
    model: LoadedModel,
    samples: Samples,
    hidden: Sequence[str],
    wanted: Sequence[targets.Chosen],
    asked: Sequence[Target],
) -> tuple[list[dict[str, Array]], set[str], int]:
    """Per run hidden sources and target tensors at x, the latter only where they decide what is explained; the target
    tensors of known shape; and how many rows were run.

    Of a target that is named and whose shape is known, only that shape is of use: the program that explains it gives
    its value, too.
    """
    names = list(dict.fromkeys(name for one in wanted for name in one.tensors))
    places = {name: samples.place(name) for name in names}
    shapes = [
        {name: model.shape_at(name, places[name], run.x, run.count) for name in names} for run in samples.runs
    ]
    known = {name for name in names if all(each[name] is not None for each in shapes)}
    read = {
        name
        for one, target in zip(wanted, asked, strict=True)
        for name in one.tensors
        if name not in known
        or one.made
        or (
            not one.whole
            and (
                (reads_values(target.index) or reads_values(target.minus, False))
                and any(
                    np.prod(each[one.indexed] or ()) > each_run.count
                    for each, each_run in zip(shapes, samples.runs, strict=True)
                )
            )
        )
    }
    needed = [*(name for name in names if name in read), *hidden]
    found = [forward(model, run.x, needed) if needed else {} for run in samples.runs]
    for each, shape in zip(found, shapes, strict=True):
        for name in names:
            if name not in read and name not in hidden:
                each[name] = np.broadcast_to(
                    np.zeros((), element_type(model.tensors[name])), shape[name] or ()
                )
    return found, known, samples.count * bool(needed)


@contextmanager
def _named(model: LoadedModel, request: AttributionRequest, number: int) -> Iterator[None]:
    """Says in a refusal which of several targets it is about, and of an index of another rank where samples lie."""
    try:
        yield
    except AttributionError as error:
        which = "" if request.targets is None else f"targets[{number}]: "
        where = f"; {batch_words(model)}" if "rank" in error.metadata else ""
        raise error.reworded(f"{which}{error.message}{where}") from error.__cause__


def _target(model: LoadedModel, request: AttributionRequest, given: Target, recipe: Recipe) -> targets.Chosen:
    """The tensor of a target; where none is needed or named, the first layer, which is summed."""
    named = given.tensor is not None or given.index is not None or given.minus is not None
    if recipe.needs_target or named or given.logit or given.mean_centred or not request.layers:
        return targets.chosen(model, given, recipe)
    layer = model.tensor(request.layers[0])
    return targets.Chosen(layer, layer, whole=True)


def _notes(
    model: LoadedModel, request: AttributionRequest, recipe: Recipe, choice: Choice, is_default: bool
) -> list[str]:
    """What is to be said of the ways to a target tensor."""
    found = [
        model.randomness(choice.target, request.inputs),
        model.held(choice.sources, choice.target) if is_default and recipe.needs_target else "",
        model.rounding(choice.sources, choice.target) if recipe.takes_gradients else "",
        _unrectified(model, request, choice) if recipe.inner.rectifies else "",
    ]
    return [words for words in found if words]


def _unrectified(model: LoadedModel, request: AttributionRequest, choice: Choice) -> str:
    """That a method which is about rectifiers meets none."""
    between = model.between(choice.sources, choice.target)
    if rectifiers(node for node in model.nodes if any(z.name in between for z in node.outputs)):
        return ""
    return f"no rectifier (Relu, Clip from 0) leads to {choice.target!r}: {request.method.name} is the gradient there"


def _features(
    model: LoadedModel,
    at: Groups,
    samples: Samples,
    sources: Sequence[str],
) -> Features:
    """The features of the sources."""
    return features_of(
        {name: samples.first(name, samples.runs[0].x[name]).shape[1:] for name in sources},
        by_tensor(model, at.groups, Reason.GROUPS_INVALID),
        by_tensor(model, at.windows, Reason.GROUPS_INVALID),
        by_tensor(model, at.strides, Reason.GROUPS_INVALID),
    )
