"""Programs that only run the network."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.programs.build import Draft
from onnx_attribution.graph_tools.programs.signature import Program


def forward_program(network: Network, tensors: Sequence[str], sources: Sequence[str] = ()) -> Program:
    """The network as it is with `tensors` exposed; hidden `sources` become inputs.

    An input among the tensors is the output `output/<input>`.
    """
    draft = Draft(network, sources)
    for name in tensors:
        value = draft.tensor(name)
        if any(x is value for x in draft.graph.inputs):
            draft.put(value, f"output/{name}")
        else:
            draft.outputs.append(value)
    return draft.finish()
