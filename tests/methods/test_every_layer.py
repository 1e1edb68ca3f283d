"""All layers in one request: numbers as of each alone, how the change flows through them, and sums without values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.errors import InvalidArgument, NotDifferentiable
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.values import Array, AttributionRequest, References, Target
from tests.method_names import DEEPLIFT_METHODS
from tests.methods.toys import Floats, model

BRANCHES = """(double[N,3] x) => (double[N,2] y) {
    a = MatMul(x, A)
    stem = Tanh(a)
    m = MatMul(stem, B)
    main = Relu(m)
    s = MatMul(stem, C)
    skip = Sigmoid(s)
    added = Add(main, skip)
    lost = Round(added)
    sum = Add(added, lost)
    y = MatMul(sum, D)
}"""
LINEAR = """(double[N,2] x) => (double[N,2] y) {
    left = Mul(x, two)
    right = Mul(x, three)
    y = Add(left, right)
}"""
EVERY = ("gradient", "gradient_x_activation", "neuron_ig", "deeplift_rescale")
KINDS = ["stem", "main", "skip", "added", "sum"]
TENSORS = ["x", "a", "stem", "m", "main", "s", "skip", "added", "lost", "sum", "y"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    rng = np.random.default_rng(0)
    weights = {"A": (3, 4), "B": (4, 5), "C": (4, 5), "D": (5, 2)}
    given = {name: rng.normal(size=shape) for name, shape in weights.items()}
    with Engine(provider="cpu", threads=1) as made:
        made.add("branches", model(BRANCHES, **given))
        made.add(
            "smooth", model(BRANCHES.replace("lost = Round", "lost = Neg").replace("Relu", "Tanh"), **given)
        )
        made.add("linear", model(LINEAR, two=[2.0], three=[3.0]))
        yield made


def points(seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(size=(2, 3))


def asked(method: str, *layers: str, name: str = "branches", **given: Any) -> AttributionRequest:
    target = {} if "targets" in given else {"target": Target(index=1)}
    return AttributionRequest(name, {"x": points()}, method, layers, **{**target, **given})


@pytest.mark.parametrize("method", EVERY)
def test_numbers_are_those_of_requests_about_one_layer(engine: Engine, method: str) -> None:
    steps: dict[str, Any] = {"steps": 8} if method == "neuron_ig" else {}
    answer = engine.attribute(asked(method, "**", **steps))
    assert list(answer.layers) == TENSORS
    for name, layer in answer.layers.items():
        alone = engine.attribute(asked(method, name, **steps)).layers[name]
        np.testing.assert_allclose(
            layer.values.astype(float), alone.values.astype(float), rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(
            layer.sum, alone.values.reshape(2, -1).astype(float).sum(1), rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(layer.error_estimate, alone.error_estimate, rtol=1e-6, atol=1e-12)
        assert layer.cut == alone.cut


def test_one_star_goes_with_names_and_follows_them(engine: Engine) -> None:
    assert list(engine.attribute(asked("gradient", "*")).layers) == KINDS
    assert list(engine.attribute(asked("gradient", "y", "*", "stem")).layers) == ["y", *KINDS]


def test_no_layer_is_taken_to_which_no_derivative_leads(engine: Engine) -> None:
    proto = model("(double[N,2] x) => (double[N,2] y) { h = Relu(x) r = Floor(h) t = Tanh(x) y = Add(r, t) }")
    engine.add("floor", proto)
    request = AttributionRequest("floor", {"x": np.ones((1, 2))}, "gradient", ["**"], target=0)
    assert list(engine.attribute(request).layers) == ["x", "r", "t", "y"]
    with pytest.raises(NotDifferentiable, match="Floor"):
        engine.attribute(request.changed(layers=["h"]))


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
@pytest.mark.parametrize("pattern", ["*", "**"])
def test_methods_whose_source_is_the_layer_refuse_many(engine: Engine, method: str, pattern: str) -> None:
    with pytest.raises(InvalidArgument, match=r"stands for many layers.*neuron_ig"):
        engine.attribute(asked(method, pattern))


def test_a_network_without_such_layers_is_refused_in_words(engine: Engine) -> None:
    request = AttributionRequest("linear", {"x": np.ones((1, 2))}, "gradient", ["*"], ["left"], target=0)
    with pytest.raises(InvalidArgument, match=r"'\*\*' stands for every float tensor"):
        engine.attribute(request)


def test_shares_of_two_branches_are_their_coefficients(engine: Engine) -> None:
    request = AttributionRequest(
        "linear", {"x": np.array([[1.0, 4.0], [2.0, 0.0]])}, "neuron_ig", ["**"], target=0
    )
    answer = engine.attribute(request)
    assert answer.flow is not None
    wanted = {"x": 1.0, "left": 0.4, "right": 0.6, "y": 1.0}
    for name, layer in answer.flow.layers.items():
        np.testing.assert_allclose(layer.share, wanted[name], rtol=1e-9)
        np.testing.assert_allclose(layer.total, [5 * wanted[name], 10 * wanted[name]], rtol=1e-9)
        assert layer.cut == (name in "xy")
    assert answer.flow.cut_sets == (("left", "right"),)
    np.testing.assert_allclose(answer.flow.residuals, 0, atol=1e-9)
    zero = engine.attribute(request.changed(inputs={"x": np.array([[0.0, 4.0]])}))
    assert zero.flow is not None
    assert np.isnan(zero.flow.layers["left"].share).all()


@pytest.mark.parametrize("method", ["neuron_ig", *sorted(DEEPLIFT_METHODS)])
def test_every_cut_and_every_set_that_is_one_sums_to_the_change(engine: Engine, method: str) -> None:
    answer = engine.attribute(asked(method, "**", name="smooth"))
    change = answer.target.value - answer.target.baseline_value
    flow = answer.flow
    assert flow is not None

    assert {("m", "s"), ("main", "skip")} <= set(flow.cut_sets)
    for name, layer in flow.layers.items():
        if layer.cut:
            bound = answer.layers[name].error_estimate if method == "neuron_ig" else 1e-6
            assert (np.abs(layer.total - change) <= bound).all()
    for names, residual in zip(flow.cut_sets, flow.residuals, strict=True):
        total = np.sum([flow.layers[name].total for name in names], axis=0)
        np.testing.assert_allclose(total - change, residual, atol=1e-12)
        assert (
            np.abs(residual) <= 0.02 * np.sum([np.abs(flow.layers[n].total) for n in names], axis=0)
        ).all()


def test_each_target_has_the_flow_that_it_has_alone(engine: Engine) -> None:
    several = asked("neuron_ig", "*", name="smooth", targets=[Target(index=0), Target("main", 1)])
    with pytest.raises(AttributeError):
        _ = engine.attribute(several).target
    for each, target in zip(engine.attribute(several).each(), several.each_target, strict=True):
        alone = engine.attribute(asked("neuron_ig", *each.layers, name="smooth", target=target)).flow
        assert alone is not None
        assert each.flow is not None
        assert each.flow.cut_sets == alone.cut_sets
        for name, layer in alone.layers.items():
            np.testing.assert_allclose(each.flow.layers[name].share, layer.share, rtol=1e-6)


@pytest.mark.parametrize("method", EVERY)
def test_sums_only_are_the_sums_of_the_whole_answer(engine: Engine, method: str) -> None:
    steps: dict[str, Any] = {"steps": 8} if method == "neuron_ig" else {}
    every: list[dict[str, Any]] = [{}, {"targets": [0, 1]}, {"baselines": {"x": References(points(3))}}]
    for more in every:
        if "baselines" in more and method.startswith("gradient"):
            continue
        whole = engine.attribute(asked(method, "**", **steps, **more))
        sums = engine.attribute(asked(method, "**", **steps, **more, sums_only=True))
        for name, layer in sums.layers.items():
            assert layer.values.shape == (*layer.sum.shape, 0)
            np.testing.assert_allclose(layer.sum, whole.layers[name].sum, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(layer.residual, whole.layers[name].residual, rtol=1e-7, atol=1e-9)
            error = whole.layers[name].error_estimate
            assert (np.isnan(layer.error_estimate) == np.isnan(error)).all()
            assert not (layer.error_estimate > error + 1e-9).any()
        assert (whole.flow is None) == (sums.flow is None)


def test_no_values_leave_the_programs_of_sums(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    run = Session.run

    def counted(self: Session, *given: Any) -> dict[str, Array]:
        found = run(self, *given)
        seen.append(max(array.size for array in found.values()))
        return found

    monkeypatch.setattr(Session, "run", counted)
    engine.attribute(asked("gradient_x_activation", "**", sums_only=True))
    engine.attribute(asked("neuron_ig", "**", sums_only=True, steps=4))
    rows = 2 * 5
    assert max(seen[-2:]) <= rows


@pytest.mark.parametrize("method", ["neuron_ig", "integrated_gradients"])
def test_sums_of_a_path_with_a_spike_are_those_of_its_units(method: str) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> spike (float[N,2] x) => (float[N,2] y)
        <float[2,2] W = {60, -60, 60, -60}, float[2] b = {-7, 7}> {
            z = MatMul(x, W)
            h = Add(z, b)
            y = Sigmoid(h)
        }"""
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("m", onnx.parser.parse_model(text))
        layers = ["h"] if method == "neuron_ig" else []
        found = engine.attribute(
            AttributionRequest(
                "m", {"x": np.ones((1, 2), np.float32)}, method, layers, target=0, sums_only=True
            )
        )
    change = 1 / (1 + np.exp(-113.0)) - 1 / (1 + np.exp(7.0))
    (layer,) = found.layers.values()
    np.testing.assert_allclose(layer.sum, [change], rtol=1e-2)  # the default tolerance
    assert abs(layer.residual[0]) <= layer.error_estimate[0] <= 0.02


def test_sums_are_refined_to_the_tolerance_of_the_change(engine: Engine) -> None:
    answer = engine.attribute(asked("neuron_ig", "**", name="smooth", sums_only=True, tolerance=1e-3))
    change = np.abs(answer.target.value - answer.target.baseline_value)
    for layer in answer.layers.values():
        assert (layer.error_estimate <= 1e-3 * np.maximum(change, np.abs(layer.sum))).all()
        if layer.cut:
            assert (np.abs(layer.residual) <= layer.error_estimate).all()
