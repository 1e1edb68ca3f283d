"""Methods that carry something else than the gradient back through a network. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_attribution.parameters import bounded
from onnx_attribution.register import Method, register

MULTIPLY_BY_INPUTS = "Multiply by the activation."


@register("guided_backprop", captum="GuidedBackprop, NeuronGuidedBackprop", paper="arXiv 1412.6806")
@dataclass(frozen=True)
class GuidedBackprop(Method):
    """The gradient of which every rectifier lets pass only what is positive.

    Rectifiers are Relu, Clip from 0, ThresholdedRelu and Max of a tensor and 0; all other functions, LeakyRelu and Gelu
    too, keep their gradient.
    """

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})


@register("deconvnet", captum="Deconvolution, NeuronDeconvolution", paper="arXiv 1311.2901")
@dataclass(frozen=True)
class DeconvNet(Method):
    """The gradient in which every rectifier lets pass what is positive of what arrives, whatever its own input was.

    Rectifiers are those of guided_backprop.
    """

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})


@register("rectgrad", paper="arXiv 1902.04893")
@dataclass(frozen=True)
class RectGrad(Method):
    """The gradient of which rectifiers let pass only what matters most, times the layer's values: where it is above
    a threshold when it is multiplied by the rectifier's output.

    Rectifiers are those of guided_backprop, which it is with a tau of 0, but for the last factor. The threshold is a
    quantile over all units of a layer in one sample, so that samples are evaluated one by one.
    """

    quantile: float = bounded(
        98.0, at_least=0, at_most=100, help="The threshold as a quantile, in percent; where tau is left open."
    )
    tau: float | None = bounded(None, help="The threshold as a number.")
    absolute: bool = bounded(
        False, help="Compare the absolute value of the product, so that what is negative may pass too."
    )
    proportional: bool = bounded(
        False,
        help="At max pools, hand what arrives to all elements of a window in proportion to their values, in place of "
        "the largest.",
    )
    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")
