"""The tensors that a request speaks of: sources, layers, a neuron, and what an answer about layers is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_attribution.errors import InvalidArgument, NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.subgraphs import inner_nodes
from onnx_attribution.graph_tools.programs.signature import Choice, Neuron
from onnx_attribution.graph_tools.select.targets import require_numbers
from onnx_attribution.server.engine.models.forward import forward
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Biases, Groups, Path, Product, Recipe, Values
from onnx_attribution.server.engine.request import targets
from onnx_attribution.server.engine.request.inputs import by_tensor
from onnx_attribution.server.engine.request.samples import Samples
from onnx_attribution.values import EVERY_KIND, EVERY_TENSOR, AttributionRequest

EVERY = (EVERY_KIND, EVERY_TENSOR)


def source_and_layers(
    model: LoadedModel, request: AttributionRequest, recipe: Recipe, targets: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """The sources, which all targets have in common; the layers; and whether the sources are the default ones.

    Of a method whose layer is its source (Captum's LayerIntegratedGradients) a layer that is named is both.

    Raises:
        InvalidArgument, NotFound, NotDifferentiable: a name that means no such tensor, or targets with other sources.
    """
    every = [name for name in request.layers if name in EVERY]
    if every and recipe.layer_is_source:
        raise InvalidArgument(
            f"{request.method.name} attributes to its source, and {every[0]!r} stands for many layers: name one as its "
            "source; gradient, gradient_x_activation, neuron_ig and deeplift_rescale take every layer in one pass",
            reason=Reason.LAYER_INVALID,
        )
    layers = tuple(dict.fromkeys(model.tensor(name) for name in request.layers if name not in EVERY))
    named: Sequence[str] = request.source
    find = model.sources
    at = recipe.inner.at
    if isinstance(at, Groups):
        grouped = by_tensor(model, {**at.groups, **at.windows}, Reason.GROUPS_INVALID)
        named = named or layers or tuple(name for name in model.tensors if name in grouped)
        find = model.features
    elif isinstance(at, Values):
        for name in layers:
            require_numbers(model.graph, name, "layer", Reason.LAYER_INVALID)
        find = model.features
    else:
        for name in layers:
            model.require_float_layer(name)
        if recipe.layer_is_source and layers and not named:
            return layers, layers, False
    found = {target: find(named, target) for target in targets}
    sources = found[targets[0]]
    for target, own in found.items():
        if own != sources:
            raise InvalidArgument(
                f"the sources of {targets[0]!r} are {', '.join(map(repr, sources))}, those of {target!r} are "
                f"{', '.join(map(repr, own))}; name sources and layers of all targets, or ask in a request for each",
                reason=Reason.SOURCE_INVALID, target=target,
            )  # fmt: skip
    if recipe.layer_is_source and layers and set(layers) != set(sources):
        raise InvalidArgument(
            f"{request.method.name} attributes to its source, and the source is not the layer: name one of them only",
            layers=", ".join(layers),
        )
    if every:
        each = (
            model.every_layer(sources, tuple(targets), name) if name in EVERY else (model.tensor(name),)
            for name in request.layers
        )
        layers = tuple(dict.fromkeys(name for names in each for name in names))
    if isinstance(at, Biases):
        if layers:
            raise InvalidArgument(
                f"{request.method.name} is of its source and of every bias behind; leave layers out",
                reason=Reason.LAYER_INVALID,
            )
        return (
            sources,
            sources if at.mapped else (*sources, *model.biased(sources, tuple(targets))),
            not named,
        )
    if isinstance(at, Product):
        return sources, sources, not named
    if not layers and recipe.inner.pooled is not None:
        layers = (model.layer_with_positions(sources, tuple(targets)),)
    return sources, layers or sources, not named


def beside_tensors(
    model: LoadedModel,
    request: AttributionRequest,
    recipe: Recipe,
    sources: tuple[str, ...],
    targets: Sequence[str],
) -> tuple[str, ...]:
    """The tensors beside the layers that the answer is made of: biases, or the layer of a map.

    Raises:
        InvalidArgument: several layers are named for one map.
    """
    at = recipe.inner.at
    if isinstance(at, Biases):
        return model.biased(sources, tuple(targets))
    if not isinstance(at, Product):
        return ()
    layers = tuple(dict.fromkeys(model.tensor(name) for name in request.layers if name not in EVERY))
    if len(layers) > 1 or len(request.layers) > len(layers):
        raise InvalidArgument(
            f"{request.method.name} is of the sources and of the map of one layer; name one",
            reason=Reason.LAYER_INVALID,
        )
    return layers or (model.layer_with_positions(sources, tuple(targets)),)


def neuron_of(model: LoadedModel, request: AttributionRequest, recipe: Recipe) -> Neuron | None:
    """The neuron that all ways have to cross; None where the recipe speaks of none.

    Raises:
        InvalidArgument, NotFound, NotDifferentiable: no layer is named, or what is named is none.
    """
    at = recipe.inner.at
    if not isinstance(at, Path) or at.through is None:
        return None
    if not at.through[0]:
        raise InvalidArgument(
            f"{request.method.name} is of a neuron; name its layer and its index, as neuron={{'conv1': (3, 0, 0)}}",
            option="neuron",
        )
    name = model.tensor(at.through[0])
    model.require_float_layer(name)
    return Neuron(name, at.through[1])


def with_index(model: LoadedModel, samples: Samples, neuron: Neuron) -> tuple[Neuron, int]:
    """The neuron with its index counted from the start, and how many rows were run to know its layer's shape.

    Raises:
        InvalidArgument: the layer has no unit there.
    """
    run, lead = samples.runs[0], samples.place(neuron.tensor)
    whole = model.shape_at(neuron.tensor, lead, run.x, run.count)
    found = (
        forward(model, run.x, [neuron.tensor])[neuron.tensor]
        if whole is None
        else np.broadcast_to(np.zeros(()), whole)
    )
    shape = targets.units(found, lead).shape[1:]
    inside = [-size <= k < size for k, size in zip(neuron.index, shape, strict=False)]
    if len(neuron.index) > len(shape) or not all(inside):
        raise InvalidArgument(
            f"the layer {neuron.tensor!r} has no neuron {list(neuron.index)}; of one sample it has shape {list(shape)}",
            reason=Reason.LAYER_INVALID, layer=neuron.tensor,
        )  # fmt: skip
    index = tuple(k % size for k, size in zip(neuron.index, shape, strict=False))
    return replace(neuron, index=index), run.count if whole is None else 0


def require_known_names(model: LoadedModel, request: AttributionRequest, recipe: Recipe) -> None:
    """Checks the names in a method's rules. Raises: InvalidArgument: no node, tensor or operator has one of them."""
    if wanted := recipe.inner.names:
        inside = [one for node in model.nodes for one in inner_nodes(node)]
        known = {name for node in (*model.nodes, *inside) for name in (node.name, node.op)} | set(
            model.tensors
        )
        for name in wanted:
            if name not in known:
                raise InvalidArgument(
                    f"{request.method.name} names {name!r}, and no node, tensor or operator of the model is called so",
                    option="rules",
                )


def check_between(model: LoadedModel, choice: Choice) -> None:
    """Checks that layers and neuron lie between source and target, and that no other source cuts them off.

    Raises:
        NotDifferentiable: one does not.
    """
    between = model.between(choice.sources, choice.target)
    for layer in (*choice.layers, *([choice.through.tensor] if choice.through else [])):
        if layer not in between:
            raise NotDifferentiable(
                f"layer {layer!r} does not lie between the source {', '.join(map(repr, choice.sources))} "
                f"and the target {choice.target!r}",
                reason=Reason.NO_PATH, layer=layer,
            )  # fmt: skip
