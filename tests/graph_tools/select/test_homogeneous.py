"""Networks that multiply what they are given: proofs by the graph, against values of the network itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from onnx_attribution.graph_tools.ir.convert import graph_of
from onnx_attribution.graph_tools.select.homogeneous import is_homogeneous
from tests.graph_tools.select.test_layers import parsed

WEIGHTS = (
    "float[4,4] w = {1,-2,3,4, -1,2,0,1, 0,3,-2,1, 2,2,-1,-1}, float[4] b = {1,2,3,4}, float[4] o = {0,0,0,0}, "
    "int64[3] s = {1, 1, 16}, int64[4] p = {1, 0, 0, 1}, float z = {0}, float v = {1}"
)
HOMOGENEOUS = {
    "products and Relu": "h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, w)",
    "a bias of zeros": "h = Gemm(x, w, o)  y = LeakyRelu <alpha: float = 0.1> (h)",
    "added zeros": "h = MatMul(x, w)  a = Add(h, o)  y = Abs(a)",
    "what moves is added": "h = MatMul(x, w)  r = Relu(h)  a = Add(r, x)  y = Sub(a, h)",
    "the greatest": "h = MatMul(x, w)  y = Max(h, x, o)",
    "slopes": "h = MatMul(x, w)  y = PRelu(h, b)",
    "a constant factor": "h = Mul(x, b)  y = Div(h, b)",
    "a choice by sign": "c = Greater(x, o)  h = MatMul(x, w)  y = Where(c, h, x)",
    "a sign times": "c = Sign(x)  h = MatMul(x, w)  y = Mul(c, h)",
    "moved around": "t = Transpose(x)  j = Concat <axis: int = 1> (t, t)  y = ReduceSum <keepdims: int = 1> (j)",
    "bounded below by zero": "k = Constant <value: tensor = float {0}> ()  y = Clip(x, k)",
    "norms": "n = ReduceL2 <keepdims: int = 1> (x)  y = Add(x, n)",
    "no shift": "y = BatchNormalization (x, b, o, o, b)",
    "pooled": "f = Reshape(x, s)  y = MaxPool <kernel_shape: ints = [2]> (f)",
    "padded by zeros": "y = Pad(x, p)",
}
OTHERS = {
    "a bias": "h = Gemm(x, w, b)  y = Relu(h)",
    "an added constant": "h = MatMul(x, w)  y = Add(h, b)",
    "a square": "y = Mul(x, x)",
    "a ratio": "n = ReduceL2 <keepdims: int = 1> (x)  y = Div(x, n)",
    "a sigmoid": "h = MatMul(x, w)  y = Sigmoid(h)",
    "a normalisation": "y = LayerNormalization (x, b, o)",
    "a bound": "y = Clip(x, z, v)",
    "the greatest with a constant": "y = Max(x, b)",
    "a threshold": "c = Greater(x, b)  h = MatMul(x, w)  y = Where(c, h, x)",
    "a choice of a constant": "c = Greater(x, o)  y = Where(c, x, w)",
    "a mean of batches": "y = BatchNormalization (x, b, o, b, b)",
    "joined to a constant": "y = Concat <axis: int = 0> (x, w)",
    "padded by ones": "y = Pad(x, p, v)",
    "rounded": "y = Floor(x)",
    "only a sign": "y = Sign(x)",
}

LINEAR = {
    "an added constant",
    "a choice of a constant",
    "a mean of batches",
    "joined to a constant",
    "padded by ones",
}
"""Those of the others that have a constant added and no bend along a ray."""
SHIFTED = {
    "a bias at the end": "h = MatMul(x, w)  r = Relu(h)  y = Gemm(r, w, b)",
    "a constant that is carried on": "a = Add(x, b)  t = Transpose(a)  h = MatMul(t, w)  y = Sub(h, x)",
    "a shift of a batch": "y = BatchNormalization (x, b, b, b, b)",
    "padded by ones": "y = Pad(x, p, v)",
}


def made(body: str) -> onnx.ModelProto:
    return parsed(f"(float[4,4] x) => (float y) <{WEIGHTS}> {{ {body} }}")


def deviation(model: onnx.ModelProto) -> float:
    """How far the network of 3 x is from 3 times the network of x, by onnx's reference evaluator."""
    x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    outputs = [ReferenceEvaluator(model).run(["y"], {"x": np.float32(k) * x}) for k in (1, 3)]
    once, thrice = (np.asarray(next(iter(values)), np.float64) for values in outputs)
    return float(np.abs(thrice - 3 * once).max() / np.abs(thrice).max())


@pytest.mark.parametrize("body", HOMOGENEOUS.values(), ids=HOMOGENEOUS)
def test_what_multiplies_is_known_to(body: str) -> None:
    model = made(body)
    assert deviation(model) < 1e-6
    assert is_homogeneous(graph_of(model), ["x"], "y")


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_what_does_not_multiply_is_not_taken_for_it(body: str) -> None:
    model = made(body)
    assert deviation(model) > 1e-3
    assert not is_homogeneous(graph_of(model), ["x"], "y")


@pytest.mark.parametrize("body", SHIFTED.values(), ids=SHIFTED)
def test_a_constant_that_is_added_shifts_the_target(body: str) -> None:
    model = made(body)
    x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    zero, once, thrice = (
        np.asarray(next(iter(ReferenceEvaluator(model).run(["y"], {"x": np.float32(k) * x}))), np.float64)
        for k in (0, 1, 3)
    )
    assert np.abs(zero).max() > 0.5
    np.testing.assert_allclose(thrice - zero, 3 * (once - zero), atol=1e-5)
    assert not is_homogeneous(graph_of(model), ["x"], "y")
    assert is_homogeneous(graph_of(model), ["x"], "y", shifted=True)


@pytest.mark.parametrize("name", sorted(OTHERS.keys() - LINEAR))
def test_what_bends_is_not_shifted(name: str) -> None:
    body = OTHERS[name]
    assert not is_homogeneous(graph_of(made(body)), ["x"], "y", shifted=True)


def test_layers_are_not_shifted() -> None:
    graph = graph_of(made("h = Gemm(x, w, b)  y = MatMul(h, w)"))
    assert not is_homogeneous(graph, ["x"], "y", ["h"], shifted=True)


def test_layers_must_multiply_as_the_target_does() -> None:
    graph = graph_of(made("h = MatMul(x, w)  s = Sigmoid(h)  r = Relu(h)  y = MatMul(r, w)"))
    assert is_homogeneous(graph, ["x"], "y", ["h", "r"])
    assert not is_homogeneous(graph, ["x"], "y", ["h", "s"])


def test_what_lies_before_a_source_does_not_matter() -> None:
    graph = graph_of(made("h = Gemm(x, w, b)  r = Relu(h)  y = MatMul(r, w)"))
    assert not is_homogeneous(graph, ["x"], "y")
    assert is_homogeneous(graph, ["h"], "y", ["r"])


def test_inputs_beside_the_sources_are_factors_and_no_summands() -> None:
    def graph(body: str) -> onnx.ModelProto:
        return parsed(f"(float[4] x, float[4] m) => (float y) {{ {body} }}")

    assert is_homogeneous(graph_of(graph("y = Mul(x, m)")), ["x"], "y")
    assert not is_homogeneous(graph_of(graph("y = Add(x, m)")), ["x"], "y")
    assert is_homogeneous(graph_of(graph("y = Add(x, m)")), ["x", "m"], "y")
