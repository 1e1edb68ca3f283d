"""Writes a model that computes in float64 as one that computes in float32, for runtimes without float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, numpy_helper

from onnx_attribution.graph_tools.ir.nodes import graphs_in
from onnx_attribution.graph_tools.ir.weights import value_of

DOUBLE, FLOAT = TensorProto.DOUBLE, TensorProto.FLOAT
_TYPES = frozenset({"dtype", "output_datatype", "stash_type", "to"})
"""Attributes that are the number of a type."""


def is_double(model: onnx.ModelProto) -> bool:
    """Whether anything in the model is in float64."""
    return any(_doubles(model.graph))


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float32 in place of float64: inputs, outputs, weights and all between.

    Numbers beyond the range of float32 become its largest or smallest ones, and none becomes 0 or infinite.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _narrow(made.graph)
    return made


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from (one.values for one in graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor.values


def _types(graph: onnx.GraphProto) -> Iterator[onnx.TypeProto]:
    """The types of tensors, those in sequences and optionals too."""

    def inside(one: onnx.TypeProto) -> Iterator[onnx.TypeProto]:
        match one.WhichOneof("value"):
            case "tensor_type" | "sparse_tensor_type":
                yield one
            case "sequence_type":
                yield from inside(one.sequence_type.elem_type)
            case "optional_type":
                yield from inside(one.optional_type.elem_type)
            case "map_type":
                yield from inside(one.map_type.value_type)

    for value in (*graph.input, *graph.output, *graph.value_info):
        yield from inside(value.type)


def _numbers(graph: onnx.GraphProto) -> Iterator[AttributeProto]:
    for node in graph.node:
        yield from (one for one in node.attribute if one.name in _TYPES and one.type == AttributeProto.INT)


def _elem(one: onnx.TypeProto) -> onnx.TypeProto.Tensor | onnx.TypeProto.SparseTensor:
    return one.tensor_type if one.HasField("tensor_type") else one.sparse_tensor_type


def _doubles(graph: onnx.GraphProto) -> Iterator[bool]:
    for each in graphs_in(graph):
        yield from (one.data_type == DOUBLE for one in _tensors(each))
        yield from (_elem(one).elem_type == DOUBLE for one in _types(each))
        yield from (one.i == DOUBLE for one in _numbers(each))


def _narrow(graph: onnx.GraphProto) -> None:
    for each in graphs_in(graph):
        for tensor in _tensors(each):
            if tensor.data_type == DOUBLE:
                tensor.CopyFrom(numpy_helper.from_array(narrowed(value_of(tensor)), tensor.name))
        for one in _types(each):
            if _elem(one).elem_type == DOUBLE:
                _elem(one).elem_type = FLOAT
        for number in _numbers(each):
            if number.i == DOUBLE:
                number.i = FLOAT


def narrowed(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The numbers in float32: finite ones stay finite, and only 0 becomes 0."""
    told = np.finfo(np.float32)
    held = np.where(np.isfinite(values), np.clip(values, told.min, told.max), values)
    held = np.where((held != 0) & (np.abs(held) < told.tiny), np.copysign(told.tiny, held), held)
    return held.astype(np.float32)
