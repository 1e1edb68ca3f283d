"""A network with parameters of many roles, and models of onnx's text."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_attribution.graph_tools.programs.learnt import Block


def model(text: str, **constants: NDArray[np.generic]) -> onnx.ModelProto:
    """A model of onnx's text, with these initializers."""
    made = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20, "com.microsoft" : 1]> {text}')
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return made


def network(rng: np.random.Generator) -> onnx.ModelProto:
    return model(
        """net (float[N, 3, 8, 8] x) => (float[N, 4] y) {
            centred = Sub (x, mean)
            a = Conv <pads = [1, 1, 1, 1]> (centred, w1, b1)
            n = BatchNormalization (a, scale, offset, running_mean, running_var)
            r = Relu (n)
            p = GlobalAveragePool (r)
            shape = Constant <value = int64[2] {0, -1}> ()
            f = Reshape (p, shape)
            m = MatMul (f, w2)
            h = Add (m, b2)
            t = Tanh (h)
            half = Mul (t, factor)
            y = Gemm <transB = 1> (half, w3, b3)
        }""",
        mean=np.array([0.4, 0.5, 0.6], np.float32).reshape(1, 3, 1, 1),
        w1=rng.normal(size=(5, 3, 3, 3)).astype(np.float32),
        b1=rng.normal(size=5).astype(np.float32),
        scale=rng.normal(size=5).astype(np.float32),
        offset=rng.normal(size=5).astype(np.float32),
        running_mean=rng.normal(size=5).astype(np.float32),
        running_var=rng.uniform(0.5, 2, 5).astype(np.float32),
        w2=rng.normal(size=(5, 6)).astype(np.float32),
        b2=rng.normal(size=6).astype(np.float32),
        factor=np.array(0.5, np.float32),
        w3=rng.normal(size=(4, 6)).astype(np.float32),
        b3=rng.normal(size=4).astype(np.float32),
    )


def names(blocks: list[Block]) -> list[list[str]]:
    return [[one.name for one in block.parameters] for block in blocks]
