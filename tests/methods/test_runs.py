"""What is run for a request: counted at the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.values import Array, AttributionRequest, Target
from tests.method_names import METHODS
from tests.methods.toys import model, values

NET = "(float[N,3] x) => (float[N,2] y) { h = Tanh(x) y = MatMul(h, W) }"
WEIGHTS = np.array([[1.0, 2.0], [-1.0, 0.5], [0.3, 1.0]], np.float32)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each run."""
    found: list[int] = []
    run = Session.run

    def counted(self: Session, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        rows = next(inputs[name] for name in ("path/row_sample", "x", "baseline/x") if name in inputs)
        found.append(len(rows))
        return run(self, inputs, outputs)

    monkeypatch.setattr(Session, "run", counted)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_target_that_is_named_costs_no_run_of_its_own(runs: list[int], method: str) -> None:
    x = np.array([[0.5, -1.0, 2.0]], np.float32)
    with Engine(provider="cpu") as engine:
        engine.add("net", model(NET, W=WEIGHTS))
        request = AttributionRequest("net", {"x": x}, method, target=1, steps=8)
        for _ in range(3):  # builds, proves that rows are apart, and keeps the reference of DeepLIFT
            engine.attribute(request)
        del runs[:]
        answer = engine.attribute(request)
    assert len(runs) == 1
    np.testing.assert_allclose(answer.target.value, np.tanh(x) @ WEIGHTS[:, 1], rtol=1e-5)
    if not np.isnan(answer.target.baseline_value[0]):
        np.testing.assert_allclose(answer.target.baseline_value, 0, atol=1e-6)


def test_the_largest_output_is_found_by_one_run_at_x(runs: list[int]) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("net", model(NET, W=WEIGHTS))
        request = AttributionRequest("net", {"x": np.ones((2, 3), np.float32)}, "gradient")
        engine.attribute(request)
        del runs[:]
        engine.attribute(request)
    assert runs == [2, 2]


@pytest.mark.parametrize("method", ["gradient_x_activation", "integrated_gradients", "expected_gradients"])
def test_a_hidden_source_that_is_the_target_has_its_value(method: str) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("net", model("(double[N,3] x) => (double[N,3] y) { h = Exp(x) y = Neg(h) }"))
        asked = AttributionRequest(
            "net", {"x": np.ones((2, 3))}, method, source=["h"], target=Target("h", 1), baselines={"h": 0.0}
        )
        found = values(engine.attribute(asked))
    np.testing.assert_allclose(found, [[0, np.e, 0]] * 2)


@pytest.mark.parametrize("method", ["neuron_ig", "integrated_gradients"])
def test_a_network_whose_only_bias_is_its_last_takes_the_ends_of_the_path(
    runs: list[int], method: str
) -> None:
    rng = np.random.default_rng(0)
    first, last = rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=(8, 2)).astype(np.float32)
    text = "(float[N,3] x) => (float[N,2] y) { a = MatMul(x, V)  h = Relu(a)  y = Gemm(h, W, b) }"
    x = np.array([[0.5, -1.0, 2.0]], np.float32)
    with Engine(provider="cpu") as engine:
        engine.add("net", model(text, V=first, W=last, b=np.array([3.0, -1.0], np.float32)))
        layers = ["h"] if method == "neuron_ig" else []
        request = AttributionRequest("net", {"x": x}, method, layers, target=1)
        engine.attribute(request)
        del runs[:]
        answer = engine.attribute(request)
    h = np.maximum(x @ first, 0)
    inward = (last[:, 1] * (h[0] > 0)) @ first.T * x
    expected = h * last[:, 1] if method == "neuron_ig" else inward
    assert runs == [2]
    (layer,) = answer.layers.values()
    np.testing.assert_allclose(
        np.asarray(layer.values, np.float64).reshape(1, -1), expected.reshape(1, -1), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(answer.target.baseline_value, -1, rtol=1e-6)
