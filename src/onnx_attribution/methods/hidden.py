"""Methods of a hidden layer or neuron. Needs numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from onnx_attribution.methods.path import MeanAlongPath
from onnx_attribution.methods.shared import (
    MULTIPLY_BY_INPUTS,
    NEURON,
)
from onnx_attribution.parameters import EMPTY, bounded
from onnx_attribution.register import (
    Method,
    register,
)


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
class InternalInfluence(MeanAlongPath):
    """The mean gradient of a hidden layer on the line from the baseline to the source."""

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})


@register("neuron_conductance", captum="NeuronConductance", paper="arXiv 1805.12233")
@dataclass(frozen=True, eq=False)
class NeuronConductance(MeanAlongPath):
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
