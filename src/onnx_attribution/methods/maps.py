"""Methods that make the channels of a convolutional layer one map of its positions. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from onnx_attribution.parameters import bounded
from onnx_attribution.register import Method, register

Sign = Literal["signed", "positive", "absolute"]
Upsample = Literal["none", "nearest", "linear", "linear_corners"]
CamForm = Literal["authors", "jacobgil"]

SIGN = (
    "What of each gradient is added up: the gradient as it is, its positive part, or its absolute value; of full_grad "
    "of each product."
)
CHANNEL_AXIS = (
    "The axis of the channels, counted with that of the samples in front; all others are positions. -1 for tokens, "
    "whose channels come last."
)
UPSAMPLE = (
    "How the map is brought to the positions of the input: not at all, by the nearest position, or linearly along each "
    "axis, as torch's interpolate does with align_corners False, or with True (linear_corners)."
)


@dataclass(frozen=True)
class _Map(Method):
    """The parameters of methods that weigh the channels of a layer and add them up."""

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})

    sign: Sign = bounded("signed", help=SIGN)
    relu_attributions: bool = bounded(False, help="Leave out what is negative in the map.")
    attr_dim_summation: bool = bounded(
        True, help="Add the channels up, which leaves an axis of one; else each channel is a map."
    )
    channel_axis: int = bounded(1, at_least=-16, at_most=16, help=CHANNEL_AXIS)
    upsample: Upsample = bounded("none", help=UPSAMPLE)


@register("grad_cam", captum="LayerGradCam", paper="arXiv 1610.02391")
@dataclass(frozen=True)
class GradCam(_Map):
    """The sum over channels of a layer's values, each weighed by the mean of its channel's gradients.

    The layer that is asked for, or else the last one with positions before the target, which the answer names. The map
    is `[samples, 1, *positions]`. The paper leaves out what is negative: `relu_attributions`.
    """


@register("grad_cam_pp", paper="arXiv 1710.11063")
@dataclass(frozen=True)
class GradCamPlusPlus(_Map):
    """Grad-CAM++: the sum over channels of a layer's values, each weighed by the sum of its channel's positive
    gradients, times alpha, the share of a position that follows from second and third derivatives of exp(F).

    alpha = G² / (2 G² + S G³), where S is the sum of the channel's values, has a pole at G = -2 / S and is negative
    below. So of signs other than positive its magnitude is taken, which keeps the sign of the gradient. The form of the
    authors divides alpha by its sum over the positions that count; their factor exp(F), which all units share, is left
    out. That of jacobgil (pytorch-grad-cam) does not divide, and adds 1e-6 to the denominator.
    """

    sign: Sign = bounded("positive", help=SIGN)
    form: CamForm = bounded(
        "authors", help="How alpha is normalised: as the authors' code does, or jacobgil's."
    )


@register("hires_cam", paper="arXiv 2011.08891")
@dataclass(frozen=True)
class HiResCam(_Map):
    """The sum over channels of the gradient times the layer's values."""


@register("layer_cam", paper="10.1109/TIP.2021.3089943")
@dataclass(frozen=True)
class LayerCam(_Map):
    """The sum over channels of the positive part of the gradient times the layer's values.

    With the sign signed it is hires_cam.
    """

    sign: Sign = bounded("positive", help=SIGN)


@register("xgrad_cam", paper="arXiv 2008.02312")
@dataclass(frozen=True)
class XGradCam(_Map):
    """The sum over channels of a layer's values, each weighed by the mean of its channel's gradients in which a
    position counts by its share of the channel's values."""


@register("guided_grad_cam", captum="GuidedGradCam", paper="arXiv 1610.02391, section 3.2")
@dataclass(frozen=True)
class GuidedGradCam(Method):
    """Guided backpropagation at the source, times the map that grad_cam makes of a layer, at the size of the source.

    The layer that is asked for is the map's, or else the last one with positions before the target, which the answer
    names; the answer is of the sources.
    """

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})

    sign: Sign = bounded("signed", help=SIGN)
    relu_attributions: bool = bounded(True, help="Leave out what is negative in the map.")
    channel_axis: int = bounded(1, at_least=-16, at_most=16, help=CHANNEL_AXIS)
    upsample: Literal["nearest", "linear", "linear_corners"] = bounded(
        "nearest", help="How the map is brought to the positions of the source."
    )


@register("full_grad", paper="arXiv 1905.00780")
@dataclass(frozen=True)
class FullGrad(Method):
    """FullGrad: the map of all terms that sum to F(x): of the input its gradient times its values, and of each tensor
    to which a bias is added its gradient times the bias.

    Of each tensor's terms the absolute values are taken (`sign`), brought to a range of 1, brought to the size of the
    input, and added over channels and tensors, as the authors' code does; those of tensors without positions, behind
    dense layers, are left out. `full_grad_terms` are the terms themselves. A warning says where they do not sum to
    F(x): between are operators that are neither proportional to their input nor add to it.
    """

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})

    sign: Sign = bounded("absolute", help=SIGN)
    normalise: bool = bounded(
        True,
        help="Bring the terms of each tensor to the range 0 to 1 for each sample; signed ones to the magnitude 1.",
    )
    multiply_by_biases: bool = bounded(
        True, help="Take the gradient times the bias; without, the gradient alone, which is Simple FullGrad."
    )
    channel_axis: int = bounded(1, at_least=-16, at_most=16, help=CHANNEL_AXIS)
    upsample: Literal["nearest", "linear", "linear_corners"] = bounded(
        "linear_corners", help="How the terms of layers are brought to the positions of the input."
    )


@register("full_grad_terms", paper="arXiv 1905.00780, equation 3")
@dataclass(frozen=True)
class FullGradTerms(Method):
    """The terms of FullGrad: of each source its gradient times its values, and of each tensor to which a bias is added
    its gradient times the bias. All together sum to F(x).

    The bias of a BatchNormalization is what it adds, offset - mean * scale / sqrt(variance + epsilon), and that of an
    elementwise function what f(x) has beside x f'(x). The layers of the answer are the sources and those tensors.
    """

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})
