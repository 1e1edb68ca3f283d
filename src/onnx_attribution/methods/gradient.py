"""The gradient, and its product with what it is the gradient of. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_attribution.methods.shared import (
    MULTIPLY_BY_INPUTS,
)
from onnx_attribution.parameters import bounded
from onnx_attribution.register import (
    Method,
    register,
)


@register("gradient", captum="Saliency (its absolute value), NeuronGradient", paper="arXiv 1312.6034")
@dataclass(frozen=True)
class Gradient(Method):
    """The derivative of the target with respect to the layer, at the input."""

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})


@register(
    "gradient_x_activation", captum="InputXGradient, LayerGradientXActivation", paper="arXiv 1605.01713"
)
@dataclass(frozen=True)
class GradientXActivation(Method):
    """The gradient times the layer's values."""

    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")
