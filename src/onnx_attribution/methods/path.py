"""Methods that add up gradients on the line from the baseline to the input. Needs numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx_attribution.methods.shared import (
    MAX_STEPS,
    MULTIPLY_BY_INPUTS,
    QUADRATURE,
    STEPS,
    Quadrature,
)
from onnx_attribution.parameters import bounded
from onnx_attribution.register import (
    Method,
    register,
)

DOUBLED_STEPS = 1024
"""Where the refinement for a tolerance ends by default, unless it begins above."""
TOLERANCE = 0.01
"""The tolerance of the quadrature auto that is not named."""


@dataclass(frozen=True)
class AlongPath(Method):
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
class MeanAlongPath(AlongPath):
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
class IntegratedGradients(MeanAlongPath):
    """The mean gradient on the line from the baseline to the source, times the difference. Sums to F(x) - F(x')."""

    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")


@register("neuron_ig", captum="LayerConductance", paper="arXiv 1807.09946")
@dataclass(frozen=True)
class NeuronIG(AlongPath):
    """Neuron Integrated Gradients, the total conductance of a hidden layer: gradients times the differences of its
    activations along the path. Sums to F(x) - F(x') at a cut."""
