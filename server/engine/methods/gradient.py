"""Gradients at x, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.graph_tools.programs.rows import Reduction
from onnx_attribution.methods import Gradient, GradientXActivation
from onnx_attribution.server.engine.methods.maps import map_of
from onnx_attribution.server.engine.methods.stages import Stage, one_by_one
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import AtInput, Floats, Recipe, contribution, multiplier, recipe
from onnx_attribution.server.engine.request.channels import own_axis
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Evaluation, Sums
from onnx_attribution.server.engine.rows.points import rows_at

REDUCTIONS: Mapping[object, Reduction] = {multiplier: "gradient", contribution: "product"}
"""What a program sums in place of the host."""


@recipe(Gradient)
def gradient(method: Gradient) -> Recipe:
    return Recipe(AtInput())


@recipe(GradientXActivation)
def gradient_x_activation(method: GradientXActivation) -> Recipe:
    return Recipe(AtInput(), contribution if method.multiply_by_inputs else multiplier)


def gradients(model: LoadedModel, resolved: Resolved, memory: int) -> Evaluation:
    """Gradients at x, reduced with the activations; of sums only the sums over the units of each layer, or over the
    positions of its channels."""
    reduce, totals, channels = resolved.recipe.reduce, None, _channels(resolved)
    if (resolved.request.sums_only or channels) and resolved.recipe.pooled is None:
        totals = REDUCTIONS.get(reduce)
    parts: dict[str, list[Any]] = {layer: [] for layer in resolved.choice.layers}
    values: list[Floats] = []
    points = [(k, 1.0) for k in range(resolved.samples.count)]
    needed = reduce is not multiplier or resolved.recipe.pooled is not None
    for rows in rows_at(
        model,
        resolved,
        points,
        memory,
        activations=needed,
        totals=totals,
        channels=channels if totals else None,
    ):
        values.append(rows.values)
        for layer, total in rows.totals.items():
            parts[layer].append(total)
        for layer, pair in rows.layers.items():
            parts[layer].append(_reduced(resolved, layer, *pair))
        yield rows.evaluated
    joined = {layer: p[0] if len(p) == 1 else np.concatenate(p) for layer, p in parts.items()}
    return Sums(joined, {}, np.concatenate(values))


def _channels(resolved: Resolved) -> dict[str, int]:
    """By layer the axis of its channels in its own layout; none unless there is one in every layer."""
    found = dict[str, int]()
    if resolved.request.channel_sums is None:
        return found
    for layer, axis in resolved.channels.items():
        own = None if axis is None else own_axis(axis, resolved.samples.place(layer))
        if own is None:
            return {}
        found[layer] = own
    return found


def _reduced(resolved: Resolved, layer: str, gradient: Any, activation: Any) -> NDArray[np.floating]:
    """The attributions; those of the recipes here as exact in the type of the gradient as they are answered."""
    reduce, name = resolved.recipe.reduce, resolved.request.method.name
    found: NDArray[np.floating] = gradient
    if resolved.recipe.pooled is not None:
        return map_of(resolved, layer, gradient, activation)
    if reduce is multiplier:
        return found
    if reduce is contribution:
        return np.asarray(np.multiply(found, activation.astype(found.dtype, copy=False)))
    return resolved.recipe.reduced(name, gradient.astype(np.float64), activation.astype(np.float64))


def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
    """One stage: a gradient is exact."""
    yield one_by_one(0, asked, lambda one: one.samples.count, lambda one: gradients(model, one, memory))
