"""The recipes of methods that carry something else than the gradient back."""

from __future__ import annotations

from onnx_attribution.graph_tools.relevance.guided import DECONVNET, GUIDED_BACKPROP
from onnx_attribution.graph_tools.relevance.rectgrad import Threshold, rectgrad
from onnx_attribution.methods import DeconvNet, GuidedBackprop, RectGrad
from onnx_attribution.server.engine.recipe import AtInput, Recipe, contribution, multiplier, recipe


@recipe(GuidedBackprop)
def guided_backprop(method: GuidedBackprop) -> Recipe:
    return Recipe(AtInput(), table=GUIDED_BACKPROP)


@recipe(DeconvNet)
def deconvnet(method: DeconvNet) -> Recipe:
    return Recipe(AtInput(), table=DECONVNET)


@recipe(RectGrad)
def rect_grad(method: RectGrad) -> Recipe:
    threshold = Threshold(method.quantile, method.tau, method.absolute, method.proportional)
    reduce = contribution if method.multiply_by_inputs else multiplier
    return Recipe(AtInput(), reduce, table=rectgrad(threshold), alone=method.tau is None)
