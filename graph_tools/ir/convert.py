"""From ModelProto to the working form and back: the only crossing besides `load`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.ir.outer_constants import hoist
from onnx_attribution.graph_tools.ir.quiet import quiet
from onnx_attribution.graph_tools.ir.weights import value_of

IR_VERSION = 10
ROWS = "rows"


def graph_of(model: onnx.ModelProto) -> gs.Graph:
    """The model as a graph that may be changed; the model stays as it is."""
    copy = copied(model)
    with quiet():
        graph = gs.import_onnx(copy)
    for inner in _with_inner(graph):
        for value in inner.tensors().values():
            if isinstance(value, gs.Constant) and value.data_location == onnx.TensorProto.EXTERNAL:
                value._values = _Apart(value._values.tensor)
                value.data_location = None  # where its values are read, they are written into the model
    return graph


def _with_inner(graph: gs.Graph) -> Iterator[gs.Graph]:
    """A graph and all graphs inside of its nodes: those alone may read a weight."""
    yield graph
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from _with_inner(value)


class _Apart(LazyValues):  # type: ignore[misc]  # graphsurgeon has no types
    """The values of a weight that is held apart; the tensor that names it is exported as it is."""

    def load(self) -> NDArray[Any]:
        return value_of(self.tensor)


def model_of(graph: gs.Graph) -> onnx.ModelProto:
    """The graph as a model, without the nodes that no output needs."""
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    for value in graph.tensors().values():
        if isinstance(value, gs.Variable) and value.shape is not None:  # "?" would be read as one symbol
            value.shape = [None if d == "?" else d for d in value.shape]
    graph.ir_version = IR_VERSION
    with quiet():
        model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    hoist(model.graph)  # graphsurgeon writes outer constants into each inner graph that reads them
    return model


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


def require_own_names(graph: gs.Graph) -> None:
    """Refuses a model that has a tensor of the name of one of the program's: the file would make one of the two."""
    seen: dict[str, gs.Tensor] = {}
    for value in [*graph.inputs, *(z for node in graph.nodes for z in node.outputs)]:
        if not value.is_empty() and seen.setdefault(value.name, value) is not value:
            raise name_is_taken(value.name)


def name_is_taken(name: str) -> ModelError:
    """A model has a tensor of the name of one of the program's."""
    return ModelError(
        f"the model has a tensor called {name!r}, as the program that explains it calls one of its own; rename it: "
        "in Python, onnx.compose.add_prefix(onnx.load(FILE), 'own/') is the model with 'own/' before all its names",
        reason=Reason.MODEL_INVALID, tensor=name,
    )  # fmt: skip
