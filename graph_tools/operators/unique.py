"""Values that occur once each, and values that may be absent."""

from __future__ import annotations

import numpy as np

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, vjp
from onnx_attribution.graph_tools.operators.transpose import positions, rank_of, scatter_add


@vjp("Unique")
def unique(op: Emitter, node: NodeView, g: Value, *_: Value | None) -> Gradients:
    """Each value stands where it came first, as the second output says."""
    x = node.input(0)
    first = op.multi("Unique", 2, x, **node.attributes)[1]
    first.dtype = np.dtype(np.int64)
    axis = node.attribute("axis")
    if axis is None:
        return (scatter_add(op, x, first, g),)
    return (scatter_add(op, x, op("Gather", positions(op, x), first, axis=axis % rank_of(x)), g),)


@vjp("OptionalGetElement", linear=[{0}])
def optional_get_element(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """Of a tensor; optionals that hold one are opened before."""
    return (g,)
