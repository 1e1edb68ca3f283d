"""Sequences without a step, which onnxruntime does not run.

Its GRU ends the process, and its Scan, of which the gradients of recurrent operators are made, fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.graph_tools.ir.nodes import inner_graphs, reads
from onnx_attribution.graph_tools.ir.reach import SHAPE_ONLY
from onnx_attribution.values import Array

RECURRENT = frozenset({"DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"})


def require_steps(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> None:
    """Refuses an input without elements of which a sequence is made that a node steps through.

    Raises:
        InvalidArgument: it names the input, its axis and the node.
    """
    for name, array in inputs.items():
        if array.size:
            continue
        node = _stepping(model.graph, name)
        if node is not None:
            axis = array.shape.index(0)
            raise InvalidArgument(
                f"input {name!r} has no element along axis {axis}, and {node.op_type} (node {node.name!r}) steps "
                f"through what is made of it: give at least one step",
                reason=Reason.SHAPE_MISMATCH, violations={f"inputs.{name}": f"axis {axis} is empty"},
            )  # fmt: skip


def _stepping(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    """The first node that steps through a sequence made of an input, or holds one that may."""
    found = {name}
    for node in graph.node:
        if not found.intersection(reads(node)) or node.op_type in SHAPE_ONLY:
            continue
        if found.intersection(_sequences(node)) or any(_steps(inner.node) for inner in inner_graphs(node)):
            return node
        if node.op_type != "Concat" or found.issuperset(node.input):  # else others add elements
            found.update(node.output)
    return None


def _sequences(node: onnx.NodeProto) -> Iterable[str]:
    """What a node steps through."""
    if node.op_type == "Scan":
        count = next(a.i for a in node.attribute if a.name == "num_scan_inputs")
        return list(node.input[-count:])
    return node.input[:1] if node.op_type in RECURRENT else []


def _steps(nodes: Iterable[onnx.NodeProto]) -> bool:
    return any(
        node.op_type in RECURRENT | {"Scan"} or any(_steps(inner.node) for inner in inner_graphs(node))
        for node in nodes
    )
