"""Methods that draw: what they are in closed form, how far draws scatter, and what does not move a number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import SmoothGrad, make
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, AttributionRequest, References, Target
from tests.method_names import DRAWN_METHODS, FIXED_METHODS, SOURCE_METHODS
from tests.methods.toys import Floats, dense, model, values

X = np.array([[1.0, -2.0, 0.5], [0.3, 2.0, -1.0]])
W = np.array([[1.0, -1.0], [2.0, 0.5], [-3.0, 1.0]])
NOISY = sorted(DRAWN_METHODS - {"expected_gradients"})
PARTS = "(double[N,2] a, double[N,2] b) => (double[N,2] y) { y = Mul(a, b) }"
SHARED = "(double[N,3] x, double s) => (double[N,3] y) { q = Mul(x, s) y = Mul(q, q) }"
ALONE = "(double[2,3] x) => (double[2,3] y) { r = ReduceSum(x) e = Exp(x) y = Mul(e, r) }"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("squares", model("(double[N,3] x) => (double[N,3] y) { y = Mul(x, x) }"))
        made.add("linear", model("(double[N,3] x) => (double[N,2] y) { y = MatMul(x, W) }", W=W))
        made.add("parts", model(PARTS))
        made.add("shared", model(SHARED))
        made.add("alone", model(ALONE))
        made.add("dense", dense(np.random.default_rng(1), "Tanh"))
        yield made


def drawn(engine: Engine, name: str, method: str, x: Floats = X, **parameters: Any) -> Attribution:
    changed = {"target": (slice(None),), **parameters}
    return engine.attribute(AttributionRequest(name, {"x": x}, method, **changed))


# --- In closed form

MOMENTS = {"smoothgrad": 2 * X, "smoothgrad_sq": 4 * X**2 + 4 * 0.25, "vargrad": np.full_like(X, 4 * 0.25)}


@pytest.mark.parametrize("method", NOISY)
def test_of_squares_they_are_the_moments_of_a_normal_gradient(engine: Engine, method: str) -> None:
    """The gradient 2 (x + n), n of variance 1/4; four standard errors of two samples of three."""
    answer = drawn(engine, "squares", method, stdev=0.5, draws=4000)
    missed = np.abs(values(answer) - MOMENTS[method]).sum(axis=1)
    assert (missed < 4 * answer.layers["x"].error_estimate).all()
    assert (answer.layers["x"].error_estimate < 0.2 * np.abs(MOMENTS[method]).sum(axis=1)).all()


@pytest.mark.parametrize("method", sorted(DRAWN_METHODS))
def test_most_errors_are_below_the_estimate(engine: Engine, method: str) -> None:
    """The L1 norm of standard errors is 1.25 times the mean L1 error of normal errors."""
    changed: dict[str, Any] = {"stdev": 0.5} if method in NOISY else {}
    wanted = MOMENTS.get(method, X**2)
    missed, estimates = [], []
    for seed in range(100):
        answer = drawn(engine, "squares", method, draws=100, seed=seed, **changed)
        missed.append(np.abs(values(answer) - wanted).sum(axis=1))
        estimates.append(answer.layers["x"].error_estimate)
    below = np.array(missed) <= np.array(estimates)
    assert 0.55 < below.mean() < 0.95
    assert (np.array(missed) < 5 * np.array(estimates)).all()


def test_noise_is_a_share_of_each_samples_range(engine: Engine) -> None:
    ranges = X.max(axis=1) - X.min(axis=1)
    found = drawn(engine, "squares", "vargrad", noise_level=0.2)
    for k, size in enumerate(ranges):
        alone = drawn(engine, "squares", "vargrad", X[k : k + 1], stdev=0.2 * size)
        np.testing.assert_allclose(values(found)[k], values(alone)[0], rtol=1e-12)


def test_a_linear_model_has_no_variance(engine: Engine) -> None:
    """Its gradient is W, and the mean over drawn references the difference to their mean."""
    for method, wanted in (
        ("smoothgrad", W[:, 1]),
        ("smoothgrad_sq", W[:, 1] ** 2),
        ("vargrad", 0 * W[:, 1]),
    ):
        answer = drawn(engine, "linear", method, target=1)
        np.testing.assert_array_equal(values(answer), np.broadcast_to(wanted, X.shape))
        np.testing.assert_array_equal(answer.layers["x"].error_estimate, 0)
    answer = drawn(engine, "linear", "expected_gradients", target=1, baselines={"x": 0.5})
    np.testing.assert_allclose(values(answer), W[:, 1] * (X - 0.5), rtol=1e-12)
    np.testing.assert_allclose(answer.layers["x"].residual, 0, atol=1e-12)
    assert answer.warnings == ()
    bare = drawn(engine, "linear", "expected_gradients", target=1, multiply_by_inputs=False)
    np.testing.assert_array_equal(values(bare), np.broadcast_to(W[:, 1], X.shape))


def test_expected_gradients_are_the_mean_of_integrated_gradients(engine: Engine) -> None:
    given = {"x": References(np.random.default_rng(0).normal(size=(7, 5)))}
    asked = AttributionRequest(
        "dense", {"x": np.ones((3, 5))}, "expected_gradients", baselines=given, target=1, draws=5000
    )
    found = engine.attribute(asked)
    wanted = engine.attribute(asked.changed(method=make("integrated_gradients", {"steps": 256})))
    estimate = found.layers["x"].error_estimate
    assert (np.abs(values(found) - values(wanted)).sum(axis=1) < 3 * estimate).all()
    assert (estimate < 0.1 * np.abs(values(wanted)).sum(axis=1)).all()
    change = found.target.value - found.target.baseline_value
    np.testing.assert_allclose(found.layers["x"].residual, found.layers["x"].sum - change)
    assert (estimate >= np.abs(found.layers["x"].residual)).all()


def test_references_of_one_place_belong_together(engine: Engine) -> None:
    """Of a b at a = b = 2 with (0, 2) and (2, 0): each draw moves one factor only, so that none is multiplied by 0."""
    low = {"a": References(np.array([[0.0, 0], [2, 2]])), "b": References(np.array([[2.0, 2], [0, 0]]))}
    inputs = {"a": np.full((1, 2), 2.0), "b": np.full((1, 2), 2.0)}
    found = engine.attribute(
        AttributionRequest("parts", inputs, "expected_gradients", baselines=low, target=0, draws=64)
    )
    a, b = (found.layers[name].values[0, 0] for name in "ab")
    streams = [np.random.default_rng([0, k]) for k in range(64)]
    chosen = [(rng.uniform(), rng.integers(2))[1] for rng in streams]
    np.testing.assert_allclose((a, b), (4 - 4 * np.mean(chosen), 4 * np.mean(chosen)), rtol=1e-12)
    assert found.joint_residual is not None
    np.testing.assert_allclose(found.joint_residual, 0, atol=1e-12)


def test_too_few_draws_are_a_warning(engine: Engine) -> None:
    answer = drawn(engine, "squares", "expected_gradients", draws=2)
    (words,) = answer.warnings
    assert words.startswith("the attributions of 'x' sum to ")
    assert words.endswith("the draws scatter; try more draws, or less noise")


def test_one_draw_has_no_error_estimate(engine: Engine) -> None:
    assert np.isnan(drawn(engine, "squares", "smoothgrad", draws=1).layers["x"].error_estimate).all()


# --- What does not move a number


@pytest.mark.parametrize("method", sorted(DRAWN_METHODS))
def test_the_same_seed_gives_the_same_numbers(engine: Engine, method: str) -> None:
    one, again, other = (drawn(engine, "squares", method, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(values(one), values(again))
    assert np.abs(values(one) - values(other)).max() > 1e-3


@pytest.mark.parametrize("method", sorted(DRAWN_METHODS))
def test_neither_memory_nor_other_samples_move_a_number(engine: Engine, method: str) -> None:
    layers = ("x",) if method in SOURCE_METHODS else ("x", "h1")
    asked = AttributionRequest(
        "dense", {"x": np.random.default_rng(2).normal(size=(3, 5))}, method, layers, target=2, draws=17
    )
    whole = engine.attribute(asked)
    with Engine(provider="cpu", threads=1, memory_budget=4096) as small:
        small.add("dense", dense(np.random.default_rng(1), "Tanh"))
        parts = small.attribute(asked)
    for name, layer in whole.layers.items():
        np.testing.assert_allclose(values(parts, name), values(whole, name), rtol=1e-12, atol=1e-14)
        alone = engine.attribute(asked.changed(inputs={"x": asked.inputs["x"][1:2]}))
        np.testing.assert_allclose(alone.layers[name].values[0], layer.values[1], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(alone.layers[name].error_estimate[0], layer.error_estimate[1], rtol=1e-9)


@pytest.mark.parametrize("of", [*FIXED_METHODS, "layer_activation"])
def test_noise_of_nothing_leaves_a_method_as_it_is(engine: Engine, of: str) -> None:
    layers = ("x",) if of in SOURCE_METHODS else ("x", "h1")
    asked = AttributionRequest("dense", {"x": np.ones((2, 5))}, of, layers, target=1, baselines={"x": 0.2})
    plain = engine.attribute(asked)
    found = engine.attribute(asked.changed(method=SmoothGrad(of=of, stdev=0.0, draws=3)))
    for name in plain.layers:
        np.testing.assert_allclose(values(found, name), values(plain, name), rtol=1e-12)
        np.testing.assert_allclose(found.layers[name].error_estimate, 0, atol=1e-12)


def test_the_other_methods_parameters_are_its(engine: Engine) -> None:
    each: tuple[dict[str, Any], ...] = ({"steps": 3, "quadrature": "left"}, {"multiply_by_inputs": False})
    for parameters in each:
        asked = AttributionRequest(
            "dense", {"x": np.ones((1, 5))}, "integrated_gradients", target=1, **parameters
        )
        smooth = make("smoothgrad", {"of": "integrated_gradients", "stdev": 0.0, "draws": 2, **parameters})
        found = engine.attribute(asked.changed(method=smooth))
        np.testing.assert_allclose(values(found), values(engine.attribute(asked)), rtol=1e-12)


def test_occlusion_under_noise_is_the_change_from_the_noise(engine: Engine) -> None:
    """(x + n)^2 of each element."""
    found = drawn(engine, "squares", "smoothgrad", of="occlusion", stdev=0.5, draws=30)
    noise = np.stack([np.random.default_rng([0, k]).standard_normal(3) for k in range(30)])
    np.testing.assert_allclose(values(found), ((X + 0.5 * noise[:, None]) ** 2).mean(axis=0), rtol=1e-9)


def test_absolute_attributions_are_taken_before_the_mean(engine: Engine) -> None:
    x = np.zeros((1, 3))
    assert (values(drawn(engine, "squares", "smoothgrad", x, stdev=1.0, absolute=True)) > 1).all()
    assert (np.abs(values(drawn(engine, "squares", "smoothgrad", x, stdev=1.0))) < 1).all()


def test_references_are_averaged_before_the_variance(engine: Engine) -> None:
    """Of (x - r) 2 (x + r) / 2 the mean over r = -1, 1 is that of x^2 - 1: references add no variance."""
    given = {"x": References(np.array([[-1.0] * 3, [1.0] * 3]))}
    found = drawn(engine, "squares", "vargrad", of="integrated_gradients", stdev=0.3, baselines=given)
    noise = np.stack([np.random.default_rng([0, k]).standard_normal(3) for k in range(50)])
    np.testing.assert_allclose(values(found), ((X + 0.3 * noise[:, None]) ** 2).var(axis=0), rtol=1e-9)
    assert found.layers["x"].values.shape == X.shape
    assert np.isnan(found.layers["x"].spread).all()


# --- Where rows lie


@pytest.mark.parametrize("method", sorted(DRAWN_METHODS))
def test_a_number_that_samples_share_is_drawn_too(engine: Engine, method: str) -> None:
    """With a stdev of its own; the samples then have the numbers that they have alone."""
    changed: dict[str, Any] = {"stdev": 0.1, "draws": 9}
    asked = AttributionRequest("shared", {"x": X, "s": np.array(2.0)}, method, target=1, **changed)
    whole = engine.attribute(asked)
    for k in range(2):
        alone = engine.attribute(asked.changed(inputs={"x": X[k : k + 1], "s": np.array(2.0)}))
        for name in ("x", "s"):
            np.testing.assert_allclose(
                np.ravel(whole.layers[name].values[k]), np.ravel(alone.layers[name].values[0]), rtol=1e-9
            )


@pytest.mark.parametrize("method", sorted(DRAWN_METHODS))
def test_rows_that_cannot_share_a_run_are_drawn_one_by_one(engine: Engine, method: str) -> None:
    x = np.random.default_rng(4).normal(size=(3, 2, 3))
    asked = AttributionRequest("alone", {"x": x}, method, target=(0, 1), draws=6)
    whole = engine.attribute(asked)
    assert whole.batch == "single"
    alone = engine.attribute(asked.changed(inputs={"x": x[1]}))
    np.testing.assert_allclose(values(whole)[1].reshape(2, 3), values(alone).reshape(2, 3), rtol=1e-9)


@pytest.mark.parametrize("method", sorted(DRAWN_METHODS))
def test_a_hidden_source_has_the_noise(engine: Engine, method: str) -> None:
    x = np.random.default_rng(5).normal(size=(2, 5))
    asked = AttributionRequest("dense", {"x": x}, method, source=["h1"], target=0, draws=5, stdev=0.2)
    assert list(engine.attribute(asked).layers) == ["h1"]
    changed = engine.attribute(asked.changed(stdev=0.3))
    assert np.abs(values(changed) - values(engine.attribute(asked))).max() > 1e-4


# --- Refused, or said


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "noise of noise": (
        {"of": "vargrad"},
        "smoothgrad is of a method that draws nothing itself, not of 'vargrad'",
    ),
    "an unknown method": ({"of": "lime"}, "no method 'lime'; there are: gradient, "),
    "groups of gradients": (
        {"groups": {"x": [0, 0, 1]}},
        "gradient knows no groups; it is a parameter of occlusion",
    ),
    "no draws": ({"draws": 0}, "draws is 0; it must lie between 1 and"),
    "negative noise": ({"stdev": -1.0}, r"stdev is -1.0; it must be at least 0"),
    "a seed below 0": ({"seed": -1}, "seed is -1; it must lie between 0 and"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_drawn_is_refused_by_name(engine: Engine, case: str) -> None:
    parameters, words = REFUSED[case]
    with pytest.raises(InvalidArgument, match=words):
        drawn(engine, "squares", "smoothgrad", **parameters)


def test_noise_on_truth_values_is_refused_by_name() -> None:
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("which", model("(bool[N,2] x) => (double[N,2] y) { y = Cast<to=11>(x) }"))
        asked = AttributionRequest(
            "which", {"x": np.ones((1, 2), bool)}, "smoothgrad", target=Target("y", 0), of="occlusion"
        )
        with pytest.raises(InvalidArgument, match="noise is added to numbers; the source 'x' holds bool"):
            engine.attribute(asked)


def test_noise_on_integers_is_rounded() -> None:
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("count", model("(int64[N,2] x) => (double[N,2] y) { y = Cast<to=11>(x) }"))
        given = {"x": np.array([[3, 5]])}
        changed: dict[str, Any] = {"of": "occlusion", "target": Target("y", (slice(None),))}
        still = engine.attribute(AttributionRequest("count", given, "smoothgrad", stdev=1e-10, **changed))
        np.testing.assert_array_equal(values(still), [[3, 5]])
        moved = engine.attribute(
            AttributionRequest("count", given, "smoothgrad", stdev=20.0, draws=1, **changed)
        )
        assert (values(moved) % 1 == 0).all()
        assert (values(moved) != [[3, 5]]).any()


def test_a_source_without_a_range_is_a_warning(engine: Engine) -> None:
    answer = drawn(engine, "squares", "smoothgrad", np.array([[1.0, 1, 1], [1, 2, 3]]))
    assert answer.warnings == (
        "no noise is added to 'x' in sample 0, whose numbers are all the same; give stdev",
    )
