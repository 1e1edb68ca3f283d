"""Models for others to run: with hidden tensors as outputs, or with their gradient appended."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import inliner

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_half, shape_of
from onnx_attribution.graph_tools.ir.weights import place, weights_of, whole
from onnx_attribution.graph_tools.network import Network, RowAxis
from onnx_attribution.graph_tools.programs.build import Draft
from onnx_attribution.graph_tools.programs.signature import Program
from onnx_attribution.graph_tools.select.names import names_of, resolve
from onnx_attribution.graph_tools.walk.differentiate import differentiate

MESSAGE = (1 << 31) - (1 << 24)
"""Bytes that a file of one message holds; the values of a larger model go into a file beside it."""
Part = int | slice
FAR = 1 << 62


# --- Hidden tensors as outputs


def exposed(model: onnx.ModelProto, names: Sequence[str]) -> tuple[onnx.ModelProto, list[str]]:
    """The model with the tensors that the names mean as outputs, after its own, and their names.

    Nothing else changes; only where a tensor lies in a local function, functions are inlined. The new outputs have
    neither type nor shape: a runtime knows them.

    Raises:
        NotFound, InvalidArgument: as `resolve`, or a name means a constant.
    """
    known, flat = names_of(model), inliner.inline_local_functions(model) if model.functions else model
    graph = _outline(flat)
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


def _outline(model: onnx.ModelProto) -> gs.Graph:
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


@dataclass(frozen=True)
class Scalar:
    """What is explained of each row: elements of a tensor, or a weighted sum of them.

    `plus` and `minus` hold an index or slice for each axis of a row, or weights of its shape; without `plus` the
    weights are an input. `sign` is that of the whole; the mean over `centred`, an axis of `[rows, *unit]`, is taken
    off.
    """

    tensor: str
    plus: tuple[Part, ...] | NDArray[Any] | None
    minus: tuple[Part, ...] | NDArray[Any] | None = None
    sign: int = 1
    centred: int | None = None


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
    rows = _name_rows(draft, [target.tensor, *layers], alone)
    value = _value(draft, target, rows)
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


def _name_rows(draft: Draft, names: Sequence[str], alone: bool) -> int | str | None:
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


def row_axis(network: Network, name: str, rank: int) -> RowAxis | None:
    """Where the rows of a tensor lie; a first axis of size 1 is that of a row alone."""
    found = network.rows.get(name) or network.places.get(name)
    first = network.unit_shapes.get(name, ())
    return found or (RowAxis(0) if rank > 1 and first[:1] == (1,) else None)


def _value(draft: Draft, target: Scalar, rows: int | str | None) -> Value:
    """The scalar of each row."""
    op, own = draft.op, draft.tensor(target.tensor)
    place = row_axis(draft.network, target.tensor, len(own.shape))
    z = _rows_first(op, op.cast(own, np.float32) if is_half(own) else own, place, rows)
    if target.centred is not None:
        axis = target.centred % len(z.shape)
        mean = op("ReduceMean", z, op.ints([axis]), keepdims=1)
        mean.shape = [1 if k == axis else d for k, d in enumerate(z.shape)]
        z = op("Sub", z, mean)
    if target.plus is None:
        weight = _rows_first(op, op.cast(draft.weight(target.tensor), z.dtype), place, rows)
        value = _weighted(op, z, weight)
    else:
        value = _selected(op, z, target.plus)
    if target.minus is not None:
        value = op("Sub", value, _selected(op, z, target.minus))
    return op("Neg", value) if target.sign < 0 else value


def _rows_first(op: Emitter, z: Value, place: RowAxis | None, rows: int | str | None) -> Value:
    """The tensor as `[rows, *unit]`."""
    dims = list(shape_of(z) or ())
    if place is None:
        front = op("Unsqueeze", z, op.ints([0]))
        front.shape = [1, *dims]
        return front
    if place.axis:
        order = [place.axis, *(k for k in range(len(dims)) if k != place.axis)]
        z, dims = op("Transpose", z, perm=order), [dims[k] for k in order]
        z.shape = dims
    if place.factor != 1:
        sizes = op("Concat", op.ints([-1, place.factor]), op.dims(z, 1), axis=0)
        sizes.shape = [len(dims) + 1]
        z = op("Reshape", z, sizes)
        z.shape = [rows, place.factor, *dims[1:]]
    return z


def _selected(op: Emitter, z: Value, chosen: tuple[Part, ...] | NDArray[Any]) -> Value:
    """The sum of some elements of each row, which is `[rows, *unit]`."""
    if isinstance(chosen, np.ndarray):
        return _weighted(op, z, op.constant(chosen[None], z.dtype))
    for axis, part in enumerate(chosen, 1):
        if isinstance(part, slice):
            step = part.step or 1
            ends = (0, FAR) if step > 0 else (FAR, -FAR)
            given = [
                end if own is None else own for own, end in zip((part.start, part.stop), ends, strict=True)
            ]
            made = op("Slice", z, *(op.ints([k]) for k in (*given, axis, step)))
        else:
            made = op("Gather", z, op.ints([part]), axis=axis)  # one that is not there ends the run
        made.shape = [
            (None if isinstance(part, slice) else 1) if k == axis else d for k, d in enumerate(z.shape)
        ]
        z = made
    return _sum(op, z)


def _weighted(op: Emitter, z: Value, weight: Value) -> Value:
    """The weighted sum of each row; elements of weight 0 may hold anything, infinities too."""
    zero = op.like(z, 0)
    return _sum(op, op("Where", op("Equal", weight, zero), zero, op("Mul", z, weight)))


def _sum(op: Emitter, z: Value) -> Value:
    """The sum of each row."""
    if len(z.shape) == 1:
        return z
    total = op("ReduceSum", z, op.ints(range(1, len(z.shape))), keepdims=0)
    total.shape = [z.shape[0]]
    return total


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
