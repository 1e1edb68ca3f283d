"""Attributions of the sources times a map of a layer: guided Grad-CAM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from onnx_attribution.graph_tools.relevance.guided import GUIDED_BACKPROP
from onnx_attribution.methods import GuidedGradCam
from onnx_attribution.server.engine.methods.cam import mean_terms
from onnx_attribution.server.engine.methods.gradient import gradients
from onnx_attribution.server.engine.methods.maps import at_sources
from onnx_attribution.server.engine.methods.stages import Stage, one_by_one
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import AtInput, Pooled, Product, Recipe, recipe
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Evaluation, Sums


@recipe(GuidedGradCam)
def guided_grad_cam(method: GuidedGradCam) -> Recipe:
    pooled = Pooled(method.channel_axis, relu=method.relu_attributions)
    by = Recipe(AtInput(), mean_terms(method.sign), pooled=pooled)
    return Recipe(Product(Recipe(AtInput(), table=GUIDED_BACKPROP), by, method.upsample))


def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
    """One stage: both are exact."""
    yield one_by_one(0, asked, lambda one: 2 * one.samples.count, lambda one: _product(model, one, memory))


def _product(model: LoadedModel, resolved: Resolved, memory: int) -> Evaluation:
    at, request = resolved.recipe.at, resolved.request.changed(sums_only=False, channel_sums=None)
    assert isinstance(at, Product)
    (layer,) = resolved.beside
    own = yield from gradients(model, replace(resolved, recipe=at.of, request=request), memory)
    choice = replace(resolved.choice, layers=resolved.beside)
    other = replace(resolved, recipe=at.by, request=request, choice=choice)
    maps = (yield from gradients(model, other, memory)).fine[layer]
    sized = at_sources(other, layer, np.asarray(maps, np.float64), at.upsample)
    return Sums({name: own.fine[name] * sized[name] for name in resolved.choice.sources}, {}, own.value)
