"""Methods that are means over random draws. Needs numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods.gradient import Gradient
from onnx_attribution.methods.shared import (
    GROUPS,
    MAX_DRAWS,
    MAX_SEED,
    MAX_STEPS,
    MULTIPLY_BY_INPUTS,
    NEURON,
    QUADRATURE,
    SEED,
    STEPS,
    STRIDES,
    WINDOWS,
    Quadrature,
)
from onnx_attribution.parameters import EMPTY, alike, bounded, parameters_of
from onnx_attribution.register import (
    Method,
    make,
    named,
    register,
)

DRAWN = "How many rows are drawn for each sample; Captum's n_samples and nt_samples."
OF = (
    "The method whose attributions are taken, by its name, with its parameters in brackets where they are not those "
    "below: grad_cam(sign=positive, upsample=linear)."
)


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
