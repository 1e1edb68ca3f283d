"""Takes local functions, sparse constants and dropped operators out of a model."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper

from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.ir.nodes import inner_graphs
from onnx_attribution.graph_tools.ir.outer_constants import hoist
from onnx_attribution.graph_tools.normalise import dropped_operators


def flattened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without local functions, sparse constants and operators that the standard has dropped, and with the
    constants of inner graphs outside of them.
    """
    flat = inliner.inline_local_functions(model) if model.functions else model
    if flat is model:
        flat = copied(model)
    _fill_sparse(flat.graph)
    dropped_operators.rewrite_dropped(flat)
    hoist(flat.graph)
    return flat


def _fill_sparse(graph: onnx.GraphProto) -> None:
    """Makes, in place, sparse constants dense, in inner graphs too; graphsurgeon does not read them."""
    graph.initializer.extend(_dense(sparse) for sparse in graph.sparse_initializer)
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "sparse_value":
                attribute.CopyFrom(helper.make_attribute("value", _dense(attribute.sparse_tensor)))
        for inner in inner_graphs(node):
            _fill_sparse(inner)


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """The tensor that holds the zeros too; an index counts elements, or has a number per axis."""
    values, indices = (numpy_helper.to_array(t) for t in (sparse.values, sparse.indices))
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    at = np.unravel_index(indices, dense.shape) if indices.ndim == 1 else tuple(indices.T)
    dense[at] = values
    return numpy_helper.from_array(dense, sparse.values.name)
