"""The values of layers: of any model that runs, of any numbers, and without a target."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.methods.toys import model, values

X = np.array([[1.0, -2.0, 0.5], [0.3, 2.0, -1.0]])
TWO = """(double[N,3] x) => (double[N,3] y, double[N,2,2] z, int64[N,1] which, bool[N,3] positive) {
    h = Relu(x)
    y = Exp(h)
    which = ArgMax<axis=1>(h)
    wide = Slice(h, zero, two, one)
    row = Unsqueeze(wide, one)
    z = Concat<axis=1>(row, row)
    positive = Greater(x, nothing)
}"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("two", model(TWO, zero=[0], two=[2], one=[1], nothing=0.0))
        made.add("alone", model("(double[2,3] x) => (double[2,3] y) { r = ReduceSum(x) y = Mul(x, r) }"))
        made.add(
            "hidden",
            model("(int64[N,2] ids) => (double[N,2,3] y) { e = Gather(table, ids) y = Exp(e) }", table=X),
        )
        yield made


def test_layers_have_their_values_and_no_target_is_needed(engine: Engine) -> None:
    """Two float outputs, one of them with several axes: no target could be chosen."""
    answer = engine.attribute(
        AttributionRequest("two", {"x": X}, "layer_activation", ["h", "z", "which", "positive"])
    )
    relu = np.maximum(X, 0)
    np.testing.assert_array_equal(values(answer, "h"), relu)
    np.testing.assert_array_equal(values(answer, "z"), np.stack([relu[:, :2]] * 2, axis=1))
    np.testing.assert_array_equal(values(answer, "which")[:, 0], relu.argmax(axis=1))
    np.testing.assert_array_equal(values(answer, "positive"), X > 0)
    assert answer.target.tensor == "h"
    np.testing.assert_allclose(answer.target.value, relu.sum(axis=1))
    assert answer.warnings == ()
    assert np.isnan(answer.layers["h"].residual).all()


def test_a_layer_behind_the_target_has_its_values_too(engine: Engine) -> None:
    asked = AttributionRequest("two", {"x": X}, "layer_activation", ["y"], target=Target("h", 0))
    answer = engine.attribute(asked)
    np.testing.assert_allclose(values(answer, "y"), np.exp(np.maximum(X, 0)))
    np.testing.assert_array_equal(answer.target.value, np.maximum(X, 0)[:, 0])


def test_integers_lead_to_it_as_well_as_floats(engine: Engine) -> None:
    ids = np.array([[0, 1], [1, 1], [1, 0]])
    answer = engine.attribute(AttributionRequest("hidden", {"ids": ids}, "layer_activation", ["e", "y"]))
    np.testing.assert_array_equal(values(answer, "e"), X[ids])
    np.testing.assert_allclose(values(answer, "y"), np.exp(X[ids]))


@pytest.mark.parametrize("samples", [1, 3])
def test_samples_that_are_run_one_by_one_have_them(engine: Engine, samples: int) -> None:
    x = np.random.default_rng(0).normal(size=(samples, 2, 3))
    answer = engine.attribute(AttributionRequest("alone", {"x": x}, "layer_activation", ["y"]))
    np.testing.assert_allclose(values(answer).reshape(x.shape), x * x.sum(axis=(1, 2), keepdims=True))


def test_operators_without_a_derivative_are_no_obstacle(engine: Engine) -> None:
    engine.add("round", model("(double[N,2] x) => (double[N,2] y) { r = Round(x) y = Mul(r, r) }"))
    asked = AttributionRequest("round", {"x": np.array([[1.4, 2.6]])}, "layer_activation", ["r"])
    np.testing.assert_array_equal(values(engine.attribute(asked)), [[1, 3]])


def test_text_and_constants_are_refused_by_name(engine: Engine) -> None:
    engine.add(
        "text",
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["" : 21]> g (string[N,2] x) => (string[N,2] y) { y = Identity(x) }'
        ),
    )
    asked = AttributionRequest("text", {"x": np.array([["a", "b"]], object)}, "layer_activation", ["y"])
    with pytest.raises(InvalidArgument, match="layer 'y' holds no numbers"):
        engine.attribute(asked)
    with pytest.raises(InvalidArgument, match="layer 'table' is a constant"):
        engine.attribute(
            AttributionRequest("hidden", {"ids": np.zeros((1, 2), int)}, "layer_activation", ["table"])
        )
