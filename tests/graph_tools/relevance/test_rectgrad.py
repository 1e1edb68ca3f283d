"""RectGrad: thresholds by quantile and by number, absolute ones, and max pools that share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.relevance.guided import GUIDED_BACKPROP
from onnx_attribution.graph_tools.relevance.rectgrad import Threshold, rectgrad
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest
from tests.graph_tools.relevance.carried import assert_carried, carried
from tests.methods.toys import model
from tests.programs import parsed

RELU = "g (float[N,4] x) => (float[N,4] z) { z = Relu(x) }"
X, R = np.array([[2, -1, 1, 3]]), np.array([[1, 5, -2, 0.5]])
POOL = (
    "g (float[1,1,4,4] x) => (float[1,1,2,2] z) { z = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) }"
)
OVERLAP = "g (float[1,1,3,3] x) => (float[1,1,3,3] z) { z = MaxPool <kernel_shape = [2, 2], pads = [0, 0, 1, 1]> (x) }"


def test_a_threshold_of_0_is_guided_backpropagation() -> None:
    rng = np.random.default_rng(0)
    text = (
        "(float[N,3,6,6] x) => (float[N,5] z) { c = Conv(x, k) h = Relu(c) f = Flatten(h) z = MatMul(f, w) }"
    )
    kernel, weights = rng.normal(size=(4, 3, 3, 3)), rng.normal(size=(64, 5))
    net = model(text, k=kernel.astype(np.float32), w=weights.astype(np.float32))
    x, weight = rng.normal(size=(2, 3, 6, 6)), rng.normal(size=(2, 5))
    one, other = (
        carried(net, table, weight, x=x)["x"] for table in (rectgrad(Threshold(tau=0.0)), GUIDED_BACKPROP)
    )
    assert_carried(one, other)
    assert np.abs(other).max() > 0


@pytest.mark.parametrize("percent", [0, 20, 50, 98, 100])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_quantile_is_that_of_numpy(percent: float, absolute: bool) -> None:
    rng = np.random.default_rng(1)
    x, r = rng.uniform(0.5, 2, (1, 7)).astype(np.float32), rng.normal(size=(1, 7)).astype(np.float32)
    product = np.abs(x * r) if absolute else x * r
    found = carried(
        parsed(RELU.replace("N,4", "N,7")), rectgrad(Threshold(percent, absolute=absolute)), r, x=x
    )["x"]
    assert_carried(found, np.where(product > np.percentile(product, percent), r, 0))


def test_a_constant_is_compared_with_the_product() -> None:
    assert_carried(carried(parsed(RELU), rectgrad(Threshold(tau=1.6)), R, x=X)["x"], [[1, 0, 0, 0]])
    assert_carried(
        carried(parsed(RELU), rectgrad(Threshold(tau=1.6, absolute=True)), R, x=X)["x"], [[1, 0, -2, 0]]
    )


def test_a_quantile_is_of_each_sample_by_itself() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, 6)) * [[1], [10], [100]]
    net = model(
        "(double[N,6] x) => (double[N,1] y) { h = Relu(x) y = MatMul(h, w) }", w=rng.normal(size=(6, 1))
    )
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", net)
        request = AttributionRequest("net", {"x": x}, "rectgrad", quantile=60.0)
        together = engine.attribute(request).layers["x"].values
        alone = [engine.attribute(request.changed(inputs={"x": row[None]})).layers["x"].values for row in x]
    np.testing.assert_array_equal(together, np.concatenate(alone))
    assert (np.count_nonzero(together, axis=1) > 0).all()


def shares(x: np.ndarray, r: np.ndarray, windows: list[list[tuple[int, int]]]) -> np.ndarray:
    """In proportion to the elements of each window."""
    found = np.zeros_like(x)
    for window, arrived in zip(windows, r.reshape(-1), strict=True):
        total = sum(x[0, 0][place] for place in window)
        for place in window:
            found[0, 0][place] += x[0, 0][place] / total * arrived
    return found


@pytest.mark.parametrize("overlap", [False, True])
def test_a_max_pool_shares_in_proportion(overlap: bool) -> None:
    rng = np.random.default_rng(3)
    size, made, step = (3, 3, 1) if overlap else (4, 2, 2)
    x, r = rng.uniform(0.1, 1, (1, 1, size, size)), rng.normal(size=(1, 1, made, made))
    windows = [
        [(i, j) for i in range(step * a, min(step * a + 2, size)) for j in range(step * b, min(step * b + 2, size))]
        for a in range(made) for b in range(made)
    ]  # fmt: skip
    found = carried(parsed(OVERLAP if overlap else POOL), rectgrad(Threshold(proportional=True)), r, x=x)["x"]
    assert_carried(found, shares(x, r, windows))
    plain = carried(parsed(OVERLAP if overlap else POOL), rectgrad(Threshold()), r, x=x)["x"]
    assert np.count_nonzero(plain) < np.count_nonzero(found)


def test_a_global_max_pool_shares_in_proportion() -> None:
    x, r = np.array([[[[1, 2], [3, 4]]]]), np.array([[[[5.0]]]])
    net = parsed("g (float[1,1,2,2] x) => (float[1,1,1,1] z) { z = GlobalMaxPool(x) }")
    assert_carried(carried(net, rectgrad(Threshold(proportional=True)), r, x=x)["x"], x / 10 * 5)


def test_windows_with_gaps_are_refused() -> None:
    net = parsed(POOL.replace("strides = [2, 2]", "dilations = [2, 2]"))
    with pytest.raises(NotDifferentiable, match="leave proportional out"):
        carried(net, rectgrad(Threshold(proportional=True)), np.ones((1, 1, 2, 2)), x=np.ones((1, 1, 4, 4)))


def test_a_rule_that_is_a_twentieth_of_a_percent_wrong_fails() -> None:
    table = rectgrad(Threshold(tau=1.6))
    right = table["", "Relu"]
    wrong = replace(right, vjp=lambda op, node, g: [op("Mul", x, 1.0005) for x in right.vjp(op, node, g)])
    with pytest.raises(AssertionError):
        assert_carried(carried(parsed(RELU), {**table, ("", "Relu"): wrong}, R, x=X)["x"], [[1, 0, 0, 0]])
