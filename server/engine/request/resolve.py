"""Turns a request into arrays: checked inputs, sources, layers, the target's weights and the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.reach import ancestors, dependents
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.graph_tools.select.cuts import is_cut
from onnx_attribution.graph_tools.select.targets import require_float
from onnx_attribution.server.engine.models.forward import forward
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Groups, Recipe
from onnx_attribution.server.engine.request import targets
from onnx_attribution.server.engine.request.baselines import baselines_of, references_of
from onnx_attribution.server.engine.request.groups import Features, features_of
from onnx_attribution.server.engine.request.inputs import (
    batch_words,
    by_tensor,
    checked_inputs,
    require_finite,
    shared_by_all,
)
from onnx_attribution.server.engine.request.samples import Samples, split_samples
from onnx_attribution.values import (
    AttributionRequest,
)


@dataclass(frozen=True)
class Resolved:
    """A request in arrays: names are tensors, and the samples are laid out in runs.

    A sample stands here once for each of its references, and all that is said of samples counts these. `selection` are
    the target's weights `[samples, *unit]`.
    """

    request: AttributionRequest
    recipe: Recipe
    choice: Choice
    cuts: Mapping[str, bool]
    samples: Samples
    index: tuple[str, ...]
    value: NDArray[np.float64]
    baseline_value: NDArray[np.float64]
    evaluations: int
    warnings: tuple[str, ...]
    selection: NDArray[np.float64]
    features: Features | None = None

    def only(self, number: int) -> Resolved:
        """The same of one sample."""
        return replace(
            self,
            samples=self.samples.only(number),
            index=(self.index[number],),
            value=self.value[[number]],
            baseline_value=self.baseline_value[[number]],
            selection=self.selection[[number]],
        )


def resolve(model: LoadedModel, request: AttributionRequest, recipe: Recipe) -> Resolved:
    """What a request, whose method has this recipe, asks of the model.

    Raises:
        InvalidArgument, NotFound, NotDifferentiable: the message names what cannot be used.
    """
    if isinstance(request.layers, str) or isinstance(request.source, str):
        raise InvalidArgument("layers and source are sequences of names, not one name")
    model.require_computed([request.target.tensor, *request.layers, *request.source])
    wanted = targets.chosen(model, request, recipe)
    target = wanted.tensor
    sources, layers, is_default = _source_and_layers(model, request, recipe, target)
    choice = Choice(sources, layers, target)
    _check_between(model, choice)
    references = references_of(request)
    inputs = checked_inputs(model, request.inputs)
    if recipe.takes_differences:
        require_finite(request.method.name, sources, inputs)
    given = split_samples(model, inputs, references)
    tensors = [*wanted.tensors, *sources, *layers]
    rows = model.rows_of(tensors)
    together = all(rows[name] is not None for name in tensors)
    warnings = [*model.network.notes, *wanted.notes]
    if random := model.randomness(target, request.inputs):
        warnings.append(random)
    if names := ", ".join(map(repr, shared_by_all(model, inputs))):
        warnings.append(f"{names} is shared by all samples: {batch_words(model)}")
    if is_default and (held := model.held(sources, target)):
        warnings.append(held)
    if model.network.batch != "single" and not together:
        names = ", ".join(repr(n) for n in dict.fromkeys(tensors) if rows[n] is None)
        warnings.append(f"rows are evaluated one by one: those of {names} are not separable")
    if together and recipe.needs_derivatives and not model.gradients_apart(sources, target):
        together = False
        warnings.append(
            f"rows are evaluated one by one: the gradient of {target!r} in one row depends on the others"
        )
    if not together:
        rows = model.places_of(tensors)
    if recipe.takes_gradients and (rounding := model.rounding(sources, target)):
        warnings.append(rounding)
    plain = Samples.laid(model, given, rows, target, together, references)
    hidden = [s for s in sources if s not in model.network.input_axes]
    at_x = [forward(model, run.x, [*wanted.tensors, *hidden]) for run in plain.runs]
    samples = plain.filled(x=[{s: found[s] for s in hidden} for found in at_x])
    samples = samples.filled(baselines=baselines_of(model, request, recipe, sources, samples, warnings))
    at_reference = [
        run.baselines[target]
        if target in run.baselines
        else forward(model, {**run.x, **run.baselines}, [target], hidden, where="at the baseline")[target]
        for run in samples.runs
    ]
    lead = rows[target]
    stacked = targets.stacked([found[target] for found in at_x], lead)
    try:
        plus, words = targets.selection(model, wanted, request.target, plain, at_x)
    except InvalidArgument as error:
        if "rank" not in error.metadata:
            raise
        raise error.reworded(f"{error.message}; {batch_words(model)}") from None
    weights = samples.split(target, plus, [found[target].shape for found in at_x])
    samples = samples.filled(
        weights=[w.astype(found[target].dtype) for w, found in zip(weights, at_x, strict=True)]
    )
    return Resolved(
        request,
        recipe,
        choice,
        {layer: is_cut(list(model.graph.nodes), sources, target, [layer]) for layer in layers},
        samples,
        words,
        targets.dot(stacked, plus),
        targets.values(at_reference, lead, plus),
        2 * samples.count,
        tuple(warnings),
        plus,
        _features(model, recipe.at, samples, sources) if isinstance(recipe.at, Groups) else None,
    )


def _source_and_layers(
    model: LoadedModel, request: AttributionRequest, recipe: Recipe, target: str
) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Sources and layers, and whether the sources are the default ones.

    Some methods have their layer as the source (Captum's LayerIntegratedGradients).
    """
    layers = tuple(dict.fromkeys(model.tensor(name) for name in request.layers))
    named: Sequence[str] = request.source
    if isinstance(recipe.at, Groups):
        grouped = by_tensor(model, {**recipe.at.groups, **recipe.at.windows}, Reason.GROUPS_INVALID)
        named = named or layers or tuple(name for name in model.graph.tensors() if name in grouped)
        sources = model.features(named, target)
    else:
        for name in layers:
            require_float(model.graph, name, "layer", Reason.LAYER_INVALID)
        if recipe.layer_is_source and layers and not named:
            return layers, layers, False
        sources = model.sources(named, target)
    if recipe.layer_is_source and layers and set(layers) != set(sources):
        raise InvalidArgument(
            f"{request.method.name} attributes to its source, and the source is not the layer: name one of them only",
            layers=", ".join(layers),
        )
    return sources, layers or sources, not named


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


def _check_between(model: LoadedModel, choice: Choice) -> None:
    """Refuses a layer that does not lie between source and target, one that other sources cut off included."""
    nodes = list(model.graph.nodes)
    after = dependents(nodes, choice.sources)
    before = ancestors(nodes, [choice.target], frozenset(choice.sources))
    for layer in choice.layers:
        if layer not in after or layer not in before:
            raise NotDifferentiable(
                f"layer {layer!r} does not lie between the source {', '.join(map(repr, choice.sources))} "
                f"and the target {choice.target!r}",
                reason=Reason.NO_PATH, layer=layer,
            )  # fmt: skip
