"""Computes what is constant, and keeps constants as initializers."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnx_ir
from onnx import helper, numpy_helper
from onnxscript import optimizer

from onnx_attribution.graph_tools.ir.edit import copied, name_nodes, set_nodes
from onnx_attribution.graph_tools.normalise.noise import show_masks

FOLD_LIMIT = 1 << 16  # elements; larger constants stay computed, so that files do not grow


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with constants and shape arithmetic folded, and decided branches taken."""
    graph = onnx_ir.from_proto(model)
    logger = logging.getLogger("onnxscript.optimizer")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every operator that it leaves alone
    try:
        for _ in range(2):
            optimizer.fold_constants(
                graph,
                onnx_shape_inference=True,
                output_size_limit=FOLD_LIMIT,
                should_fold=_is_small_filling,
            )
            optimizer.remove_unused_nodes(graph)
    finally:
        logger.setLevel(level)
    made = onnx_ir.to_proto(graph)
    name_nodes(made)
    return made


def _is_small_filling(node: onnx_ir.Node) -> bool | None:
    """True for a small ConstantOfShape, of which exporters make shapes and which is kept by default; None: as usual."""
    if (node.domain, node.op_type) != ("", "ConstantOfShape"):
        return None
    shape = node.inputs[0]
    sizes = None if shape is None else shape.const_value
    return True if sizes is not None and np.prod(sizes.numpy(), dtype=np.float64) <= FOLD_LIMIT else None


def lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its Constant nodes as initializers."""
    lifted = copied(model)
    outputs = {o.name for o in lifted.graph.output}
    kept = []
    for node in lifted.graph.node:
        tensor = (
            _constant_value(node) if node.op_type == "Constant" and node.output[0] not in outputs else None
        )
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            lifted.graph.initializer.append(tensor)
    set_nodes(lifted.graph, kept)
    show_masks(lifted.graph)
    return lifted


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    value = node.attribute[0]
    if value.name == "value":
        copy = onnx.TensorProto()
        copy.CopyFrom(value.t)
        return copy
    types = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if value.name not in types:
        return None
    return numpy_helper.from_array(np.asarray(helper.get_attribute_value(value), dtype=types[value.name]))
