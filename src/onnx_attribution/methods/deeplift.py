"""The rules of DeepLIFT. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnx_attribution.methods.shared import (
    MULTIPLY_BY_INPUTS,
)
from onnx_attribution.parameters import bounded
from onnx_attribution.register import (
    Method,
    register,
)

NearZero = Literal["midpoint", "input", "reference"]


@dataclass(frozen=True)
class _DeepLift(Method):
    """The parameters of all rules of DeepLIFT."""

    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")
    near_zero: NearZero = bounded(
        "midpoint",
        help="Where the gradient is taken that stands for a secant whose ends are too close for a quotient: at the "
        "midpoint, at the input as Captum does, or at the reference as kundajelab/deeplift does.",
    )


@register(
    "deeplift_rescale",
    captum="DeepLift, LayerDeepLift, NeuronDeepLift; DeepLiftShap with References",
    paper="arXiv 1704.02685",
)
@dataclass(frozen=True)
class DeepLiftRescale(_DeepLift):
    """DeepLIFT with the Rescale rule: secants in place of gradients. Sums to F(x) - F(x') at a cut."""


@register("deeplift_reveal_cancel", paper="arXiv 1704.02685, section 3.5.3")
@dataclass(frozen=True)
class DeepLiftRevealCancel(_DeepLift):
    """DeepLIFT with the RevealCancel rule wherever a nonlinearity follows something linear: the positive and the
    negative part of each change apart. Sums to F(x) - F(x') at a cut."""


@register(
    "deeplift_genomics_default",
    paper="github.com/kundajelab/deeplift, NonlinearMxtsMode.DeepLIFT_GenomicsDefault",
)
@dataclass(frozen=True)
class DeepLiftGenomicsDefault(_DeepLift):
    """DeepLIFT with RevealCancel after dense layers and Rescale elsewhere. Sums to F(x) - F(x') at a cut."""
