"""Models for others to run: with hidden tensors as outputs, or with their gradient appended."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import inliner

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.graph_tools.ir.weights import place, weights_of, whole
from onnx_attribution.graph_tools.network import Network, RowAxis
from onnx_attribution.graph_tools.programs.build import Draft
from onnx_attribution.graph_tools.programs.scalar import Scalar, row_axis, value_of
from onnx_attribution.graph_tools.programs.signature import Program
from onnx_attribution.graph_tools.select.names import names_of, resolve
from onnx_attribution.graph_tools.walk.differentiate import differentiate

MESSAGE = (1 << 31) - (1 << 24)
"""Bytes that a file of one message holds; the values of a larger model go into a file beside it."""


# --- Hidden tensors as outputs


def exposed(model: onnx.ModelProto, names: Sequence[str]) -> tuple[onnx.ModelProto, list[str]]:
    """The model with the tensors that the names mean as outputs, after its own, and their names.

    Nothing else changes; only where a tensor lies in a local function, functions are inlined. The new outputs have
    neither type nor shape: a runtime knows them.

    Raises:
        NotFound, InvalidArgument: as `resolve`, or a name means a constant.
    """
    known, flat = names_of(model), inliner.inline_local_functions(model) if model.functions else model
    graph = outline(flat)
    tensors = list(dict.fromkeys(resolve(graph, name, known) for name in names))
    for name in tensors:
        if isinstance(graph.tensors()[name], gs.Constant):
            raise InvalidArgument(f"layer {name!r} is a constant", reason=Reason.LAYER_INVALID, tensor=name)
    own = {x.name for x in model.graph.input} | {z for node in model.graph.node for z in node.output}
    changed = onnx.ModelProto()
    changed.CopyFrom(model if own.issuperset(tensors) else flat)
    outputs = {z.name for z in changed.graph.output}
    changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in outputs)
    return changed, tensors


def outline(model: onnx.ModelProto) -> gs.Graph:
    """The nodes and tensors of a file by their names; what has no known type counts as a float."""
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    told = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    constants |= {z for node in graph.node if node.op_type == "Constant" for z in node.output}
    tensors: dict[str, gs.Tensor] = {}

    def tensor(name: str) -> gs.Tensor:
        if not name:
            return gs.Variable.empty()
        if name not in tensors:
            kind = told.get(name) or onnx.TensorProto.FLOAT
            tensors[name] = (
                gs.Constant(name, np.empty(0, np.float32))
                if name in constants
                else gs.Variable(name, onnx.helper.tensor_dtype_to_np_dtype(kind))
            )
        return tensors[name]

    nodes = [
        gs.Node(
            node.op_type, node.name, None, [tensor(x) for x in node.input], [tensor(z) for z in node.output]
        )
        for node in graph.node
        if node.op_type != "Constant"
    ]
    return gs.Graph(nodes, [tensor(x.name) for x in graph.input], [tensor(z.name) for z in graph.output])


# --- The gradient


def gradient_program(
    network: Network, layers: Sequence[str], target: Scalar, *, alone: bool = False
) -> Program:
    """The network with its gradient appended, and nothing of its own taken away.

    Inputs are those of the network, and `target/weight` of the target's shape where the target has no index. Outputs
    are those of the network that are tensors, `target/value` `[rows]`, and `gradient/<layer>` in the layer's own shape
    (of half types as float32). With `alone` rows cannot share a run: the inputs have room for one.

    Raises:
        NotDifferentiable: as `differentiate`.
    """
    draft = Draft(network)
    draft.outputs = [z for z in draft.graph.outputs if getattr(z, "type", "tensor_type") == "tensor_type"]
    rows = name_rows(draft, [target.tensor, *layers], alone)
    own = draft.tensor(target.tensor)
    weights = draft.weight(target.tensor) if target.is_given else None
    value = value_of(draft.op, own, target, row_axis(network, target.tensor, own.shape), rows, weights)
    ones = draft.op("Expand", draft.op.like(value, 1), draft.op("Shape", value))
    ones.shape = value.shape
    draft.put(value, "target/value")
    draft.outputs[-1].shape = value.shape
    weight = differentiate(
        draft.op, {value.name: ones}, [target.tensor]
    )  # by itself: refusals name the target
    for layer, gradient in differentiate(draft.op, weight, layers).items():
        draft.put(gradient, f"gradient/{layer}")
        draft.outputs[-1].shape = draft.tensor(layer).shape
    return draft.finish(unused=True)


def name_rows(draft: Draft, names: Sequence[str], alone: bool) -> int | str | None:
    """Calls the rows by one name, which is returned, in all inputs, outputs and these tensors; `alone`: there is 1."""
    network, tensors = draft.network, draft.graph.tensors()
    known = network.places | network.rows if alone else dict(network.rows)
    known |= {name: RowAxis(axis) for name, axis in network.input_axes.items() if axis is not None}
    labels = dict.fromkeys(
        x.shape[place.axis]
        for x in draft.graph.inputs
        if x.shape is not None and (place := known.get(x.name))
    )
    rows = 1 if alone else next((d for d in labels if isinstance(d, str) and d != "?"), None)
    ends = [*draft.graph.inputs, *draft.outputs, *(tensors[name] for name in names)]
    for value in ends if rows is not None else ():
        place = known.get(value.name)
        if isinstance(value, gs.Constant) or value.shape is None:
            continue
        value.shape = [rows if isinstance(d, str) and d in labels else d for d in value.shape]
        if place is not None and (alone or place.factor == 1):
            value.shape[place.axis] = place.factor if alone else rows
    return rows


# --- Files


def data_file(path: Path) -> Path:
    """Where the values lie of a model at `path` that no message holds."""
    return path.with_name(f"{path.name}.data")


def save(model: onnx.ModelProto, path: Path) -> Path | None:
    """Writes a model with all its values. Those of a model that no message holds go into a file beside it, which is
    returned. Files of these names are replaced once all is written."""
    held = weights_of(model.graph.initializer)
    apart = model.ByteSize() + sum(one.data.nbytes for one in held.values()) > MESSAGE
    beside, linked = data_file(path), onnx.ModelProto()
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        graph, values = Path(folder) / "graph", Path(folder) / "values"
        if not apart:
            graph.write_bytes(whole(model).SerializeToString())
            os.replace(graph, path)
            return None
        linked.CopyFrom(model)
        with values.open("wb") as file:
            for tensor in linked.graph.initializer:
                if tensor.name in held:
                    file.seek(-file.tell() % 4096, os.SEEK_CUR)
                    place(tensor, beside.name, file.tell(), held[tensor.name].data.nbytes)
                    file.write(held[tensor.name].data.data)
        graph.write_bytes(linked.SerializeToString())
        path.unlink(missing_ok=True)  # first: no graph is ever beside the values of another one
        os.replace(values, beside)
        os.replace(graph, path)
    return beside
