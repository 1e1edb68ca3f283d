"""A model in double precision."""

from __future__ import annotations

import numpy as np
import onnx

from onnx_attribution.graph_tools.ir.weights import whole
from onnx_attribution.graph_tools.testing.kinds import NARROW, Array


def to_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every narrower float type replaced by double: declarations, weights, casts, attributes."""
    result = whole(model)
    del result.graph.value_info[:]
    _graph_to_double(result.graph)
    for function in result.functions:
        for node in function.node:
            _node_to_double(node)
    return result


def _graph_to_double(graph: onnx.GraphProto) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type in NARROW:
            info.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for tensor in graph.initializer:
        _tensor_to_double(tensor)
    for node in graph.node:
        _node_to_double(node)


def _node_to_double(node: onnx.NodeProto) -> None:
    if node.op_type in ("GroupNormalization", "LayerNormalization", "RMSNormalization"):
        for attribute in [a for a in node.attribute if a.name == "stash_type"]:
            node.attribute.remove(attribute)
        node.attribute.append(onnx.helper.make_attribute("stash_type", onnx.TensorProto.DOUBLE))
    if node.op_type == "ConstantOfShape" and not node.attribute:  # float32 by default
        zero = onnx.numpy_helper.from_array(np.zeros(1))
        node.attribute.append(onnx.helper.make_attribute("value", zero))
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i in NARROW:
            attribute.i = onnx.TensorProto.DOUBLE
        elif attribute.type == onnx.AttributeProto.TENSOR:
            _tensor_to_double(attribute.t)
        elif attribute.type == onnx.AttributeProto.GRAPH:
            _graph_to_double(attribute.g)
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            numbers = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            tensor = onnx.numpy_helper.from_array(np.asarray(numbers, dtype=np.float64))
            attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))


def _tensor_to_double(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in NARROW:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def as_double(value: Array) -> Array:
    return value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value
