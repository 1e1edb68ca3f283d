"""NaN of one sample stays with it: every other sample has the numbers that it has alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, AttributionRequest, Completed, References, Target
from tests.method_names import FIXED_METHODS, PATH_METHODS, SOURCE_METHODS
from tests.methods.toys import Floats, model, values

ROOTS = """(double[N,3] x) => (double[N] y) {
    a = Add(x, one)
    s = Sqrt(a)
    y = ReduceSum<keepdims=0>(s, axes)
}"""
# the largest number of all samples is taken away from each, and falls out of the quotient
SHARED = """(double[N,3] x) => (double[N,3] y) {
    r = Exp(x)
    most = ReduceMax<keepdims=0>(r)
    low = Sub(r, most)
    e = Exp(low)
    total = ReduceSum<keepdims=1>(e, axes)
    y = Div(e, total)
}"""
# the samples are one axis while they are shifted by a product, which adds 0 times what other rows hold
PRODUCT = """(double[N,3] x) => (double[N,3] y) {
    r = Exp(x)
    flat = Reshape(r, all)
    size = Size(flat)
    range = Range(zero, size, step)
        places = OneHot(range, size, bits)
    eye = Cast<to=11>(places)
    moved = MatMul(eye, flat)
    shape = Shape(x)
    y = Reshape(moved, shape)
}"""
GOOD = np.array([[1.0, 2.0, 3.0], [0.5, 0.25, 4.0]])
MIXED = np.stack([GOOD[0], np.array([-5.0, 1.0, 1.0]), GOOD[1]])
LARGE = np.stack([GOOD[0], np.array([800.0, 1.0, 1.0]), GOOD[1]])  # beyond the exponential


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("roots", model(ROOTS, one=1.0, axes=[1]))
        made.add("shared", model(SHARED, axes=[1]))
        bits = {"zero": 0, "step": 1, "bits": [0, 1], "all": [-1]}
        made.add("product", model(PRODUCT, **bits))
        yield made


def explained(engine: Engine, name: str, x: Floats, method: str, **changed: Any) -> Attribution:
    target = Target(index=None if name == "roots" else 1)
    return engine.attribute(AttributionRequest(name, {"x": x}, method, target=target, **changed))


@pytest.mark.parametrize("method", FIXED_METHODS)
@pytest.mark.parametrize("name", ["roots", "shared", "product"])
def test_the_other_samples_keep_their_numbers(engine: Engine, name: str, method: str) -> None:
    baseline = {} if name == "roots" else {"baselines": {"x": 0.1}}
    together = explained(engine, name, MIXED if name == "roots" else LARGE, method, **baseline)
    for k, x in zip((0, 2), GOOD, strict=True):
        alone = explained(engine, name, x[None], method, **baseline)
        np.testing.assert_allclose(
            together.layers["x"].values[k], alone.layers["x"].values[0], rtol=1e-12, atol=1e-14
        )
        for field in ("sum", "residual", "error_estimate"):
            found, wanted = (getattr(a.layers["x"], field) for a in (together, alone))
            np.testing.assert_allclose(found[k], wanted[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(together.target.value[k], alone.target.value[0], rtol=1e-12)
    assert not np.isfinite(together.layers["x"].values[1]).all()


@pytest.mark.parametrize("steps", [3, 64, 300])
def test_integrated_gradients_of_the_others_are_right(engine: Engine, steps: int) -> None:
    """Of a sum of square roots each contribution is the difference of its root, whatever shares a run."""
    found = explained(engine, "roots", MIXED, "integrated_gradients", quadrature="gausslegendre", steps=steps)
    np.testing.assert_allclose(values(found)[[0, 2]], np.sqrt(1 + GOOD) - 1, rtol=2e-3)  # 3 points
    np.testing.assert_array_equal(np.isnan(found.layers["x"].values[1]), [True, False, False])


@pytest.mark.parametrize("method", sorted(PATH_METHODS))
def test_a_tolerance_is_met_by_the_other_samples(engine: Engine, method: str) -> None:
    found = explained(engine, "roots", MIXED, method, steps=8, tolerance=1e-3, max_steps=256)
    wanted = np.sqrt(1 + GOOD) - 1
    error = np.abs(found.layers["x"].values[[0, 2]] - wanted).sum() / wanted.sum()
    assert error < 1e-3
    assert found.steps > 8


def test_what_is_not_finite_has_not_converged(engine: Engine) -> None:
    asked = AttributionRequest(
        "roots", {"x": MIXED}, "integrated_gradients", steps=8, tolerance=0.5, max_steps=16
    )
    assert [e.stop_reason for e in engine.stream(asked) if isinstance(e, Completed)] == ["max_steps"]


@pytest.mark.parametrize("method", sorted(set(FIXED_METHODS) - SOURCE_METHODS))
def test_every_layer_keeps_the_numbers_of_the_others(engine: Engine, method: str) -> None:
    asked = ("x", "a", "s")
    together = explained(engine, "roots", MIXED, method, layers=asked)
    for k, x in zip((0, 2), GOOD, strict=True):
        alone = explained(engine, "roots", x[None], method, layers=asked)
        for name in asked:
            np.testing.assert_allclose(
                together.layers[name].values[k], alone.layers[name].values[0], rtol=1e-12, atol=1e-14
            )


@pytest.mark.parametrize("method", ["integrated_gradients", "neuron_ig", "deeplift_rescale", "occlusion"])
def test_a_reference_out_of_the_domain_spoils_its_own_sample(engine: Engine, method: str) -> None:
    references = np.zeros((2, 2, 3))
    references[1, 1] = [-2.0, 0.0, 0.0]
    found = explained(
        engine, "roots", GOOD, method, baselines={"x": References(references, per_sample=True)}, steps=256
    )
    np.testing.assert_allclose(found.layers["x"].values[0], np.sqrt(1 + GOOD[0]) - 1, rtol=1e-4)
    assert np.isnan(found.layers["x"].values[1]).any()
    assert any("in sample 1 (reference 1)" in w for w in found.warnings)


@pytest.mark.parametrize("method", FIXED_METHODS)
def test_the_warning_names_the_samples(engine: Engine, method: str) -> None:
    found = explained(engine, "roots", np.concatenate([MIXED, MIXED[1:2]]), method)
    (note,) = [w for w in found.warnings if "attributions" in w]
    begin = (
        ""
        if method == "occlusion"
        else "; NaN begins in the forward pass, at Sqrt (node 'Sqrt_1', output 's')"
    )
    assert note == f"the attributions of 'x' hold NaN or infinite numbers in samples 1, 3{begin}"


def test_a_finite_request_runs_every_row_once(engine: Engine) -> None:
    """The check for NaN costs no evaluation where there is none."""
    found = explained(engine, "roots", GOOD, "integrated_gradients", steps=8)
    assert found.evaluations == 2 * 9
