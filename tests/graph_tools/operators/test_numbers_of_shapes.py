"""What is known of sizes becomes constants: a number that is made at run time is copied to the device."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from tests.programs import assert_slope, parsed


def program(model: onnx.ModelProto) -> onnx.ModelProto:
    loaded = LoadedModel(model, Backend("cpu", 1))
    return rows_program(loaded.network, Choice(("x",), ("x",), "z")).model


@pytest.mark.parametrize(
    "mean",
    [
        "m = ReduceMean<keepdims=1>(h, last)",
        "m = ReduceMean<keepdims=0>(h, both)",
        "m = GlobalAveragePool(h)",
    ],
)
def test_a_mean_over_known_axes_of_many_rows_divides_by_a_constant(
    mean: str, rng: np.random.Generator
) -> None:
    model = parsed(f"""net (float[N,2,3,4] x) => (float[N] z) <int64[1] last = {{-1}}, int64[2] both = {{3, 2}}> {{
  h = Mul(x, x)
  {mean}
  n = Tanh(m)
  f = Flatten(n)
  ones = Constant<value_ints = [1]>()
  z = ReduceSum<keepdims=0>(f, ones)
}}""")
    assert "Size" not in {node.op_type for node in program(model).graph.node}
    assert_slope(model, {"x": rng.normal(size=(3, 2, 3, 4)).astype(np.float32)}, ["x"])


def test_a_mean_over_all_of_unknown_size_divides_by_it(rng: np.random.Generator) -> None:
    model = parsed("""net (float[N,K] x) => (float[N] z) {
  h = Mul(x, x)
  axis = Constant<value_ints = [1]>()
  z = ReduceMean<keepdims=0>(h, axis)
}""")
    assert "Size" in {node.op_type for node in program(model).graph.node}
    assert_slope(model, {"x": rng.normal(size=(2, 5)).astype(np.float32)}, ["x"])
