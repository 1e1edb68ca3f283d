"""The methods, each a value that carries its own parameters: what client, wire and command line read of them.

    NeuronIG(steps=256, tolerance=0.01)

How an engine evaluates a method is its recipe (`onnx_attribution.server.engine.recipe`). A method of your own is a
dataclass and a recipe, registered from anywhere; an entry point of the group `onnx_attribution.methods` names the
module that holds them. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.parameters import EMPTY, Parameter, alike, bounded, parameters_of
from onnx_attribution.register import (
    Custom,
    Method,
    MethodInfo,
    failures,
    forget,
    info_of,
    make,
    named,
    register,
    registered,
    require_registered,
)

__all__ = [
    "DEFAULT",
    "EMPTY",
    "CamForm",
    "Custom",
    "DeconvNet",
    "DeepLiftGenomicsDefault",
    "DeepLiftRescale",
    "DeepLiftRevealCancel",
    "ExpectedGradients",
    "FbTrace",
    "FullGrad",
    "FullGradTerms",
    "GradCam",
    "GradCamPlusPlus",
    "Gradient",
    "GradientXActivation",
    "GuidedBackprop",
    "GuidedGradCam",
    "HiResCam",
    "IntegratedGradients",
    "InternalInfluence",
    "KernelShap",
    "LayerActivation",
    "LayerCam",
    "Lrp",
    "Method",
    "MethodInfo",
    "NearZero",
    "NeuronConductance",
    "NeuronIG",
    "Occlusion",
    "Parameter",
    "Quadrature",
    "RectGrad",
    "Sign",
    "SmoothGrad",
    "SmoothGradSquared",
    "Upsample",
    "VarGrad",
    "XGradCam",
    "bounded",
    "failures",
    "forget",
    "info_of",
    "make",
    "register",
    "registered",
    "require_registered",
]

MAX_STEPS, MAX_DRAWS, MAX_SEED = 16384, 1 << 20, 1_000_000_000
DOUBLED_STEPS = 1024
"""Where the refinement for a tolerance ends by default, unless it begins above."""
FIXED_STEPS = 64
"""The steps of a fixed quadrature that are not named."""
TOLERANCE = 0.01
"""The tolerance of the quadrature auto that is not named."""
Quadrature = Literal[
    "auto",
    "trapezoid",
    "left",
    "right",
    "riemann_left",
    "riemann_right",
    "riemann_middle",
    "riemann_trapezoid",
    "gausslegendre",
]
NearZero = Literal["midpoint", "input", "reference"]

MULTIPLY_BY_INPUTS = "Multiply by the difference to the baseline, or by the activation."
STEPS = (
    "Segments of the path, or Captum's n_steps with its quadratures; without, as many as the tolerance needs, "
    f"or {FIXED_STEPS} of a quadrature that is named."
)
QUADRATURE = (
    "Where the steps lie and what they weigh; auto lays them where the path needs them, or makes a trapezoid "
    "of steps that are named; from riemann_left on Captum's."
)
DRAWN = "How many rows are drawn for each sample; Captum's n_samples and nt_samples."
GROUPS = (
    "By source, integers from 0 that broadcast to one sample: elements of one number are replaced together, across "
    "sources too."
)
WINDOWS = "By source, the sizes of a window that moves over the last axes; other axes are taken whole."
NEURON = (
    "By the name of its layer, the index of the neuron in one sample; with fewer numbers than axes all neurons whose "
    "index begins so, as those of a channel."
)
SEED = "The same seed gives the same draws, for every sample and target, whatever shares a run."
OF = (
    "The method whose attributions are taken, by its name, with its parameters in brackets where they are not those "
    "below: grad_cam(sign=positive, upsample=linear)."
)
STRIDES = "By source, how far the window moves; by default its size, so that windows do not overlap."


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


@dataclass(frozen=True)
class _AlongPath(Method):
    """The parameters of methods that add up gradients on the line from the baseline to the input."""

    steps: int | None = bounded(None, at_least=1, at_most=MAX_STEPS, accuracy=True, help=STEPS)
    tolerance: float | None = bounded(
        None,
        above=0,
        accuracy=True,
        help="Refine until the estimated L1 error is at most this part of the attributions' L1 norm; without, "
        f"{TOLERANCE} of the quadrature auto, and steps that are named are not refined.",
    )
    max_steps: int | None = bounded(
        None,
        at_least=1,
        at_most=MAX_STEPS,
        accuracy=True,
        help=f"Where the refinement ends; by default at {DOUBLED_STEPS}, or at steps where that is more.",
    )
    quadrature: Quadrature = bounded("auto", accuracy=True, help=QUADRATURE)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if (
            self.tolerance is not None
            and self.max_steps is not None
            and self.steps is not None
            and self.max_steps < self.steps
        ):
            yield "max_steps", f"max_steps is {self.max_steps}, below steps, {self.steps}"


@dataclass(frozen=True)
class _MeanAlongPath(_AlongPath):
    """The same of mean gradients."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from super().contradictions()
        if self.quadrature == "riemann_trapezoid" and self.steps == 1:  # its only node would be the baseline
            yield "steps", "riemann_trapezoid needs at least 2 steps"


@register(
    "integrated_gradients",
    captum="IntegratedGradients; LayerIntegratedGradients, whose source is the layer; NeuronIntegratedGradients, "
    "whose target is a neuron",
    paper="arXiv 1703.01365",
)
@dataclass(frozen=True)
class IntegratedGradients(_MeanAlongPath):
    """The mean gradient on the line from the baseline to the source, times the difference. Sums to F(x) - F(x')."""

    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")


@register("neuron_ig", captum="LayerConductance", paper="arXiv 1807.09946")
@dataclass(frozen=True)
class NeuronIG(_AlongPath):
    """Neuron Integrated Gradients, the total conductance of a hidden layer: gradients times the differences of its
    activations along the path. Sums to F(x) - F(x') at a cut."""


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


@register(
    "occlusion",
    captum="FeatureAblation (groups are its feature_mask); Occlusion with windows and strides",
    paper="arXiv 1311.2901",
)
@dataclass(frozen=True, eq=False)
class Occlusion(Method):
    """By how much the target falls where a group of features is at its baseline; of any model that runs.

    A source with neither groups nor a window has every element as its own group. Sources may hold integers, text and
    truth values too (baselines: 0, "" and False), and are by default those that groups and windows name, else the
    inputs of which each sample has its own.
    """

    groups: Mapping[str, NDArray[np.generic]] = bounded(EMPTY, help=GROUPS)
    windows: Mapping[str, Sequence[int]] = bounded(EMPTY, option="window", help=WINDOWS)
    strides: Mapping[str, Sequence[int]] = bounded(EMPTY, option="stride", help=STRIDES)


@register("kernel_shap", captum="KernelShap", paper="arXiv 1705.07874")
@dataclass(frozen=True, eq=False)
class KernelShap(Method):
    """The Shapley values of groups of features: the mean, over all orders in which the groups are brought from their
    baseline to the input, of what each adds to the target; of any model that runs. Sums to F(x) - F(x').

    They are fitted to coalitions of groups by a weighted regression. Where all coalitions of the groups that differ
    from their baseline fit into the number, the values are exact; else some are drawn, and the error estimate is the L1
    norm of the standard errors. Groups and sources are those of occlusion: every element has the value of its group, so
    that groups, not elements, sum to the change. Over several references, which an interventional TreeSHAP calls its
    background, it is the mean.
    """

    coalitions: int | None = bounded(
        None,
        at_least=2,
        at_most=MAX_DRAWS,
        accuracy=True,
        help="How many coalitions are evaluated for each sample, two for each group and four more at least; by default "
        "2048 more than two for each. Captum's n_samples.",
    )
    seed: int = bounded(0, at_least=0, at_most=MAX_SEED, help=SEED)
    groups: Mapping[str, NDArray[np.generic]] = bounded(EMPTY, help=GROUPS)
    windows: Mapping[str, Sequence[int]] = bounded(EMPTY, option="window", help=WINDOWS)
    strides: Mapping[str, Sequence[int]] = bounded(EMPTY, option="stride", help=STRIDES)


@register(
    "layer_activation", captum="LayerActivation", paper="github.com/meta-pytorch/captum, LayerActivation"
)
@dataclass(frozen=True)
class LayerActivation(Method):
    """The layer's values at the input; of any model that runs.

    It needs no target: where none is named, the answer speaks of the sum of the first layer.
    """

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})


@register("internal_influence", captum="InternalInfluence", paper="arXiv 1802.03788")
@dataclass(frozen=True)
class InternalInfluence(_MeanAlongPath):
    """The mean gradient of a hidden layer on the line from the baseline to the source."""

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})


@register("neuron_conductance", captum="NeuronConductance", paper="arXiv 1805.12233")
@dataclass(frozen=True, eq=False)
class NeuronConductance(_MeanAlongPath):
    """The conductance of one neuron by input: the part of integrated gradients that goes through the neuron.

    The mean over the line from the baseline to the source of the target's derivative by the neuron times the neuron's
    gradient, times the difference of the source. Summed over the neurons of a cut it is integrated_gradients, and
    summed over the source the neuron's neuron_ig.
    """

    neuron: Mapping[str, Sequence[int]] = bounded(EMPTY, help=NEURON)
    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from super().contradictions()
        if len(self.neuron) > 1:
            yield "neuron", f"neuron is of one layer, not of {', '.join(map(repr, self.neuron))}"


@dataclass(frozen=True)
class _Drawn(Method):
    """The parameters of methods that are means over random draws."""

    draws: int = bounded(50, at_least=1, at_most=MAX_DRAWS, accuracy=True, help=DRAWN)
    seed: int = bounded(
        0,
        at_least=0,
        at_most=MAX_SEED,
        help=SEED,
    )


@register(
    "expected_gradients",
    captum="GradientShap, LayerGradientShap, NeuronGradientShap",
    paper="arXiv 1906.10670",
)
@dataclass(frozen=True)
class ExpectedGradients(_Drawn):
    """The mean over random points between the references and the input of the gradient times the difference. Sums to
    F(x) less the mean of F over the references, but for what the draws scatter.

    Each draw takes one of the references (a plain baseline is one), a point between it and the input with its noise,
    and the difference of the two. The error estimate is the L1 norm of the standard errors of the mean.
    """

    draws: int = bounded(200, at_least=1, at_most=MAX_DRAWS, accuracy=True, help=DRAWN)
    stdev: float = bounded(
        0.0,
        at_least=0,
        help="Standard deviation of normal noise that is added to the input, or to the layer that is asked for.",
    )
    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")


@dataclass(frozen=True, eq=False)
class _Noisy(_Drawn):
    """The parameters of methods that take the attributions of another method at the input with noise; from
    `multiply_by_inputs` on they are those of the other method."""

    stdev: float | None = bounded(
        None, at_least=0, help="Standard deviation of the noise, in the unit of the source; Captum's stdevs."
    )
    noise_level: float = bounded(
        0.15,
        at_least=0,
        help="Standard deviation as a share of the range of each sample's source, where stdev is left open.",
    )
    of: str = bounded("gradient", help=OF)
    absolute: bool = bounded(
        False, help="Take the absolute attributions of each draw, as Captum's Saliency does."
    )
    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")
    steps: int | None = bounded(None, at_least=1, at_most=MAX_STEPS, accuracy=True, help=STEPS)
    quadrature: Quadrature = bounded("auto", accuracy=True, help=QUADRATURE)
    groups: Mapping[str, NDArray[np.generic]] = bounded(EMPTY, help=GROUPS)
    windows: Mapping[str, Sequence[int]] = bounded(EMPTY, option="window", help=WINDOWS)
    strides: Mapping[str, Sequence[int]] = bounded(EMPTY, option="stride", help=STRIDES)
    neuron: Mapping[str, Sequence[int]] = bounded(EMPTY, help=NEURON)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        given = self._given()
        if self.of != Gradient.name or given:
            try:
                self.inner()
            except InvalidArgument as error:
                yield next(iter(error.violations), "of"), error.message

    def inner(self) -> Method:
        """The method whose attributions are taken. Raises: InvalidArgument: it knows none of the parameters."""
        name, own = named(self.of)
        return make(name, {**self._given(), **own})

    def _given(self) -> dict[str, Any]:
        """The parameters of the other method that are not as they are by default."""
        of = ("multiply_by_inputs", "steps", "quadrature", "groups", "windows", "strides", "neuron")
        known = {one.name: one.default for one in parameters_of(type(self)) if one.name in of}
        return {name: value for name in known if not alike(value := getattr(self, name), known[name])}


@register("smoothgrad", captum="NoiseTunnel, nt_type smoothgrad", paper="arXiv 1706.03825")
@dataclass(frozen=True, eq=False)
class SmoothGrad(_Noisy):
    """The mean of the gradient, or of another method's attributions, over noise at the input.

    The noise is normal and added to the sources. The other method is named by `of`; the parameters from
    `multiply_by_inputs` on are its. The error estimate is the L1 norm of the standard errors of the mean.
    """


@register("smoothgrad_sq", captum="NoiseTunnel, nt_type smoothgrad_sq", paper="arXiv 1806.10758")
@dataclass(frozen=True, eq=False)
class SmoothGradSquared(_Noisy):
    """The mean of the square of the gradient, or of another method's attributions, over noise at the input.

    The noise is normal and added to the sources. The other method is named by `of`; the parameters from
    `multiply_by_inputs` on are its. The error estimate is the L1 norm of the standard errors of the mean.
    """


@register("vargrad", captum="NoiseTunnel, nt_type vargrad", paper="arXiv 1810.03307")
@dataclass(frozen=True, eq=False)
class VarGrad(_Noisy):
    """The variance of the gradient, or of another method's attributions, over noise at the input.

    The noise is normal and added to the sources. The other method is named by `of`; the parameters from
    `multiply_by_inputs` on are its. The squares are divided by the number of draws, as Captum does. The error estimate
    is the L1 norm of the standard errors of the variance.
    """


DEFAULT: Method = NeuronIG()
"""What is evaluated where a request names no method."""

# Behind all others, so that lists begin with these.
from onnx_attribution.methods.maps import (  # noqa: E402
    CamForm,
    FullGrad,
    FullGradTerms,
    GradCam,
    GradCamPlusPlus,
    GuidedGradCam,
    HiResCam,
    LayerCam,
    Sign,
    Upsample,
    XGradCam,
)
from onnx_attribution.methods.relevance import (  # noqa: E402
    DeconvNet,
    GuidedBackprop,
    Lrp,
    RectGrad,
)
from onnx_attribution.methods.trace import FbTrace  # noqa: E402
