"""Programs of gradients: the network and its backward pass at rows of inputs."""

from __future__ import annotations

from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.programs.build import Draft
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.graph_tools.walk.differentiate import Rules


def rows_program(network: Network, choice: Choice, *, rules: RuleTable = VJP) -> Program:
    """Gradient rows: one run of the network at the rows that are given.

    Inputs are the network's own, hidden sources by name, and `target/weight`. Outputs are `activation/<layer>` and
    `gradient/<layer>` in the layer's own shape, and `target/value`: `[rows]`, or `[1]` where rows are not separable.
    """
    draft = Draft(network, choice.sources)
    weight = draft.weight(choice.target)
    gradients = draft.gradients(choice, weight, Rules(rules))
    draft.put_target(choice.target, weight, "target/value")
    for layer in choice.layers:
        draft.put(draft.tensor(layer), f"activation/{layer}")
        draft.put(gradients[layer], f"gradient/{layer}")
    return draft.finish()
