"""Gradients at x, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.graph_tools.programs.rows import Reduction
from onnx_attribution.methods import Gradient, GradientXActivation
from onnx_attribution.server.engine.methods.maps import map_of
from onnx_attribution.server.engine.methods.stages import SeveralEvaluations, Stage, by_tensor
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import AtInput, Floats, Recipe, contribution, multiplier, recipe
from onnx_attribution.server.engine.request.channels import own_axis
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Evaluation, Sums
from onnx_attribution.server.engine.rows.points import rows_of_each

REDUCTIONS: Mapping[object, Reduction] = {multiplier: "gradient", contribution: "product"}
"""What a program sums in place of the host."""


@recipe(Gradient)
def gradient(method: Gradient) -> Recipe:
    return Recipe(AtInput())


@recipe(GradientXActivation)
def gradient_x_activation(method: GradientXActivation) -> Recipe:
    return Recipe(AtInput(), contribution if method.multiply_by_inputs else multiplier)


def gradients(model: LoadedModel, resolved: Resolved, memory: int) -> Evaluation:
    """Gradients at x about one target."""
    (found,) = yield from gradients_of_each(model, [resolved], memory)
    return found


def gradients_of_each(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> SeveralEvaluations:
    """Gradients at x, of targets in one tensor, reduced with the activations; of sums only the sums over the units of
    each layer, or over the positions of its channels."""
    first = asked[0]
    reduce, totals, channels = first.recipe.reduce, None, _channels(first)
    if (first.request.sums_only or channels) and first.recipe.pooled is None:
        totals = REDUCTIONS.get(reduce)
    parts: list[dict[str, list[Any]]] = [{layer: [] for layer in first.choice.layers} for _ in asked]
    values: list[list[Floats]] = [[] for _ in asked]
    points = [(k, 1.0) for k in range(first.samples.count)]
    needed = reduce is not multiplier or first.recipe.pooled is not None
    for each in rows_of_each(
        model, asked, points, memory, activations=needed, totals=totals, channels=channels if totals else None
    ):
        for k, (one, rows) in enumerate(zip(asked, each, strict=True)):
            values[k].append(rows.values)
            for layer, total in rows.totals.items():
                parts[k][layer].append(total)
            for layer, pair in rows.layers.items():
                parts[k][layer].append(_reduced(one, layer, *pair))
        yield sum(rows.evaluated for rows in each)
    joined = [{n: p[0] if len(p) == 1 else np.concatenate(p) for n, p in own.items()} for own in parts]
    return [Sums(own, {}, np.concatenate(found)) for own, found in zip(joined, values, strict=True)]


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
    yield by_tensor(
        0, asked, lambda one: one.samples.count, lambda ones: gradients_of_each(model, ones, memory)
    )
