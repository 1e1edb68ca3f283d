"""Operators of early opsets: rewritten where they stand, beside neighbours that keep the meaning they have there."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.graph_tools.ir.nodes import opset_of
from onnx_attribution.graph_tools.normalise import pipeline as steps
from onnx_attribution.graph_tools.normalise.plain_form import declared
from onnx_attribution.graph_tools.read.example_inputs import examples
from onnx_attribution.server.engine.backend import Backend

BACKEND = Backend("cpu", 1)
NORM = "<float[2] s = {2, 3}, float[2] b = {1, -1}, float[2] m = {0.5, 0.2}, float[2] v = {1, 2}>"
EACH = (
    "<float[2,2] s = {2, 3, 1, 2}, float[2,2] b = {1, -1, 0, 1}, float[2,2] m = {0.5, 0.2, 1, 1}, "
    "float[2,2] v = {1, 2, 3, 4}>"
)
SCALER = "a = ImageScaler<bias = [1.0, 2.0], scale = 0.5>(x)"
EARLY = {
    "ImageScaler, BatchNormalization": (
        f"n (float[N,2,4,4] x) => (float[N,2,4,4] y) {NORM} {{ {SCALER} "
        "y = BatchNormalization<spatial = 1>(a, s, b, m, v) }"
    ),
    "ImageScaler, Slice": (
        f"n (float[N,2,4,4] x) => (float[N,2,2,4] y) {{ {SCALER} y = Slice<axes = [2], starts = [1], ends = [3]>(a) }}"
    ),
    "Crop, Slice": (
        "n (float[N,2,6,6] x) => (float[N,2,2,3] y) { a = Crop<border = [1, 0, 1, 2]>(x) "
        "y = Slice<axes = [2], starts = [1], ends = [3]>(a) }"
    ),
    "statistics of each element": (
        f"n (float[N,2,2] x) => (float[N,2,2] y) {EACH} {{ y = BatchNormalization<spatial = 0>(x, s, b, m, v) }}"
    ),
    **{
        f"mean and variance {across} {normal}": (
            "n (float[N,2,3,4] x) => (float[N,2,3,4] y) { y = MeanVarianceNormalization"
            f"<across_channels = {across}, normalize_variance = {normal}>(x) }}"
        )
        for across in (0, 1)
        for normal in (0, 1)
    },
}


@pytest.mark.parametrize("case", EARLY)
def test_an_early_file_comes_to_opset_21_with_the_outputs_that_onnxruntime_gives(case: str) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 3, opset_import: ["" : 7]> {EARLY[case]}')
    plain = declared(model)
    found = steps.normalise(plain, BACKEND.run, examples(plain, BACKEND.run))
    assert opset_of(found.model) == 21
    assert found.notes == ()
    rest = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    x = np.random.default_rng(3).normal(size=(3, *rest))
    inputs = {"x": x.astype(np.float32)}
    expected: Any = BACKEND.run(model, inputs, ["y"])["y"]
    came: Any = BACKEND.run(found.model, inputs, ["y"])["y"]
    np.testing.assert_allclose(came, expected, rtol=1e-4, atol=1e-5)
