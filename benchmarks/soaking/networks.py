"""The models that the soak serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

IMAGE = (1, 16, 16)
HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
ENDLESS = f"""
    {HEAD} net (float[N,2] x) => (float[N,2] y) {{
        whole = ReduceMax<keepdims = 0>(x)
        zero = Constant<value = float {{0}}>()
        at_baseline = Equal(whole, zero)
        few = Constant<value = int64 {{2}}>()
        many = Constant<value = int64 {{9223372036854775807}}>()
        trip = Where(at_baseline, many, few)
        on = Constant<value = bool {{1}}>()
        y = Loop(trip, on, x) <body = b (int64 i, bool c, float[N,2] a) => (bool d, float[N,2] e) {{
            d = Identity(c)
            e = Sin(a)
        }}>
    }}
"""
"""Ends quickly at ones and never at a baseline of zeros."""


def convolutional() -> onnx.ModelProto:
    """Two convolutions and a linear layer for images of one channel."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.3, (8, 1, 3, 3)),
        "w2": rng.normal(0, 0.2, (16, 8, 3, 3)),
        "w3": rng.normal(0, 0.1, (16 * 8 * 8, 10)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Flatten", ["r2"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *IMAGE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write(folder: Path) -> None:
    """The files of `cnn`, `sine`, `echo` and `endless`."""
    onnx.save(convolutional(), folder / "cnn.onnx")
    for name, text in {
        "sine": f"{HEAD} net (float[N,2] x) => (float[N,2] y) {{ y = Sin(x) }}",
        "echo": f"{HEAD} net (float[N,M] x) => (float[N,M] y) {{ y = Identity(x) }}",
        "square": f"""{HEAD} net (float[N,M] x) => (float[N,1] y) {{
            axes = Constant<value_ints = [1]>()
            squares = Mul(x, x)
            y = ReduceSum(squares, axes)
        }}""",
        "endless": ENDLESS,
    }.items():
        onnx.save(parse_model(text), folder / f"{name}.onnx")
