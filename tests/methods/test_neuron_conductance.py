"""The conductance of neurons by input, and internal influence: what they sum to, and what they are in small nets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import AttributionError, InvalidArgument, NotDifferentiable, NotFound
from onnx_attribution.methods import Quadrature
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, AttributionRequest, References, Target
from tests.method_names import QUADRATURES
from tests.methods.toys import Floats, dense, model, values

RNG = np.random.default_rng(7)
X, LOW = RNG.normal(size=(3, 5)), RNG.normal(size=(3, 5))
# Captum's BasicModel_MultiLayer: all ones but for the biases
TOY = """(double[N,3] x) => (double[N,1] y) {
    z = Gemm(x, ones, bias)
    a = Relu(z)
    y = MatMul(a, sum)
}"""
RESIDUAL = """(double[N,5] x) => (double[N,1] y) {
    a = MatMul(x, W)
    left = Tanh(a)
    s = Add(left, x)
    t = Tanh(s)
    y = MatMul(t, v)
}"""
FOLDED = """(double[N,2,4] x) => (double[N,2] y) {
    r = Reshape(x, rows)
    z = MatMul(r, W)
    h = Tanh(z)
    p = MatMul(h, V)
    q = Reshape(p, back)
    t = Tanh(q)
    y = MatMul(t, U)
}"""
SECOND = """(double[2,N,4] x) => (double[N,2] y) {
    z = MatMul(x, W)
    h = Tanh(z)
    s = ReduceSum<keepdims=0>(h, first)
    y = MatMul(s, V)
}"""
ALONE = """(double[2,4] x) => (double[2,2] y) {
    r = ReduceSum(x)
    z = MatMul(x, W)
    m = Mul(z, r)
    h = Tanh(m)
    y = MatMul(h, V)
}"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    rng = np.random.default_rng(8)
    sizes = {"W": rng.normal(size=(4, 3)), "V": rng.normal(size=(3, 2)), "U": rng.normal(size=(4, 2))}
    with Engine(provider="cpu", threads=1) as made:
        made.add("dense", dense(np.random.default_rng(3), "Tanh"))
        made.add("residual", model(RESIDUAL, W=rng.normal(size=(5, 5)) / 2, v=rng.normal(size=(5, 1))))
        made.add("toy", model(TOY, ones=np.ones((3, 4)), bias=[-10.0, 1, 1, 1], sum=np.ones((4, 1))))
        made.add(
            "folded", model(FOLDED, rows=[-1, 4], back=[-1, 4], **{**sizes, "V": rng.normal(size=(3, 2))})
        )
        made.add("second", model(SECOND, first=[0], W=sizes["W"], V=sizes["V"]))
        made.add("alone", model(ALONE, W=sizes["W"], V=sizes["V"]))
        yield made


def asked(engine: Engine, method: str = "neuron_conductance", x: Floats = X, **changed: Any) -> Attribution:
    given = {"baselines": {"x": LOW}, "target": 1, **changed}
    return engine.attribute(AttributionRequest(given.pop("name", "dense"), {"x": x}, method, **given))


@pytest.mark.parametrize("quadrature", QUADRATURES)
def test_the_neurons_of_a_cut_share_out_integrated_gradients(engine: Engine, quadrature: Quadrature) -> None:
    plain = asked(engine, "integrated_gradients", steps=6, quadrature=quadrature)
    for layer, count in (("z1", 7), ("h2", 6), ("x", 5)):
        parts = [asked(engine, neuron={layer: (k,)}, steps=6, quadrature=quadrature) for k in range(count)]
        np.testing.assert_allclose(sum(map(values, parts)), values(plain), rtol=1e-9, atol=1e-12)


def test_the_inputs_share_out_the_neurons_total_conductance(engine: Engine) -> None:
    total = values(asked(engine, "neuron_ig", layers=["h1"], steps=512))
    for k in range(7):
        found = asked(engine, neuron={"h1": (k,)}, steps=512)
        np.testing.assert_allclose(values(found).sum(axis=1), total[:, k], rtol=1e-3, atol=1e-5)
        assert np.isnan(found.layers["x"].residual).all()


def test_the_error_estimate_covers_the_error(engine: Engine) -> None:
    exact = values(asked(engine, neuron={"h1": (2,)}, steps=2048))
    for steps in (32, 128):
        found = asked(engine, neuron={"h1": (2,)}, steps=steps)
        assert (np.abs(values(found) - exact).sum(axis=1) <= found.layers["x"].error_estimate).all()
    close = asked(engine, neuron={"h1": (2,)}, steps=4, tolerance=1e-3, max_steps=1024)
    assert close.steps > 4
    assert (np.abs(values(close) - exact).sum(axis=1) < 2e-3 * np.abs(exact).sum(axis=1)).all()


def test_what_bypasses_the_layer_is_in_none_of_its_neurons(engine: Engine) -> None:
    changed: dict[str, Any] = {"name": "residual", "target": 0, "steps": 16}
    plain = values(asked(engine, "integrated_gradients", **changed))
    left, through = (
        sum(values(asked(engine, neuron={layer: (k,)}, **changed)) for k in range(5))
        for layer in ("left", "s")
    )
    np.testing.assert_allclose(through, plain, rtol=1e-9)
    assert np.abs(left - plain).max() > 0.1 * np.abs(plain).max()


def test_without_the_difference_it_is_the_mean_product(engine: Engine) -> None:
    bare = asked(engine, neuron={"h1": (2,)}, multiply_by_inputs=False, steps=16)
    whole = asked(engine, neuron={"h1": (2,)}, steps=16)
    np.testing.assert_allclose(values(bare) * (X - LOW), values(whole), rtol=1e-9)


def test_references_are_averaged(engine: Engine) -> None:
    both = asked(engine, neuron={"z2": (1,)}, baselines={"x": References(LOW[:2])})
    each = [values(asked(engine, neuron={"z2": (1,)}, baselines={"x": low})) for low in LOW[:2]]
    np.testing.assert_allclose(values(both), np.mean(each, axis=0), rtol=1e-9)
    assert np.isfinite(both.layers["x"].spread).all()


def test_several_targets_share_a_neuron(engine: Engine) -> None:
    both = engine.attribute(
        AttributionRequest("dense", {"x": X}, "neuron_conductance", targets=[0, 2], neuron={"h1": (3,)})
    )
    for k, target in enumerate((0, 2)):
        alone = asked(engine, neuron={"h1": (3,)}, target=target, baselines={})
        np.testing.assert_allclose(both.layers["x"].values[k], values(alone), rtol=1e-9)


@pytest.mark.parametrize("name", ["folded", "second", "alone"])
def test_rows_may_lie_anywhere(engine: Engine, name: str) -> None:
    """Blocks of rows, the second axis, one sample a run: all neurons with the first number share out the sum."""
    x = np.random.default_rng(9).normal(size=(2, 3, 4) if name == "second" else (3, 2, 4))
    changed: dict[str, Any] = {
        "name": name,
        "baselines": {},
        "steps": 8,
        "target": (0, 1) if name == "alone" else 1,
    }
    plain = values(asked(engine, "integrated_gradients", x, **changed))
    whole = [values(asked(engine, x=x, neuron={"h": (k,)}, **changed)) for k in range(2)]
    np.testing.assert_allclose(sum(whole), plain, rtol=1e-9, atol=1e-12)
    units = [values(asked(engine, x=x, neuron={"h": (-2, k)}, **changed)) for k in range(3)]
    np.testing.assert_allclose(sum(units), whole[0], rtol=1e-9, atol=1e-12)
    assert np.abs(units[0] - units[1]).max() > 1e-3


def test_a_hidden_source_leads_to_a_neuron(engine: Engine) -> None:
    plain = asked(engine, "integrated_gradients", source=["h1"], steps=8)
    parts = [asked(engine, source=["h1"], neuron={"h2": (k,)}, steps=8) for k in range(6)]
    np.testing.assert_allclose(sum(map(values, parts)), values(plain), rtol=1e-9)


def test_the_toys_of_the_papers_have_their_numbers(engine: Engine) -> None:
    """From 0 to (0, 100, 0): the first unit is on for nine tenths of the way."""
    changed: dict[str, Any] = {"name": "toy", "baselines": {}, "target": 0, "steps": 500}
    x = np.array([[0.0, 100, 0]])
    found = asked(engine, x=x, neuron={"z": (0,)}, **changed)
    np.testing.assert_allclose(values(found), [[0, 90, 0]], atol=0.11)  # a step of 500
    influence = asked(engine, "internal_influence", x, layers=["z"], **changed)
    np.testing.assert_allclose(values(influence), [[0.9, 1, 1, 1]], atol=1.1e-3)  # the same
    assert np.isnan(influence.layers["z"].residual).all()


def test_influence_on_the_source_is_integrated_gradients_without_the_difference(engine: Engine) -> None:
    found = asked(engine, "internal_influence", layers=["x", "h1"])
    bare = asked(engine, "integrated_gradients", multiply_by_inputs=False)
    np.testing.assert_allclose(values(found, "x"), values(bare), rtol=1e-9)
    assert found.layers["h1"].error_estimate.shape == (3,)


def test_influence_of_a_scaled_layer_shrinks_and_conductance_stays() -> None:
    """h_j -> 4 h_j with weights of a quarter behind it."""
    rng = np.random.default_rng(1)
    w, v, scale = rng.normal(size=(5, 4)), rng.normal(size=(4, 1)), np.array([4.0, 1, 1, 1])
    body = "(double[N,5] x) => (double[N,1] y) { h = MatMul(x, W) t = Tanh(h) s = Mul(t, scale) y = MatMul(s, v) }"
    with Engine(provider="cpu", threads=1) as engine:
        for name, factor in (("plain", np.ones(4)), ("scaled", scale)):
            engine.add(name, model(body, W=w, scale=factor, v=v / factor[:, None]))
        for method, by in (("internal_influence", scale), ("neuron_ig", np.ones(4))):
            plain, scaled = (
                values(asked(engine, method, name=name, layers=["s"], target=0))
                for name in ("plain", "scaled")
            )
            np.testing.assert_allclose(scaled * by, plain, rtol=1e-9)
        one, other = (
            values(asked(engine, name=name, neuron={"s": (0,)}, target=0)) for name in ("plain", "scaled")
        )
        np.testing.assert_allclose(one, other, rtol=1e-9)


# --- Refused

REFUSED: dict[str, tuple[dict[str, Any], type[AttributionError], str]] = {
    "no neuron": ({}, InvalidArgument, r"neuron_conductance is of a neuron; name its layer and its index"),
    "two layers": ({"neuron": {"h1": (1,), "h2": (1,)}}, InvalidArgument, "neuron is of one layer, not of 'h1', 'h2'"),
    "out of range": (
        {"neuron": {"h1": (7,)}}, InvalidArgument, r"the layer 'h1' has no neuron \[7\]; of one sample it has shape",
    ),
    "too many numbers": ({"neuron": {"h1": (1, 0)}}, InvalidArgument, r"the layer 'h1' has no neuron \[1, 0\]"),
    "no such layer": ({"neuron": {"h9": (1,)}}, NotFound, "no tensor or node 'h9'"),
    "half a neuron": ({"neuron": {"h1": (0.5,)}}, InvalidArgument, r"neuron of 'h1' is \(0.5,\)"),
    "before the source": (
        {"neuron": {"h1": (1,)}, "source": ["h2"]}, NotDifferentiable, "layer 'h1' does not lie between the source",
    ),
    "behind the target": (
        {"neuron": {"h2": (1,)}, "target": Target("h1", 0)}, NotDifferentiable, "layer 'h2' does not lie between",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_neurons_that_are_not_there_are_refused_by_name(engine: Engine, case: str) -> None:
    changed, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        asked(engine, **changed)


def test_nan_on_the_way_is_named_though_it_begins_behind_the_neuron() -> None:
    with Engine(provider="cpu", threads=1) as engine:
        engine.add(
            "roots", model("(double[N,3] x) => (double[N,3] y) { h = Neg(x) s = Sqrt(h) y = Mul(s, s) }")
        )
        asked = AttributionRequest(
            "roots", {"x": np.ones((1, 3))}, "neuron_conductance", target=1, neuron={"h": (1,)}
        )
        (words,) = [w for w in engine.attribute(asked).warnings if "attributions" in w]
        assert "NaN begins in the forward pass, at Sqrt (node" in words
