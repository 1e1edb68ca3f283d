"""The recipes of methods that carry something else than the gradient back."""

from __future__ import annotations

from typing import cast

from onnx_attribution.graph_tools.relevance import lrp as tables
from onnx_attribution.graph_tools.relevance.bounds import Bound
from onnx_attribution.graph_tools.relevance.guided import DECONVNET, GUIDED_BACKPROP
from onnx_attribution.graph_tools.relevance.rectgrad import Threshold, rectgrad
from onnx_attribution.graph_tools.relevance.weights import Chosen, Numbers
from onnx_attribution.methods import DeconvNet, GuidedBackprop, Lrp, RectGrad
from onnx_attribution.server.engine.recipe import AtInput, Recipe, contribution, multiplier, recipe


@recipe(GuidedBackprop)
def guided_backprop(method: GuidedBackprop) -> Recipe:
    return Recipe(AtInput(), table=GUIDED_BACKPROP, rectifies=True)


@recipe(DeconvNet)
def deconvnet(method: DeconvNet) -> Recipe:
    return Recipe(AtInput(), table=DECONVNET, rectifies=True)


@recipe(RectGrad)
def rect_grad(method: RectGrad) -> Recipe:
    threshold = Threshold(method.quantile, method.tau, method.absolute, method.proportional)
    reduce = contribution if method.multiply_by_inputs else multiplier
    return Recipe(
        AtInput(),
        reduce,
        table=rectgrad(threshold),
        alone=method.tau is None,
        rectifies=not method.proportional,
    )


@recipe(Lrp)
def lrp(method: Lrp) -> Recipe:
    convolution, dense, first = tables.COMPOSITES[method.composite]
    if method.first != "same":
        first = method.first
    low, high = (
        default if end is None else cast("Bound", end)  # a method parses it
        for end, default in ((method.low, 0.0), (method.high, 1.0))
    )
    asked = tables.Lrp(
        Chosen(convolution or method.rule),
        Chosen(dense or method.rule),
        Chosen(first) if first else None,
        tuple((name, Chosen(rule, number)) for name, rule, number in method.by_name()),
        Numbers(
            method.epsilon,
            method.gamma,
            method.alpha,
            method.beta,
            low,
            high,
            method.form == "captum",
            method.zero_bias,
        ),
    )
    names = tuple(name for name, _ in asked.named)
    return Recipe(AtInput(), table=tables.lrp(asked), relevance=True, names=names, multiplied=True)
