"""Methods that carry something else than the gradient back through a network. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_attribution.register import Method, register


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
