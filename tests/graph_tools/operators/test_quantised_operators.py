"""Operators that work on quantised numbers have the gradient of their twin that dequantises, works, quantises."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_attribution.server.engine.backend import Backend
from tests.graph_tools.operators.test_quantised import drawn, drawn_weights, frozen, with_weight
from tests.programs import assert_slope, contributions, gradients, parsed

A, B, C = "a, as, az", "b, bs, bz", "cs, cz"
SCALES = "float as = {0.02}, uint8 az = {120}, float bs = {0.03}, uint8 bz = {100}, float cs = {0.05}, uint8 cz = {110}"
TWINS = {
    "QLinearAdd": (f"com.microsoft.QLinearAdd({A}, {B}, {C})", "Add(p, r)"),
    "QLinearMul": (f"com.microsoft.QLinearMul({A}, {B}, {C})", "Mul(p, r)"),
    "QLinearSigmoid": ("com.microsoft.QLinearSigmoid(a, as, az, us, uz)", "Sigmoid(p)"),
    "QLinearLeakyRelu": (f"com.microsoft.QLinearLeakyRelu<alpha=0.1>({A}, {C})", "LeakyRelu<alpha=0.1>(p)"),
    "QLinearSoftmax": (
        "com.microsoft.QLinearSoftmax<axis=1, opset=13>(a, as, az, us, uz)", "Softmax<axis=1>(p)",
    ),
    "QLinearGlobalAveragePool": (
        f"com.microsoft.QLinearGlobalAveragePool<channels_last=0>({A}, {C})", "GlobalAveragePool(p)",
    ),
    "QLinearAveragePool": (
        f"com.microsoft.QLinearAveragePool<kernel_shape=[2,2]>({A}, {C})", "AveragePool<kernel_shape=[2,2]>(p)",
    ),
    "QLinearConcat": (f"com.microsoft.QLinearConcat<axis=1>({C}, {A}, {B})", "Concat<axis=1>(p, r)"),
    "QLinearWhere": (f"com.microsoft.QLinearWhere(mask, {A}, {B}, {C})", "Where(mask, p, r)"),
    "QLinearMatMul": (f"QLinearMatMul({A}, {B}, {C})", "MatMul(p, r)"),
    "QLinearConv": (f"QLinearConv<pads=[1,1,1,1]>({A}, w, ws, wz, {C}, k)", "Conv<pads=[1,1,1,1]>(p, wd, kd)"),
}  # fmt: skip


def _twins(operator: str, rng: np.random.Generator) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    ours, twin = TWINS[operator]
    last = "us, uz" if "us, uz" in ours else C
    body = """
net (float[2,3,4,4] x, float[2,3,4,4] y, int8[2,3,3,3] w, int32[2] k, bool[2,3,4,4] mask) => (float[N,M,P,Q] z)
<%s, float us = {0.004}, uint8 uz = {0}, float[2] ws = {0.01, 0.02}, int8[2] wz = {0, 0},
 float[2] ks = {0.0002, 0.0004}, int32[2] kz = {0, 0}>
{ a = QuantizeLinear(x, as, az)
  b = QuantizeLinear(y, bs, bz)
  %s
  out = DequantizeLinear(o, %s)
  z = Neg(out) }"""
    plain = f"""p = DequantizeLinear({A})
  r = DequantizeLinear({B})
  wd = DequantizeLinear<axis=0>(w, ws, wz)
  kd = DequantizeLinear<axis=0>(k, ks, kz)
  t = {twin}
  o = QuantizeLinear(t, {last})"""
    weights = {
        "w": drawn_weights(rng, 2, 3, 3, 3, low=-20, high=20),
        "k": np.asarray([300, -200], dtype=np.int32),
    }
    weights["mask"] = rng.normal(size=(2, 3, 4, 4)) > 0
    made = [drawn(parsed(body % (SCALES, text, last)), **weights) for text in (f"o = {ours}", plain)]
    return made[0], made[1]


@pytest.mark.parametrize("operator", TWINS)
def test_quantised_operator_has_the_gradient_of_its_twin(operator: str, rng: np.random.Generator) -> None:
    ours, twin = _twins(operator, rng)
    shape = (2, 3, 4, 4)  # away from 0, where LeakyRelu has its kink, and from where anything clips
    inputs = {n: (rng.choice([-1, 1], shape) * rng.uniform(0.1, 1.9, shape)).astype(np.float32) for n in "xy"}
    wrt = ["x", "y"] if B in TWINS[operator][0] else ["x"]
    found = assert_slope(ours, inputs, wrt, of=frozen(twin, inputs))
    assert all(np.abs(g).max() > 0 for g in found.values())
    at_zero = {name: inputs[name] * np.float32(0.3) for name in wrt}
    v = rng.normal(size=Backend("cpu").run(ours, inputs, ["z"])["z"].shape)
    total, change, size = contributions(ours, inputs, at_zero, v)
    assert abs(total - change) <= 1e-5 * size


DYNAMIC = {
    "MatMulInteger": """q, s, z0 = DynamicQuantizeLinear(x)
  i = MatMulInteger(q, w, z0, wz)
  f = Cast<to=1>(i)
  m = Mul(s, ws)
  z = Mul(f, m)""",
    "MatMulIntegerToFloat": """q, s, z0 = DynamicQuantizeLinear(x)
  z = com.microsoft.MatMulIntegerToFloat(q, w, s, ws, z0, wz)""",
    "DynamicQuantizeMatMul": "z = com.microsoft.DynamicQuantizeMatMul(x, w, ws, wz)",
}


@pytest.mark.parametrize("operator", DYNAMIC)
def test_dynamic_quantisation_has_the_gradient_of_the_float_product(
    operator: str, rng: np.random.Generator
) -> None:
    weight = drawn_weights(rng, 8, 5, low=0, high=255, kind=np.uint8)
    text = "net (float[3,8] x) => (float[3,5] z) <float ws = {0.01}, uint8 wz = {120}> { %s }"
    model = with_weight(text % DYNAMIC[operator], "uint8[8,5] w", weight)
    inputs, v = {"x": rng.normal(size=(3, 8)).astype(np.float32)}, rng.normal(size=(3, 5))
    real = (weight.astype(np.float64) - 120) * 0.01
    np.testing.assert_allclose(gradients(model, inputs, ["x"], v)["x"], v @ real.T, rtol=1e-4, atol=1e-5)
    total, change, size = contributions(model, inputs, {"x": inputs["x"] * np.float32(-0.4)}, v)
    assert abs(total - change) <= 1e-5 * size


def test_convolution_of_integers_has_the_gradient_of_the_float_convolution(rng: np.random.Generator) -> None:
    text = """net (float[1,2,5,5] x) => (float[1,3,3,3] z) <float ws = {0.01}, uint8 wz = {120}> {
  q, s, z0 = DynamicQuantizeLinear(x)
  i = ConvInteger(q, w, z0, wz)
  f = Cast<to=1>(i)
  m = Mul(s, ws)
  z = Mul(f, m) }"""
    weight = drawn_weights(rng, 3, 2, 3, 3, low=0, high=255, kind=np.uint8)
    model = with_weight(text, "uint8[3,2,3,3] w", weight)
    real = ((weight.astype(np.float32) - 120) * 0.01).astype(np.float32)
    twin = with_weight(
        "net (float[1,2,5,5] x) => (float[1,3,3,3] z) { z = Conv(x, w) }", "float[3,2,3,3] w", real
    )
    inputs = {"x": rng.normal(size=(1, 2, 5, 5)).astype(np.float32)}
    assert_slope(model, inputs, ["x"], of=twin)


@pytest.mark.parametrize(("bits", "zeros"), [(4, True), (4, False), (8, False)])
def test_packed_weights_have_the_gradient_of_the_product_they_make(
    bits: int, zeros: bool, rng: np.random.Generator
) -> None:
    n, k, block = 5, 32, 16
    arrays = {
        "b": drawn_weights(rng, n, k // block, block * bits // 8, low=0, high=255, kind=np.uint8),
        "s": (rng.uniform(0.01, 0.1, size=n * k // block)).astype(np.float32),
        "o": drawn_weights(rng, n * -(-(k // block) * bits // 8), low=0, high=255, kind=np.uint8),
    }
    text = f"""net (float[3,{k}] x, uint8[{n},2,{block * bits // 8}] b, float[{n * 2}] s, uint8[{len(arrays["o"])}] o)
 => (float[3,{n}] z) {{
  z = com.microsoft.MatMulNBits<K={k}, N={n}, bits={bits}, block_size={block}>(x, b, s{", o" if zeros else ""}) }}"""
    model = drawn(parsed(text), **arrays)
    inputs = {"x": rng.normal(size=(3, k)).astype(np.float32)}
    assert_slope(model, inputs, ["x"], step=1.0)  # linear
