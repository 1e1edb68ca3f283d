"""From ModelProto to the working form and back: the only crossing besides `load`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_attribution.graph_tools.normalise import IR_VERSION

ROWS = "rows"


def graph_of(model: onnx.ModelProto) -> gs.Graph:
    """The model as a graph that may be changed; the model stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with _quiet():
        return gs.import_onnx(copy)


def model_of(graph: gs.Graph) -> onnx.ModelProto:
    """The graph as a model, without the nodes that no output needs."""
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    for value in graph.tensors().values():
        if isinstance(value, gs.Variable) and value.shape is not None:  # "?" would be read as one symbol
            value.shape = [None if d == "?" else d for d in value.shape]
    graph.ir_version = IR_VERSION
    with _quiet():
        model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps graphsurgeon from printing warnings to standard output."""
    before = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.ERROR
    try:
        yield
    finally:
        G_LOGGER.severity = before


def input_like(value: gs.Tensor, name: str, shape: list[int | str | None] | None = None) -> gs.Variable:
    """A new variable of the type of `value`, of unknown dimensions unless `shape` says them."""
    dims = shape if shape is not None else [f"{name}.{k}" for k in range(len(value.shape or []))]
    return gs.Variable(name, dtype=value.dtype, shape=dims)


def detach(graph: gs.Graph, name: str) -> gs.Variable:
    """The tensor `name`, cut off from the node that made it, or no longer a graph input; its consumers stay."""
    value = graph.tensors()[name]
    for node in list(value.inputs):
        node.outputs[node.outputs.index(value)] = gs.Variable(
            f"{name}/before", dtype=value.dtype, shape=value.shape
        )
    graph.inputs[:] = [x for x in graph.inputs if x is not value]
    return value
