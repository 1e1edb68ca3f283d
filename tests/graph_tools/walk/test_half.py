"""Half types: the backward pass is float32, so that small gradients do not vanish and sums keep their digits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onnx_attribution.server.engine.backend import Backend
from tests.programs import contributions, gradients, parsed

Array = NDArray[Any]


def as_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float32 in place of float16."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    for value in (*result.graph.input, *result.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for held in result.graph.initializer:
        if held.data_type == TensorProto.FLOAT16:
            held.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held).astype(np.float32), held.name))
    return result


def test_gradient_of_half_precision_file_is_that_of_its_float32_twin(shared: Path) -> None:
    model = onnx.load(shared / "models" / "squeezenet-fp16" / "model.onnx")
    x = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float16)
    v = np.zeros((1, 1000, 1, 1))
    twin = as_float32(model)
    output = model.graph.output[0].name
    found = Backend("cpu").run(model, {"data_0": x}, [output])[output]
    v[0, int(found.argmax())] = 1
    ours = gradients(model, {"data_0": x}, ["data_0"], v)["data_0"]
    expected = gradients(twin, {"data_0": x.astype(np.float32)}, ["data_0"], v)["data_0"]
    size = np.abs(expected).mean()
    assert abs(np.linalg.norm(ours) / np.linalg.norm(expected) - 1) <= 1e-2
    assert np.median(np.abs(ours - expected)) <= 1e-2 * size
    # eleven bits tie more maxima and turn some units off, here and there: 3 % in the norm of the difference
    assert np.linalg.norm(ours - expected) <= 5e-2 * np.linalg.norm(expected)


def test_gradients_below_the_range_of_float16_do_not_vanish(rng: np.random.Generator) -> None:
    model = parsed("""net (float16[2,4] x) => (float16[2,4] z) {
  w = Constant<value_floats = [0.0001]>()
  a = Cast<to=10>(w)
  b = Mul(x, a)
  c = Mul(b, a)
  z = Tanh(c)
}""")
    x, v = rng.normal(size=(2, 4)).astype(np.float16), rng.normal(size=(2, 4))
    small = float(np.float16(0.0001)) ** 2
    found = gradients(model, {"x": x}, ["x"], v)["x"]
    np.testing.assert_allclose(found, v.astype(np.float16).astype(np.float64) * small, rtol=1e-3)


def test_contributions_of_half_precision_sum_to_the_change_of_the_file(rng: np.random.Generator) -> None:
    model = parsed("net (float16[2,4] x) => (float16[2,4] z) { a = Sigmoid(x) b = Relu(x) z = Mul(a, b) }")
    x, v = rng.normal(size=(2, 4)).astype(np.float16), rng.normal(size=(2, 4))
    total, change, size = contributions(model, {"x": x}, {"x": (x * 0.3).astype(np.float16)}, v)
    assert abs(total - change) <= 2e-3 * size  # eleven bits


@pytest.mark.parametrize("kind", ["float16", "double", "int64"])
def test_a_transpose_and_a_cast_before_a_product_do_not_end_the_process(kind: str) -> None:
    script = f"""
import numpy as np
from onnx_attribution.server.engine.backend import Backend
from tests.programs import parsed
model = parsed('net ({kind}[N,5,4] x, float[4,3] w) => (float[5,N,3] z) {{'
    't = Transpose<perm=[1,0,2]>(x) c = Cast<to=1>(t) z = MatMul(c, w) }}')
x, w = np.arange(40).reshape(2, 5, 4), np.arange(12, dtype=np.float32).reshape(4, 3)
found = Backend('cpu').run(model, {{'x': x.astype('{kind}'), 'w': w}}, ['z'])['z']
np.testing.assert_array_equal(found, x.swapaxes(0, 1) @ w)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16"])
def test_half_types_inside_a_float32_model_pass_gradients(kind: str, rng: np.random.Generator) -> None:
    model = parsed(f"""net (float[2,4] x) => (float[4,4] z) {{
  h = Cast<to={getattr(TensorProto, kind)}>(x)
  t = Transpose(h)
  c = Concat<axis=1>(t, t)
  f = Cast<to=1>(c)
  z = Mul(f, f)
}}""")
    x, v = rng.normal(size=(2, 4)).astype(np.float32), rng.normal(size=(4, 4))
    found = gradients(model, {"x": x}, ["x"], v)["x"]
    np.testing.assert_allclose(found, 2 * x * (v[:, :2] + v[:, 2:]).T, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("operator", ["Max", "Min"])
def test_the_gradient_of_an_extreme_of_computed_tensors_finds_it(
    operator: str, rng: np.random.Generator
) -> None:
    """onnxruntime keeps float32 between half tensors, so that no input need equal the rounded output."""
    text = f"net (KIND[3,4] x) => (KIND[3,4] z) {{ a = Sigmoid(x) b = Tanh(x) c = Sin(x) z = {operator}(a, b, c) }}"
    x, v = rng.normal(size=(3, 4)).astype(np.float16), rng.normal(size=(3, 4)).astype(np.float16)
    found = gradients(parsed(text.replace("KIND", "float16")), {"x": x}, ["x"], v)["x"]
    twin = gradients(parsed(text.replace("KIND", "float")), {"x": x.astype(np.float32)}, ["x"], v)["x"]
    np.testing.assert_allclose(found, twin, atol=5e-3)  # eleven bits
