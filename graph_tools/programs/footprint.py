"""How many bytes the tensors of a model take at once while it runs, from their shapes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper

from onnx_attribution.graph_tools.ir.edit import copied

KEPT = 64  # answers about different shapes
DATA = 256  # elements of a constant up to which its values may be sizes, which inference reads
VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators whose output is their first input in another shape."""
IN_PLACE = frozenset(
    {"Abs", "Add", "Ceil", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "HardSigmoid"}
) | frozenset(
    {
        "LeakyRelu",
        "Log",
        "Mul",
        "Neg",
        "Pow",
        "Reciprocal",
        "Relu",
        "Sigmoid",
        "Sin",
        "Sqrt",
        "Sub",
        "Sum",
        "Tanh",
    }
)
"""Operators that may write to an input of the size of their output that nothing reads any more."""


class Footprint:
    """The shapes of a model's tensors, as they follow from those of its inputs; weights are not counted."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._bare = onnx.ModelProto()
        self._bare.opset_import.extend(model.opset_import)
        self._bare.ir_version = model.ir_version
        self._bare.functions.extend(model.functions)
        graph, bare = model.graph, self._bare.graph
        bare.name = graph.name
        bare.node.extend(graph.node)
        bare.input.extend(graph.input)
        for output in graph.output:
            bare.output.add().name = output.name
        for tensor in graph.initializer:
            if math.prod(tensor.dims) <= DATA and not tensor.external_data:
                bare.initializer.append(tensor)
            else:
                bare.input.append(
                    helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                )
        self._inputs = {value.name for value in graph.input}
        self._known: dict[tuple[tuple[str, tuple[int, ...]], ...], int] = {}

    def peak(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The most bytes that are alive at once when the inputs have these shapes.

        A tensor whose shape does not follow is as large as the largest input of the operator that makes it.
        """
        key = tuple(sorted(shapes.items()))
        if key not in self._known:
            if len(self._known) >= KEPT:
                self._known.clear()
            self._known[key] = self._measured(shapes)
        return self._known[key]

    def _measured(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        model = copied(self._bare)
        for value in model.graph.input:
            if value.name in shapes:
                kind = value.type.tensor_type.elem_type
                value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shapes[value.name]))
        with contextlib.suppress(onnx.shape_inference.InferenceError):
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        sizes = _sizes(model.graph)
        given = {name: sizes.get(name, 0) for name in self._inputs}
        return sum(given.values()) + _peak(model.graph, sizes, {o.name for o in model.graph.output})


def _sizes(graph: onnx.GraphProto) -> dict[str, int]:
    """The bytes of the tensors of known shape."""
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            continue
        if all(d.HasField("dim_value") for d in kind.shape.dim):
            item = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).itemsize
            found[value.name] = item * math.prod(d.dim_value for d in kind.shape.dim)
    return found


def _peak(graph: onnx.GraphProto, sizes: dict[str, int], kept: Iterable[str]) -> int:
    """The most bytes of what the nodes make that is alive at once, in their order."""
    root: dict[str, str] = {}  # of a view, the tensor whose memory it is
    last: dict[str, int] = {}
    for k, node in enumerate(graph.node):
        names = names_read(node)
        if node.op_type in VIEWS and node.input:
            root[node.output[0]] = root.get(node.input[0], node.input[0])
        for name in names:
            last[root.get(name, name)] = k
    for name in kept:
        last[root.get(name, name)] = len(graph.node)
    live, peak = 0, 0
    alive: dict[str, int] = {}
    for k, node in enumerate(graph.node):
        names = names_read(node)
        largest = max((sizes.get(name, 0) for name in names), default=0)
        for name in filter(None, node.output):
            sizes.setdefault(name, largest)
        inside = max((_peak(g, _sizes(g), {o.name for o in g.output}) for g in _graphs(node)), default=0)
        ended = [n for n in {root.get(name, name) for name in names} if last[n] == k and n in alive]
        made = [n for n in filter(None, node.output) if n not in root]
        if node.op_type in IN_PLACE and made:
            free = next((n for n in ended if alive[n] == sizes[made[0]]), None)
            if free is not None:
                live -= alive.pop(free)
        for name in made:
            alive[name] = sizes[name]
            live += sizes[name]
        peak = max(peak, live + inside)
        for name in ended:
            live -= alive.pop(name, 0)
        for name in made:
            if name not in last:
                live -= alive.pop(name)
    return peak


def _graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [a.g for a in node.attribute if a.HasField("g")]


def names_read(node: onnx.NodeProto) -> set[str]:
    """What a node reads, its graphs included."""
    found = set(filter(None, node.input))
    for graph in _graphs(node):
        made = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        for inner in graph.node:
            found |= names_read(inner) - made
            made |= set(inner.output)
        found |= {o.name for o in graph.output} - made
    return found
