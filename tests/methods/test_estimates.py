"""The error that an answer states is never below what its sum misses, and a large miss is said."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnx_attribution.methods import Quadrature
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, AttributionRequest, Completed, Revision
from tests.method_names import DEEPLIFT_METHODS, PATH_METHODS, QUADRATURES
from tests.methods.toys import dense, model

# a logarithm that falls by 23 within 1e-10 of its end
CLIPPED = "(double[N,1] x) => (double[N,1] z) { c = Clip(x, low) z = Log(c) }"
# a step between the points of both grids
STEP = """(double[N,2] a, double[N,2] b) => (double[N,2] y) {
    s = Add(a, b)
    d = Sub(s, far)
    t = Mul(d, steep)
    p = Sigmoid(t)
    u = Mul(s, little)
    y = Add(p, u)
}"""
CERTAIN = "(float[N,3] x) => (float[N,3] y) { z = Mul(x, steep) y = Softmax(z) }"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("clipped", model(CLIPPED, low=1e-10))
        made.add("step", model(STEP, far=1.0, steep=1e4, little=0.01))
        made.add("slope", model(STEP, far=1.0, steep=300.0, little=0.01))
        made.add("certain", model(CERTAIN, steep=np.float32(3e4)))
        made.add("dense", dense(np.random.default_rng(3), "Tanh", scale=4))
        made.add(
            "product",
            model("(double[N,2] a, double[N,2] b) => (double[N,2] y) { q = Mul(a, b) y = Tanh(q) }"),
        )
        yield made


def followed(engine: Engine, request: AttributionRequest) -> tuple[list[Attribution], Completed]:
    events = list(engine.stream(request))
    (end,) = [e for e in events if isinstance(e, Completed)]
    return [e.attribution for e in events if isinstance(e, Revision)], end


@pytest.mark.parametrize("method", sorted(PATH_METHODS))
def test_a_sum_that_misses_more_than_the_tolerance_has_not_converged(engine: Engine, method: str) -> None:
    """The change is ln 1e10; the path sum at 1,024 steps is ln 1024 and less than 1 more."""
    asked = AttributionRequest(
        "clipped", {"x": np.ones((1, 1))}, method, tolerance=0.1, quadrature="trapezoid"
    )
    revisions, end = followed(engine, asked)
    last = revisions[-1].layers["x"]
    assert end.stop_reason == "max_steps"
    assert last.sum < np.log(1024) + 1
    np.testing.assert_allclose(last.residual, last.sum - 10 * np.log(10))
    assert (last.error_estimate >= np.abs(last.residual)).all()
    (note,) = [w for w in revisions[-1].warnings if "miss" in w]
    assert note.startswith(
        "the attributions of 'x' miss 67% of the change in sample 0: they sum to 7.51, the target"
    )
    assert (
        "changes by 23, at 1024 steps; the gradient is steep at the baseline, through a logarithm near 0"
        in note
    )


@pytest.mark.parametrize("method", sorted(PATH_METHODS))
def test_rows_that_lie_where_they_are_needed_find_what_a_grid_does_not(engine: Engine, method: str) -> None:
    """The same fall of the logarithm, which is ln 1e10."""
    answer = engine.attribute(AttributionRequest("clipped", {"x": np.ones((1, 1))}, method))
    np.testing.assert_allclose(answer.layers["x"].sum, 10 * np.log(10), rtol=0.01)
    assert answer.evaluations < 400
    assert answer.warnings == ()


@pytest.mark.parametrize("method", sorted(PATH_METHODS))
def test_several_sources_are_refined_until_they_sum_together(engine: Engine, method: str) -> None:
    """The slope lies between the points of the first levels, and no source is a cut."""
    inputs = {"a": np.full((2, 2), 0.6), "b": np.full((2, 2), 0.47)}
    answer = engine.attribute(AttributionRequest("slope", inputs, method))
    total = sum(layer.sum for layer in answer.layers.values())
    np.testing.assert_allclose(total, [1 + 0.0107] * 2, rtol=0.01)
    assert answer.warnings == ()


@pytest.mark.parametrize("quadrature", QUADRATURES)
@pytest.mark.parametrize("method", sorted(PATH_METHODS))
@pytest.mark.parametrize("steps", [2, 7, 32])
def test_the_estimate_at_a_cut_is_at_least_what_the_sum_misses(
    engine: Engine, rng: np.random.Generator, method: str, quadrature: Quadrature, steps: int
) -> None:
    layers = ("z1", "h2", "y") if method == "neuron_ig" else ("x",)
    asked = AttributionRequest(
        "dense", {"x": rng.normal(size=(5, 5))}, method, layers, quadrature=quadrature, steps=steps
    )
    for layer in engine.attribute(asked).layers.values():
        assert layer.cut
        assert (layer.error_estimate >= np.abs(layer.residual)).all()


@pytest.mark.parametrize("method", sorted(PATH_METHODS))
def test_several_sources_have_converged_only_if_they_sum_together(engine: Engine, method: str) -> None:
    """Both grids miss the step, and no source is a cut: only the sum of both shows it."""
    inputs = {"a": np.full((2, 2), 0.6), "b": np.full((2, 2), 0.47)}
    asked = AttributionRequest("step", inputs, method, steps=8, max_steps=64, tolerance=0.1)
    revisions, end = followed(engine, asked)
    assert end.stop_reason == "max_steps"
    for answer in revisions:
        assert answer.joint_residual is not None
        total = sum(layer.sum for layer in answer.layers.values())
        np.testing.assert_allclose(answer.joint_residual, total - (1 + 0.0107), atol=1e-6)
        (note,) = answer.warnings
        assert note.startswith(
            "the attributions of 'a' and 'b' miss 99% of the change in sample 0 (and in 1 others)"
        )


@pytest.mark.parametrize("method", sorted(PATH_METHODS | DEEPLIFT_METHODS))
def test_the_residual_of_all_sources_together_vanishes(
    engine: Engine, rng: np.random.Generator, method: str
) -> None:
    inputs = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=(3, 2))}
    answer = engine.attribute(AttributionRequest("product", inputs, method, steps=256))
    assert answer.joint_residual is not None
    np.testing.assert_allclose(answer.joint_residual, 0, atol=1e-3)
    assert answer.warnings == ()


def test_layers_behind_each_other_have_no_joint_residual(engine: Engine, rng: np.random.Generator) -> None:
    inputs = {"a": rng.normal(size=(1, 2)), "b": rng.normal(size=(1, 2))}
    for method, layers in (
        ("neuron_ig", ("a", "b", "q")),
        ("neuron_ig", ("a",)),
        ("gradient", ()),
        ("occlusion", ()),
    ):
        asked = AttributionRequest("product", inputs, method, layers)
        assert engine.attribute(asked).joint_residual is None


@pytest.mark.parametrize("method", sorted(PATH_METHODS))
def test_a_saturated_softmax_names_its_logit(engine: Engine, method: str) -> None:
    """From 1/3 to 1 within the first of a million parts of the path."""
    answer = engine.attribute(
        AttributionRequest("certain", {"x": np.array([[1, -1, 0]], np.float32)}, method, steps=8)
    )
    assert abs(answer.layers["x"].residual[0]) > 0.05 * 2 / 3
    assert any("miss" in w and w.endswith("or the logit 'z'") for w in answer.warnings)


@pytest.mark.parametrize("method", sorted(PATH_METHODS))
def test_a_change_of_nothing_is_no_miss(engine: Engine, method: str) -> None:
    x = np.random.default_rng(0).normal(size=(2, 5))
    asked = AttributionRequest("dense", {"x": x}, method, baselines={"x": x})
    assert not [w for w in engine.attribute(asked).warnings if "miss" in w]


def test_multipliers_have_converged_only_if_they_sum_to_the_change(engine: Engine) -> None:
    """Both grids miss the step, where all multipliers are."""
    inputs = {"a": np.full((1, 2), 0.6), "b": np.full((1, 2), 0.47)}
    asked = AttributionRequest(
        "step", inputs, "integrated_gradients", steps=8, max_steps=32, tolerance=0.1, multiply_by_inputs=False
    )
    assert followed(engine, asked)[1].stop_reason == "max_steps"
    asked = AttributionRequest(
        "product",
        inputs,
        "integrated_gradients",
        steps=8,
        max_steps=64,
        tolerance=0.1,
        multiply_by_inputs=False,
    )
    assert followed(engine, asked)[1].stop_reason == "converged"


def test_what_is_missed_is_said_where_half_types_round_less_than_that() -> None:
    """A Sigmoid as steep as 300 from 0 to 1, of contributions that cancel to a tenth: 64 steps do not resolve it."""
    text = "(float16[N,2] x) => (float16[N,1] y) { z = MatMul(x, W) y = Sigmoid(z) }"
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("half", model(text, W=np.array([[3000], [-2700]], np.float16)))
        x = np.ones((1, 2), np.float16)
        ask = AttributionRequest("half", {"x": x}, "integrated_gradients", steps=64)
        answer = engine.attribute(ask)
    assert answer.layers["x"].sum[0] > 1.2 * 0.5  # of what the target changes by
    assert any("miss" in text and "of the change" in text for text in answer.warnings)
