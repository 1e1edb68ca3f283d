"""The recipes of methods that carry something else than the gradient back."""

from __future__ import annotations

from onnx_attribution.graph_tools.relevance.guided import DECONVNET, GUIDED_BACKPROP
from onnx_attribution.methods import DeconvNet, GuidedBackprop
from onnx_attribution.server.engine.recipe import AtInput, Recipe, recipe


@recipe(GuidedBackprop)
def guided_backprop(method: GuidedBackprop) -> Recipe:
    return Recipe(AtInput(), table=GUIDED_BACKPROP)


@recipe(DeconvNet)
def deconvnet(method: DeconvNet) -> Recipe:
    return Recipe(AtInput(), table=DECONVNET)
