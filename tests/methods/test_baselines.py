"""The point that a source starts from by default, and what an answer says of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, References
from tests.method_names import DEEPLIFT_METHODS, GRADIENT_METHODS, METHODS, PATH_METHODS
from tests.methods.toys import model, values

TABLE = np.random.default_rng(0).normal(size=(5, 3))
W = np.array([[1.0], [2.0], [-1.0]])
# tokens are looked up; a state of floats comes in beside them
PAST = """(int64[N,2] ids, double[N,3] past) => (double[N,1] y) {
    e = Gather(table, ids)
    s = ReduceSum<keepdims=0>(e, axes)
    t = Add(s, past)
    y = MatMul(t, W)
}"""
# a hidden tensor that one of two inputs leads to, and one of the shape of the other only
TWO = """(double[N,3] x, double[N,3] z) => (double[N,1] y) {
    shape = Shape(z)
    ones = ConstantOfShape<value=double[1] {1}>(shape)
    h = Add(x, ones)
    k = Add(h, z)
    y = MatMul(k, W)
}""".replace("<value=double[1] {1}>", "<value=double[1] {1.0}>")
SUMMING = sorted(PATH_METHODS | DEEPLIFT_METHODS)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("past", model(PAST, table=TABLE, axes=[1], W=W))
        made.add("two", model(TWO, W=W))
        yield made


@pytest.mark.parametrize("method", SUMMING)
def test_a_source_that_no_float_input_leads_to_starts_from_zeros(engine: Engine, method: str) -> None:
    inputs = {"ids": np.array([[1, 2], [3, 3]]), "past": np.ones((2, 3))}
    answer = engine.attribute(AttributionRequest("past", inputs, method, source=["e"]))
    np.testing.assert_allclose(values(answer), TABLE[inputs["ids"]] * W[:, 0], rtol=1e-6)
    assert "the baseline of 'e' is zeros at 'e'" in answer.warnings


@pytest.mark.parametrize("method", SUMMING)
def test_only_inputs_that_lead_to_the_source_move_its_baseline(engine: Engine, method: str) -> None:
    """h is x + 1: at x' = 0 it is 1. What is given for z, a source too, is no reason to leave x where it is."""
    inputs = {"x": np.array([[1.0, 2.0, 3.0]]), "z": np.ones((1, 3))}
    for given in ({}, {"z": 0.5}):
        asked = AttributionRequest("two", inputs, method, source=["h", "z"], baselines=given)
        answer = engine.attribute(asked)
        np.testing.assert_allclose(values(answer, "h"), inputs["x"] * W[:, 0], rtol=1e-6)
        np.testing.assert_allclose(values(answer, "z"), (1 - given.get("z", 0)) * W.T, rtol=1e-6)
        assert "the baseline of 'h' is its activation at the baseline of 'x'" in answer.warnings


@pytest.mark.parametrize("method", SUMMING)
def test_a_source_that_is_the_same_at_the_default_baseline_starts_from_zeros(
    engine: Engine, method: str
) -> None:
    inputs = {"x": np.zeros((2, 3)), "z": np.ones((2, 3))}
    answer = engine.attribute(AttributionRequest("two", inputs, method, source=["h"]))
    np.testing.assert_allclose(values(answer), [W[:, 0]] * 2, rtol=1e-6)
    assert answer.warnings == (
        "'h' is at the baseline of 'x' what it is at the input",
        "the baseline of 'h' is zeros at 'h'",
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("x", "which"),
    [(np.zeros((2, 3)), ""), (np.array([[0.0, 0, 0], [0, 0, 1]]), " in sample 0"), (np.ones((2, 3)), None)],
)
def test_a_baseline_that_is_the_input_is_said(
    engine: Engine, method: str, x: np.ndarray, which: str | None
) -> None:
    inputs = {"x": x, "z": np.ones((2, 3))}
    said = [w for w in engine.attribute(AttributionRequest("two", inputs, method)).warnings if "itself" in w]
    nothing = (
        f"the baseline of 'x' is the input itself{which}: nothing is attributed to it; give another baseline"
    )
    assert said == ([] if which is None or method in GRADIENT_METHODS else [nothing])


def test_one_of_several_references_may_be_the_input(engine: Engine) -> None:
    inputs = {"x": np.ones((2, 3)), "z": np.ones((2, 3))}
    for references, count in ((np.array([[1.0, 1, 1], [2, 2, 2]]), 0), (np.ones((2, 3)), 1)):
        given = {"x": References(references), "z": References(np.zeros((2, 3)))}
        answer = engine.attribute(AttributionRequest("two", inputs, "deeplift_rescale", baselines=given))
        assert sum("itself" in w for w in answer.warnings) == count


def test_a_baseline_of_an_input_that_leads_to_no_source_is_refused(engine: Engine) -> None:
    inputs = {"x": np.ones((1, 3)), "z": np.ones((1, 3))}
    with pytest.raises(InvalidArgument, match="'z' has a baseline but is no source, nor does it lead to one"):
        engine.attribute(AttributionRequest("two", inputs, source=["h"], baselines={"z": 1.0}))
