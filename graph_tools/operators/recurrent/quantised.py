"""onnxruntime's LSTM with quantised weights: the LSTM of the numbers that they stand for.

Its kernel rounds x and every hidden state to 8 bits before each product. Gradients go straight through that; DeepLIFT
takes the change of each output from the kernel, so that it sums.
"""

from __future__ import annotations

import numpy as np

from onnx_attribution.graph_tools.ir.control_flow_emit import dims
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, shape_of
from onnx_attribution.graph_tools.operators.decompose import composite
from onnx_attribution.graph_tools.operators.registry import NodeView
from onnx_attribution.graph_tools.operators.transpose import declare

STATES = slice(3, 8)  # bias, lengths, initial states, peepholes


def _weights(op: Emitter, node: NodeView, index: int, scale: int) -> Value:
    """A quantised weight `[directions, inputs, 4 units]` as `[directions, 4 units, inputs]` of real numbers."""
    quantised, zero = node.input(index), node.optional(scale + 1)
    made = op.cast(quantised, np.float32)
    if zero is not None:
        made = op("Sub", made, _along(op, zero))
    made = op("Mul", made, _along(op, node.input(scale)))
    shape = dims(quantised)
    return declare(op("Transpose", made, perm=[0, 2, 1]), [shape[0], shape[2], shape[1]])


def _along(op: Emitter, value: Value) -> Value:
    """A scale or zero point, one a direction or one a column of each."""
    number = op.cast(value, np.float32)
    axes = [1, 2] if len(shape_of(value) or ()) == 1 else [1]
    return op("Unsqueeze", number, op.ints(axes)) if shape_of(value) else number


@composite("DynamicQuantizeLSTM", straight_through=True, approximate=True)
def dynamic_quantize_lstm(op: Emitter, node: NodeView) -> list[Value | None]:
    weights = [_weights(op, node, 1, 8), _weights(op, node, 2, 10)]
    states = [*node.inputs[STATES], *[None] * 5][:5]
    attributes = {k: v for k, v in node.attributes.items() if v is not None}
    return list(op.multi("LSTM", 3, node.input(0), *weights, *states, **attributes))
