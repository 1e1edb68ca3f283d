"""Programs of gradients: the network and its backward pass at rows of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from onnx_attribution.graph_tools.ir.emit import Value
from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.programs.build import Draft
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.graph_tools.walk.differentiate import Rules, gradients_of

Reduction = Literal["gradient", "product"]
"""What is summed over the units of a layer: gradients, or their products with the activations."""


def rows_program(
    network: Network,
    choice: Choice,
    *,
    rules: RuleTable = VJP,
    activations: bool = True,
    totals: Reduction | None = None,
    channels: Mapping[str, int] | None = None,
    relevance: bool = False,
    partial: bool = False,
) -> Program:
    """Gradient rows: one run of the network at the rows that are given.

    Inputs are the network's own, hidden sources by name, and `target/weight`. Outputs are `activation/<layer>`, unless
    `activations` is False, and `gradient/<layer>` in the layer's own shape, and `target/value`: `[rows]`, or `[1]`
    where rows are not separable. With `totals` in place of both `total/<layer>` of the shape of `target/value`: the sum
    over the units of a row, in float32 at least; or, of layers of which `channels` says the axis, `channels/<layer>`,
    `[rows, channels]` or `[1, channels]`: the sums over the positions of each. `relevance`: what the rules carry begins
    with the target's value; `partial`: they may leave a layer nothing.
    """
    draft = Draft(network, choice.sources)
    weight = draft.weight(choice.target)
    gradients = draft.gradients(choice, weight, Rules(rules, relevance=relevance, partial=partial))
    draft.put_target(choice.target, weight, "target/value")
    for layer in choice.layers:
        if totals is not None:
            found = _summed(draft, layer, gradients[layer], totals)
            if channels is not None and layer in channels:
                draft.put(draft.per_channel(found, layer, channels[layer]), f"channels/{layer}")
            else:
                draft.put(draft.per_row(found, layer), f"total/{layer}")
            continue
        if activations:
            draft.put(draft.tensor(layer), f"activation/{layer}")
        draft.put(gradients[layer], f"gradient/{layer}")
    return draft.finish()


def _summed(draft: Draft, layer: str, gradient: Value, totals: Reduction) -> Value:
    """What is added up, in float32 at least."""
    op, activation = draft.op, draft.tensor(layer)
    wide = np.float64 if np.dtype(gradient.dtype) == np.float64 else np.float32
    found = op.cast(gradient, wide)
    if totals == "product":
        found = op("Mul", found, op.cast(activation, wide))
    return found


def led_to(network: Network, choice: Choice, *, rules: RuleTable = VJP) -> tuple[str, ...]:
    """The layers to which a derivative of the target leads.

    Raises:
        NotDifferentiable: an operator between them and the target has no rule.
    """
    draft = Draft(network, choice.sources)
    weight = draft.weight(choice.target)
    found = gradients_of(draft.op, {choice.target: weight}, choice.layers, Rules(rules))
    return tuple(layer for layer in choice.layers if layer in found)
