"""Gradients at x, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnx_attribution.methods import Gradient, GradientXActivation
from onnx_attribution.server.engine.methods.stages import Stage, one_by_one
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import AtInput, Floats, Recipe, contribution, multiplier, recipe
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Evaluation, Sums
from onnx_attribution.server.engine.rows.points import rows_at


@recipe(Gradient)
def gradient(method: Gradient) -> Recipe:
    return Recipe(AtInput())


@recipe(GradientXActivation)
def gradient_x_activation(method: GradientXActivation) -> Recipe:
    return Recipe(AtInput(), contribution if method.multiply_by_inputs else multiplier)


def _gradients(model: LoadedModel, resolved: Resolved, memory: int) -> Evaluation:
    """Gradients at x, reduced with the activations."""
    name, reduced = resolved.request.method.name, resolved.recipe.reduced
    parts: dict[str, list[Floats]] = {layer: [] for layer in resolved.choice.layers}
    values: list[Floats] = []
    points = [(k, 1.0) for k in range(resolved.samples.count)]
    for rows in rows_at(model, resolved, points, memory):
        values.append(rows.values)
        for layer, pair in rows.layers.items():
            parts[layer].append(reduced(name, *(one.astype(np.float64) for one in pair)))
        yield rows.evaluated
    return Sums({layer: np.concatenate(p) for layer, p in parts.items()}, {}, np.concatenate(values))


def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
    """One stage: a gradient is exact."""
    yield one_by_one(0, asked, lambda one: one.samples.count, lambda one: _gradients(model, one, memory))
