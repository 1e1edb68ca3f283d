"""Classifiers with heads of every kind, as small files, and what their outputs are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.programs import parsed

Array = NDArray[Any]
D, C = 6, 4
"""Features and classes of the files."""

VECTOR = "net (float[N,6] x) => (float[N,4] y) { h = Relu (x) "
IMAGE = "net (float[N,6,3,2] x) => (float[N,4] y) { h = Relu (x) "
HEADS = {
    "Gemm": VECTOR + "y = Gemm <transB=1> (h, w, b) }",
    "Gemm with columns": VECTOR + "y = Gemm (h, wt, b) }",
    "Gemm with factors": VECTOR + "y = Gemm <transB=1, alpha=0.5, beta=3.0> (h, w, b) }",
    "Gemm without a bias": VECTOR + "y = Gemm <transB=1> (h, w) }",
    "MatMul": VECTOR + "y = MatMul (h, wt) }",
    "MatMul and Add": VECTOR + "m = MatMul (h, wt) y = Add (m, b) }",
    "Add the other way round": VECTOR + "m = MatMul (h, wt) y = Add (b, m) }",
    "weights that are transposed": VECTOR
    + "t = Transpose <perm=[1,0]> (w) m = MatMul (h, t) y = Add (m, b) }",
    "a temperature": VECTOR + "m = Gemm <transB=1> (h, w, b) y = Div (m, two) }",
    "a constant less the logits": VECTOR + "m = Gemm <transB=1> (h, w) y = Sub (b, m) }",
    "a scale for each class": VECTOR + "m = Gemm <transB=1> (h, w, b) y = Mul (m, s) }",
    "tokens of one": "net (float[N,1,6] x) => (float[N,1,4] y) { h = Relu (x) m = MatMul (h, wt) y = Add (m, b) }",
    "Conv behind a pool": IMAGE + "p = GlobalAveragePool (h) c = Conv (p, k, b) y = Flatten (c) }",
    "Conv before a pool": IMAGE + "c = Conv (h, k, b) p = GlobalAveragePool (c) y = Flatten (p) }",
    "Conv and a pool of all positions": IMAGE
    + "c = Conv (h, k, b) p = AveragePool <kernel_shape=[3,2]> (c) y = Squeeze (p, spatial) }",
    "Conv and a mean": IMAGE + "c = Conv (h, k, b) y = ReduceMean <keepdims=0> (c, spatial) }",
    "Conv and a shape of numbers": IMAGE
    + "p = GlobalAveragePool (h) c = Conv (p, k, b) y = Reshape (c, rows4) }",
    "Conv and a shape that keeps": IMAGE
    + "p = GlobalAveragePool (h) c = Conv (p, k, b) y = Reshape (c, keep4) }",
    "Conv and a shape that is computed": IMAGE
    + "p = GlobalAveragePool (h) c = Conv (p, k, b) z = Shape (c) n = Gather (z, zero) u = Unsqueeze (n, first) "
    "t = Concat <axis=0> (u, minus1) y = Reshape (c, t) }",
    "Conv and a shape of both": IMAGE
    + "p = GlobalAveragePool (h) c = Conv (p, k, b) z = Shape <start=0, end=1> (c) t = Concat <axis=0> (z, four) "
    "y = Reshape (c, t) }",
    "float16": "net (float16[N,6] x) => (float16[N,4] y) { h = Relu (x) y = Gemm <transB=1> (h, w, b) }",
    "double": "net (double[N,6] x) => (double[N,4] y) { h = Relu (x) y = Gemm <transB=1> (h, w, b) }",
}


def weights(kind: np.dtype[Any], classes: int = C, seed: int = 0) -> dict[str, Array]:
    """The constants that the files read, of which a file holds those it names."""
    random = np.random.default_rng(seed)
    w = random.normal(size=(classes, D)).astype(kind)
    whole = {
        "spatial": [2, 3], "rows4": [-1, 4], "keep4": [0, 4], "zero": 0, "first": [0], "minus1": [-1], "four": [4],
        "classes_axis": [1],
    }  # fmt: skip
    return {
        "w": w,
        "wt": w.T.copy(),
        "k": w[:, :, None, None],
        "b": random.normal(size=classes).astype(kind),
        "s": random.uniform(0.5, 2, size=classes).astype(kind),
        "two": np.asarray(2, kind),
        **{name: np.asarray(value, np.int64) for name, value in whole.items()},
    }


def model_of(text: str, constants: Mapping[str, Array] | None = None, opset: int = 21) -> onnx.ModelProto:
    """The file of a text, with the constants that it reads."""
    model = parsed(text, opset)
    kind = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    known = {**weights(kind), **(constants or {})}
    read = {x for node in model.graph.node for x in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in known.items() if name in read
    )
    model.metadata_props.add(key="kept", value="as it was")
    onnx.checker.check_model(model, full_check=True)
    return model


def rows_of(model: onnx.ModelProto, count: int, seed: int = 1) -> Array:
    """Samples for the input of a file."""
    value = model.graph.input[0].type.tensor_type
    shape = (count, *(d.dim_value for d in value.shape.dim[1:]))
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.elem_type)
    return np.random.default_rng(seed).normal(size=shape).astype(kind)


def run(model: onnx.ModelProto, x: Array, *outputs: str) -> list[Any]:
    """What onnxruntime makes of it."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(list(outputs) or None, {session.get_inputs()[0].name: x}))


def evaluated(model: onnx.ModelProto, x: Array, *outputs: str) -> list[Any]:
    """What the reference evaluator makes of it."""
    return list(ReferenceEvaluator(model).run(list(outputs) or None, {model.graph.input[0].name: x}))
