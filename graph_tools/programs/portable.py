"""Writes files for other runtimes: what one of them lacks is said, or put in a form that all have."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

from onnx_attribution.graph_tools.ir.nodes import graphs_in, inner_graphs, made_in
from onnx_attribution.graph_tools.ir.shapes import dims_of
from onnx_attribution.graph_tools.programs.pool_places import Writer, places

WINDOWS = frozenset(
    {"AveragePool", "Conv", "ConvInteger", "ConvTranspose", "DeformConv", "LpPool", "MaxPool"}
)
"""Operators whose windows move over an image, besides those whose kernel is quantised or fused."""
_KERNEL = {"QLinearConv": 3}  # which input it is, if not the second
_ALIKE = {("com.microsoft", "FusedConv"): "Conv", ("", "QLinearConv"): "Conv"}

Dims = Mapping[str, tuple[int | str | None, ...]]
Constants = Mapping[str, TensorProto]


def portable(model: onnx.ModelProto) -> None:
    """Writes, in place, every attribute of convolutions and poolings, and pads of all axes.

    No runtime is left to a default: an attribute that a node lacks or that is empty gets the one of the standard.
    `pads` are left out where `auto_pad` takes their place, `kernel_shape` where only a run knows the kernel. A `Pad` of
    some axes is one of all axes: onnxruntime takes it for that where it changes the layout of images. The indices of a
    `MaxPool`, which WebGPU lacks, are found by comparisons where sizes are known.
    """
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    known = model
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        known = onnx.shape_inference.infer_shapes(model)
    dims: dict[str, tuple[int | str | None, ...]] = {}
    floats = set[str]()
    for source in (known, model):  # what the program says of itself comes last
        for graph in graphs_in(source.graph):
            dims |= {t.name: tuple(t.dims) for t in graph.initializer}
            for value in (*graph.value_info, *graph.input, *graph.output):
                sizes = dims_of(value)
                if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                    floats.add(value.name)
                if sizes is not None:
                    dims[value.name] = tuple(sizes)
    for graph in graphs_in(model.graph):
        for node in graph.node:
            for attribute in _missing(node, opset, dims):
                node.attribute.append(attribute)
    names = _Names(model)
    if opset >= 13:
        _write_places(model.graph, dims, floats, names)
    _write_pads(model.graph, dims, {}, names)


# --- Windows


def _missing(node: onnx.NodeProto, opset: int, dims: Dims) -> list[onnx.AttributeProto]:
    """The attributes that the node leaves to the standard; those that are empty are taken off it."""
    operator = _ALIKE.get((node.domain, node.op_type), node.op_type if not node.domain else "")
    if operator not in WINDOWS:
        return []
    kept = [one for one in node.attribute if one.type != onnx.AttributeProto.INTS or one.ints]
    kept = [one for one in kept if one.name != "auto_pad" or one.s]
    if len(kept) < len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(kept)
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    kernel = given.get("kernel_shape") or _kernel(node, dims)
    axes = _rank(node, dims)
    rank = len(kernel) if kernel else None if axes is None else axes - 2
    by_axis = {"kernel_shape": kernel}
    if rank is not None:
        by_axis |= {"dilations": [1] * rank, "strides": [1] * rank, "output_padding": [0] * rank}
        by_axis |= {"pads": [0] * (2 * rank)} if given.get("auto_pad", b"NOTSET") == b"NOTSET" else {}
    made = []
    for name, told in defs.get_schema(operator, opset).attributes.items():
        default: onnx.AttributeProto = told.default_value
        if name in given:
            continue
        if by_axis.get(name):
            made.append(helper.make_attribute(name, by_axis[name]))
        elif default.type:
            made.append(onnx.AttributeProto.FromString(default.SerializeToString()))
    return made


def _kernel(node: onnx.NodeProto, dims: Dims) -> list[int] | None:
    place = _KERNEL.get(node.op_type, 1)
    sizes = dims.get(node.input[place], ())[2:] if place < len(node.input) else ()
    return _numbers(sizes) or None


def _rank(node: onnx.NodeProto, dims: Dims) -> int | None:
    """How many axes the first input has, and the output."""
    return next((len(dims[name]) for name in (node.input[0], node.output[0]) if name in dims), None)


# --- Indices of maxima


def _write_places(graph: onnx.GraphProto, dims: Dims, floats: set[str], name: Callable[[], str]) -> None:
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        for inner in inner_graphs(node):
            _write_places(inner, dims, floats, name)
        indexed = node.op_type == "MaxPool" and not node.domain and len(node.output) > 1 and node.output[1]
        write = Writer(name)
        if indexed and node.input[0] in floats:
            x, z = (
                _numbers(dims.get(one, ())[2:]) for one in (node.input[0], node.output[0] or node.output[1])
            )
            if x and z and places(node, x, z, write):
                written += write.nodes
                graph.initializer.extend(write.constants)
                continue
        written.append(node)
    _put(graph, written)


def _numbers(sizes: tuple[int | str | None, ...]) -> list[int] | None:
    found = [size for size in sizes if isinstance(size, int)]
    return found if len(found) == len(sizes) else None


def _put(graph: onnx.GraphProto, written: list[onnx.NodeProto]) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in written]
    del graph.node[:]
    graph.node.extend(nodes)


# --- Pads


class _Names:
    """Names that the model does not have."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graphs = list(graphs_in(model.graph))
        self._taken = {name for graph in graphs for name in made_in(graph)}
        self._taken |= {t.name for graph in graphs for t in graph.initializer}
        self._taken |= {x.name for graph in graphs for x in graph.input}
        self._count = 0

    def __call__(self) -> str:
        while (name := f"portable/{self._count}") in self._taken:
            self._count += 1
        self._taken.add(name)
        return name


def _write_pads(graph: onnx.GraphProto, dims: Dims, outer: Constants, name: Callable[[], str]) -> None:
    constants = {**outer, **{t.name: t for t in graph.initializer}}
    for made in made_in(graph):
        constants.pop(made, None)
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        for inner in inner_graphs(node):
            _write_pads(inner, dims, constants, name)
        some = node.op_type == "Pad" and not node.domain and len(node.input) > 3 and node.input[3]
        rank = _rank(node, dims) if some else None
        if rank is None:
            written.append(node)
            continue
        given, axes = node.input[1], node.input[3]
        whole = name()
        if given in constants and axes in constants:
            pads, places = (numpy_helper.to_array(constants[one]) for one in (given, axes))
            every = np.zeros((2, rank), np.int64)
            every[:, places] = pads.reshape(2, -1)
            graph.initializer.append(numpy_helper.from_array(every.reshape(-1), whole))
        else:
            written += _spread(graph, given, axes, rank, whole, name)
        node.input[1] = whole
        del node.input[3:]
        if not node.input[-1]:
            del node.input[-1]
        written.append(node)
    _put(graph, written)


def _spread(
    graph: onnx.GraphProto, pads: str, axes: str, rank: int, whole: str, name: Callable[[], str]
) -> list[onnx.NodeProto]:
    """The pads at their axes, 0 at the others."""

    def held(value: int | list[int]) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), made := name()))
        return made

    wide, begin, end, places = name(), name(), name(), name()
    return [
        helper.make_node("Cast", [axes], [wide], to=TensorProto.INT64),
        helper.make_node("Mod", [wide, held([rank])], [begin]),
        helper.make_node("Add", [begin, held([rank])], [end]),
        helper.make_node("Concat", [begin, end], [places], axis=0),
        helper.make_node("ScatterElements", [held([0] * (2 * rank)), places, pads], [whole], axis=0),
    ]
