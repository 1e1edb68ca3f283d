"""Minus infinity in a mask and NaN for what is missing are inputs like others, except where differences are taken."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.method_names import DEEPLIFT_METHODS, FIXED_METHODS, GRADIENT_METHODS, METHODS, PATH_METHODS
from tests.methods.toys import Floats, model, values

RNG = np.random.default_rng(5)
V, X = RNG.normal(size=(3, 2)), RNG.normal(size=(2, 4, 3))
MASK = np.triu(np.full((4, 4), -np.inf), 1)
ATTENTION = """(double[N,4,3] x, double[4,4] mask) => (double[N,2] y) {
    t = Transpose<perm=[0,2,1]>(x)
    s = MatMul(x, t)
    m = Add(s, mask)
    a = Softmax(m)
    o = MatMul(a, x)
    p = ReduceMean<keepdims=0>(o, axes)
    y = MatMul(p, V)
}"""
FILL, W = np.array([0.5, -1.0, 2.0]), np.array([[1.0], [2.0], [-1.0]])
IMPUTED = "(double[N,3] x) => (double[N,1] y) { q = IsNaN(x) h = Where(q, fill, x) z = MatMul(h, W) y = Sigmoid(z) }"
MISSING = np.array([[1.0, np.nan, 0.3], [0.2, 0.1, np.nan]])
SUMMING = sorted(PATH_METHODS | DEEPLIFT_METHODS)


def attended(x: Floats) -> float:
    scores = x @ x.T + MASK
    a = np.exp(scores - scores.max(axis=1, keepdims=True))
    return float(((a / a.sum(axis=1, keepdims=True)) @ x).mean(axis=0) @ V[:, 1])


def imputed(x: Floats) -> float:
    return float(1 / (1 + np.exp(-np.where(np.isnan(x), FILL, x) @ W[:, 0])))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("attention", model(ATTENTION, V=V, axes=[1]))
        made.add("imputed", model(IMPUTED, fill=FILL, W=W))
        yield made


@pytest.mark.parametrize("method", METHODS)
def test_a_mask_that_is_held_may_be_infinite(engine: Engine, method: str) -> None:
    asked = AttributionRequest(
        "attention", {"x": X, "mask": MASK}, method, source=["x"], target=Target(index=1), steps=256
    )
    answer = engine.attribute(asked)
    assert not [w for w in answer.warnings if "NaN" in w]
    np.testing.assert_allclose(answer.target.value, [attended(x) for x in X])
    if method in SUMMING:  # 256 trapezoids
        np.testing.assert_allclose(answer.layers["x"].sum, [attended(x) for x in X], rtol=2e-3)
    if method == "gradient":
        step = np.eye(12).reshape(12, 4, 3) * 1e-6
        slopes = [[(attended(x + d) - attended(x - d)) / 2e-6 for d in step] for x in X]
        np.testing.assert_allclose(values(answer).reshape(2, 12), slopes, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", SUMMING)
def test_a_source_where_differences_are_taken_is_refused_by_name(engine: Engine, method: str) -> None:
    with pytest.raises(
        InvalidArgument, match=r"input 'mask' holds 6 numbers that are NaN or inf.* name the other sources"
    ) as caught:
        engine.attribute(
            AttributionRequest("attention", {"x": X, "mask": MASK}, method, target=Target(index=1))
        )
    assert caught.value.reason == "NON_FINITE_INPUT"
    assert list(caught.value.violations) == ["inputs.mask"]


@pytest.mark.parametrize("method", sorted(set(FIXED_METHODS) - {"occlusion"}))
def test_what_is_missing_is_explained_behind_the_imputer(engine: Engine, method: str) -> None:
    """The sigmoid of a sum: its gradient in closed form, and sums from the imputed value at x' = 0, which is 0."""
    answer = engine.attribute(AttributionRequest("imputed", {"x": MISSING}, method, source=["h"], steps=256))
    full, y = np.where(np.isnan(MISSING), FILL, MISSING), np.array([imputed(x) for x in MISSING])
    np.testing.assert_allclose(answer.target.value, y)
    if method in GRADIENT_METHODS:
        slope = (y * (1 - y))[:, None] * W[:, 0]
        np.testing.assert_allclose(values(answer), slope * (full if method != "gradient" else 1), rtol=1e-9)
    else:
        np.testing.assert_allclose(answer.layers["h"].sum, y - 0.5, rtol=1e-4)


def test_a_gradient_where_a_value_is_missing_is_zero(engine: Engine) -> None:
    answer = engine.attribute(AttributionRequest("imputed", {"x": MISSING}, "gradient"))
    np.testing.assert_array_equal(values(answer)[np.isnan(MISSING)], 0)
    assert (values(answer)[~np.isnan(MISSING)] != 0).all()


@pytest.mark.parametrize(
    ("x", "low"), [(MISSING, 0.0), (np.array([[1.0, 1, 0.3]]), np.nan), (MISSING, np.nan)]
)
def test_occlusion_replaces_what_is_missing_and_by_it(engine: Engine, x: Floats, low: float) -> None:
    answer = engine.attribute(AttributionRequest("imputed", {"x": x}, "occlusion", baselines={"x": low}))
    changed = [[np.where(np.arange(3) == k, low, row) for k in range(3)] for row in x]
    expected = [
        [imputed(row) - imputed(other) for other in others] for row, others in zip(x, changed, strict=True)
    ]
    np.testing.assert_allclose(values(answer), expected, atol=1e-12)
    assert answer.evaluations == 2 * len(x) + x.size - (np.isnan(x).sum() if np.isnan(low) else 0)


@pytest.mark.parametrize("method", SUMMING)
def test_the_reference_of_a_hidden_source_may_be_all_missing(engine: Engine, method: str) -> None:
    """Then the source starts at what the imputer fills in."""
    asked = AttributionRequest(
        "imputed", {"x": np.array([[1.0, 2, 3]])}, method, source=["h"], baselines={"x": np.nan}, steps=256
    )
    answer = engine.attribute(asked)
    expected = imputed(np.array([1.0, 2, 3])) - imputed(FILL)
    np.testing.assert_allclose(answer.layers["h"].sum, expected, rtol=1e-4)


@pytest.mark.parametrize("method", SUMMING)
def test_a_reference_where_differences_are_taken_is_finite(engine: Engine, method: str) -> None:
    asked = AttributionRequest("imputed", {"x": np.ones((1, 3))}, method, baselines={"x": np.nan})
    with pytest.raises(InvalidArgument, match="the baseline of 'x' holds NaN"):
        engine.attribute(asked)
