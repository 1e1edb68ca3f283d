"""Class activation maps: the channels of a layer, each weighed by its gradients.

Each is a function of gradients and values `[samples, channels, *positions]` to terms of the same shape, whose sum over
the channels is the map. What a gradient counts as is said by `Sign` alone, alike for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnx_attribution.methods import (
    CamForm,
    GradCam,
    GradCamPlusPlus,
    HiResCam,
    LayerCam,
    Sign,
    Upsample,
    XGradCam,
)
from onnx_attribution.server.engine.recipe import AtInput, Floats, Pooled, Recipe, Reduce, recipe

Count = Callable[[Floats], Floats]
COUNTED: Mapping[Sign, Count] = {
    "signed": lambda gradient: gradient,
    "positive": lambda gradient: np.maximum(gradient, 0),
    "absolute": np.abs,
}
"""What a gradient counts as."""
JACOBGIL, XGRAD = 1e-6, 1e-7
"""What pytorch-grad-cam adds to denominators, of Grad-CAM++ and of XGrad-CAM."""


def mean_terms(sign: Sign) -> Reduce:
    """The values of each channel times the mean of its gradients, as these count."""
    return lambda gradient, activation: _mean(COUNTED[sign](gradient)) * activation


@recipe(GradCam)
def grad_cam(method: GradCam) -> Recipe:
    return _pooled(method, mean_terms(method.sign))


@recipe(GradCamPlusPlus)
def grad_cam_pp(method: GradCamPlusPlus) -> Recipe:
    def terms(gradient: Floats, activation: Floats) -> Floats:
        counted, alpha = COUNTED[method.sign](gradient), _alpha(gradient, activation, method.form)
        if method.sign != "positive":
            alpha = np.abs(alpha)
        if method.form == "authors":
            whole = _sum(np.where(counted != 0, alpha, 0))
            alpha = alpha / np.where(whole == 0, 1, whole)
        return np.asarray(_sum(alpha * counted) * activation)

    return _pooled(method, terms)


@recipe(HiResCam)
def hires_cam(method: HiResCam) -> Recipe:
    return _elementwise(method)


@recipe(LayerCam)
def layer_cam(method: LayerCam) -> Recipe:
    return _elementwise(method)


def _elementwise(method: HiResCam | LayerCam) -> Recipe:
    counted = COUNTED[method.sign]
    return _pooled(method, lambda gradient, activation: counted(gradient) * activation)


@recipe(XGradCam)
def xgrad_cam(method: XGradCam) -> Recipe:
    counted = COUNTED[method.sign]

    def terms(gradient: Floats, activation: Floats) -> Floats:
        share = activation / (_sum(activation) + XGRAD)
        return np.asarray(_sum(counted(gradient) * share) * activation)

    return _pooled(method, terms)


def _alpha(gradient: Floats, activation: Floats, form: CamForm) -> Floats:
    """The weight of each position; 0 / 0 is 0."""
    below = 2 * gradient**2 + _sum(activation) * gradient**3
    below = below + JACOBGIL if form == "jacobgil" else np.where(below == 0, 1, below)
    return np.asarray(gradient**2 / below)


def _pooled(method: GradCam | GradCamPlusPlus | HiResCam | LayerCam | XGradCam, terms: Reduce) -> Recipe:
    upsample: Upsample = method.upsample
    pooled = Pooled(method.channel_axis, method.attr_dim_summation, method.relu_attributions, upsample)
    return Recipe(AtInput(), terms, pooled=pooled, multiplied=True)


def _positions(values: Floats) -> tuple[int, ...]:
    return tuple(range(2, values.ndim))


def _sum(values: Floats) -> Floats:
    """Over the positions, which may be none."""
    return np.asarray(values.sum(axis=_positions(values), keepdims=True))


def _mean(values: Floats) -> Floats:
    """Over the positions, which may be none."""
    return np.asarray(values.mean(axis=_positions(values), keepdims=True))
