"""What is certain to be finite needs no choices between x and x': the numbers stay those of the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.graph_tools.ir.convert import graph_of
from onnx_attribution.graph_tools.operators.huge import is_sum_of_products
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.methods.toys import values
from tests.programs import parsed

Array = NDArray[Any]
WEIGHTS = np.array([[2.0, -1.0, 0.5, 0.25], [0.5, 1.5, -2.0, 0.0], [-1.0, 0.25, 1.0, 3.0]])
X = np.array([[0.3, -0.7, 1.1]])
MOVED = np.array([[0.3, -0.699, 1.1]])
AWAY = {"near": np.array([[0.1, 0.4, -0.2]]), "at x": X, "one moves": MOVED, "far": X * -3e3}


def scores(exponent: str = "p = Constant<value = float {-0.5}>()") -> onnx.ModelProto:
    """The softmax of products that are scaled by a power of a size, as those of attention."""
    numbers = ",".join(map(str, WEIGHTS.ravel()))
    return parsed(
        f"""g (float[N,3] x) => (float[N,4] y) <float[3,4] w = {{{numbers}}}, int64 one = {{1}}> {{
        {exponent} s = Shape(x) n = Gather(s, one) f = Cast<to = 1>(n) r = Pow(f, p)
        a = MatMul(x, w) b = Mul(a, r) y = Softmax(b) }}"""
    )


def logarithmic_mean(log_a: Array, log_b: Array) -> Array:
    """Of two numbers by their logarithms, which a double holds where it does not hold them."""
    a, b, d = np.exp(log_a), np.exp(log_b), log_a - log_b
    return np.where(np.abs(d) > 1e-6, (a - b) / np.where(d == 0, 1, d), (a + b) / 2)


@pytest.mark.parametrize("reference", AWAY)
@pytest.mark.parametrize("target", range(4))
def test_scores_scaled_by_a_size_have_the_multipliers_of_the_definition(reference: str, target: int) -> None:
    y = AWAY[reference].astype(np.float32)
    x = X.astype(np.float32)
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("scores", scores())
        asked = AttributionRequest(
            "scores", {"x": x}, "deeplift_rescale", ["x"], target=Target(index=target),
            baselines={"x": y}, multiply_by_inputs=False,
        )  # fmt: skip
        found = values(engine.attribute(asked), "x")
    logits = [v.astype(np.float64) @ WEIGHTS / np.sqrt(3) for v in (x, y)]
    logs = [v - v.max() - np.log(np.exp(v - v.max()).sum()) for v in logits]
    means = logarithmic_mean(*logs)[0]
    slopes = means[target] * (np.eye(4)[target] - means / means.sum())
    expected = WEIGHTS @ slopes / np.sqrt(3)
    np.testing.assert_allclose(found, expected[None], rtol=2e-5, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("exponent", "certain"),
    [
        ("p = Constant<value = float {-0.5}>()", True),
        ("p = Constant<value = float {0.5}>()", True),
        ("p = Constant<value = float {-400.0}>()", False),
        ("p = ReduceMax<keepdims = 0>(x)", False),
    ],
)
def test_small_powers_of_sizes_alone_are_certain_to_be_finite(exponent: str, certain: bool) -> None:
    graph = graph_of(onnx.shape_inference.infer_shapes(scores(exponent)))
    assert is_sum_of_products(graph.tensors()["b"]) == certain


def test_powers_of_values_are_not_certain() -> None:
    network = parsed(
        """g (float[N,3] x) => (float[N,3] y) <float p = {-0.5}, float[3,3] w = {1,0,0,0,1,0,0,0,1}> {
        a = MatMul(x, w) y = Pow(a, p) }"""
    )
    graph = graph_of(onnx.shape_inference.infer_shapes(network))
    assert not is_sum_of_products(graph.tensors()["y"])
