"""Methods with rules of their own, as requests: layers, hidden targets, several targets, residuals, files, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_attribution.errors import InvalidArgument, NotDifferentiable
from onnx_attribution.methods import Lrp, make
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto.method_messages import from_method, to_method
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.standalone import Standalone, standalone_model
from onnx_attribution.values import Attribution, AttributionRequest, Target
from tests.methods.toys import Floats, model

RNG = np.random.default_rng(0)
W, U, V = RNG.normal(size=(4, 5)), RNG.normal(size=(5, 4)), RNG.normal(size=(4, 3))
B, C = RNG.normal(size=5), RNG.normal(size=3)
X = RNG.normal(size=(3, 4))
TABLES = ["guided_backprop", "deconvnet", "rectgrad", "lrp"]


def net() -> onnx.ModelProto:
    """Two ways that meet, and a softmax behind the scores."""
    return model(
        """(double[N,4] x) => (double[N,3] p) {
            a = Gemm(x, w, b) h = Relu(a) m = MatMul(h, u) k = Relu(m) s = Add(k, x) y = Gemm(s, v, c) p = Softmax(y)
        }""",
        w=W, u=U, v=V, b=B, c=C,
    )  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("net", net())
        yield made


def ask(engine: Engine, method: str, **given: Any) -> Attribution:
    given = {"target": Target("y", 1), **given} if "targets" not in given else given
    return engine.attribute(AttributionRequest("net", {"x": X}, method, **given))


def numbers(answer: Attribution, name: str = "x") -> Floats:
    """The attributions of a layer."""
    return np.asarray(answer.layers[name].values, np.float64)


def forward(x: Floats) -> dict[str, Floats]:
    h = np.maximum(x @ W + B, 0)
    k = np.maximum(h @ U, 0)
    return {"x": x, "h": h, "k": k, "s": k + x, "y": (k + x) @ V + C}


def lrp_of(x: Floats, index: int) -> dict[str, Floats]:
    """The relevance of each tensor, epsilon towards 0."""
    at = forward(x)
    s = at["s"] * V[:, index]
    k, direct = (s * part / at["s"] for part in (at["k"], at["x"]))
    ratio = np.where(at["k"] > 0, k / np.where(at["k"] > 0, at["k"], 1), 0)
    h = at["h"] * (ratio @ U.T)
    z = x @ W + B
    through = x * (np.where(z > 0, h / np.where(z > 0, z, 1), 0) @ W.T)
    return {"x": through + direct, "h": h, "k": k, "s": s}


def test_lrp_of_every_layer_is_that_of_the_definition(engine: Engine) -> None:
    answer = ask(engine, "lrp", layers=["x", "h", "k", "s"])
    for name, wanted in lrp_of(X, 1).items():
        np.testing.assert_allclose(numbers(answer, name), wanted, rtol=1e-6, atol=1e-9)


def test_a_layer_has_the_same_relevance_whatever_else_is_asked_for(engine: Engine) -> None:
    together = ask(engine, "lrp", layers=["x", "h", "k", "s"], rule="zplus")
    for name in ("x", "h", "k", "s"):
        alone = numbers(ask(engine, "lrp", layers=[name], rule="zplus"), name)
        np.testing.assert_allclose(alone, numbers(together, name), rtol=1e-12)


def test_the_residual_is_what_biases_take(engine: Engine) -> None:
    answer = ask(engine, "lrp", layers=["s"])
    np.testing.assert_allclose(answer.layers["s"].residual, -np.full(3, C[1]), rtol=1e-6)
    value = forward(X)["y"][:, 1]
    answer = ask(engine, "lrp", layers=["x"])
    np.testing.assert_allclose(answer.layers["x"].residual, lrp_of(X, 1)["x"].sum(axis=1) - value, rtol=1e-6)
    assert answer.warnings == ask(engine, "gradient", layers=["x"]).warnings


@pytest.mark.parametrize("method", TABLES)
def test_each_of_several_targets_has_the_numbers_that_it_has_alone(engine: Engine, method: str) -> None:
    targets = [Target("y", 0), Target("y", [2, 1, 0]), Target("k", 3), Target("y", 1, minus=2)]
    together = ask(engine, method, targets=targets, layers=["x"])
    for k, target in enumerate(targets):
        alone = numbers(ask(engine, method, target=target, layers=["x"]), "x")
        np.testing.assert_allclose(numbers(together, "x")[k], alone, rtol=1e-12)


@pytest.mark.parametrize("method", TABLES)
def test_samples_have_the_numbers_that_they_have_alone(engine: Engine, method: str) -> None:
    together = ask(engine, method, layers=["x", "h"])
    for k in range(3):
        request = AttributionRequest("net", {"x": X[k : k + 1]}, method, ["x", "h"], target=Target("y", 1))
        alone = engine.attribute(request)
        for name in ("x", "h"):
            np.testing.assert_allclose(numbers(alone, name)[0], numbers(together, name)[k], rtol=1e-12)


def test_a_hidden_neuron_is_a_target_as_an_output_is(engine: Engine) -> None:
    found = numbers(ask(engine, "guided_backprop", target=Target("k", 2)), "x")
    h = forward(X)["h"]
    passed = np.maximum((forward(X)["k"][:, 2:3] > 0) * U[:, 2], 0) * (h > 0)
    np.testing.assert_allclose(found, passed @ W.T, rtol=1e-9)


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet", "rectgrad"])
def test_a_network_without_a_rectifier_is_said_to_have_none(engine: Engine, method: str) -> None:
    body = "(double[N,4] x) => (double[N,3] y) { a = MatMul(x, w) h = Tanh(a) y = MatMul(h, v) }"
    engine.add("smooth", model(body, w=W, v=np.ones((5, 3))))
    request = AttributionRequest("smooth", {"x": X}, method, target=Target(index=0))
    words = f"no rectifier (Relu, Clip from 0) leads to 'y': {method} is the gradient there"
    assert words in engine.attribute(request).warnings
    assert not any("rectifier" in one for one in ask(engine, method).warnings)


def test_the_logit_of_a_softmax_is_explained_and_the_softmax_is_refused(engine: Engine) -> None:
    logit = numbers(ask(engine, "lrp", target=Target("p", 1, logit=True)), "x")
    np.testing.assert_allclose(logit, numbers(ask(engine, "lrp"), "x"), rtol=1e-12)
    with pytest.raises(NotDifferentiable, match=r"LRP has no rule for Softmax .*logit=True"):
        ask(engine, "lrp", target=Target("p", 1))


def test_rules_by_name_hold_for_nodes_tensors_and_operators(engine: Engine) -> None:
    plain = numbers(ask(engine, "lrp", rule="zplus"), "x")
    named = numbers(ask(engine, "lrp", rules="y=zplus; MatMul=zplus; a = zplus"), "x")
    np.testing.assert_allclose(named, plain, rtol=1e-12)
    assert not np.allclose(plain, numbers(ask(engine, "lrp"), "x"))


def test_a_name_that_nothing_has_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="lrp names 'conv1', and no node, tensor or operator"):
        ask(engine, "lrp", rules="conv1=zplus")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no rule": ({"rules": "a=zeta"}, "'a=zeta', which is not NAME=RULE"),
    "no name": ({"rules": "zplus"}, "'zplus', which is not NAME=RULE"),
    "no number": ({"rules": "a=gamma(-1)"}, "whose number is none from 0 up"),
    "a number too many": ({"rules": "a=zplus(1)"}, "which is not NAME=RULE"),
    "alpha without beta": ({"alpha": 3.0}, "alpha less beta is 1, not 2"),
    "a box without bounds": ({"first": "box"}, "box needs low and high"),
    "a composite with a box": ({"composite": "epsilon_gamma_box"}, "box needs low and high"),
    "a box the wrong way": ({"rule": "box", "low": 1.0, "high": 0.0}, "box needs low and high"),
    "two rules": ({"rule": "zplus", "composite": "epsilon_plus"}, "leave rule out"),
    "Captum's alpha": ({"rule": "alpha_beta", "form": "captum"}, "alpha 1 and beta 0 only"),
}


@pytest.mark.parametrize("name", WRONG)
def test_parameters_that_contradict_each_other_are_refused(name: str) -> None:
    given, words = WRONG[name]
    with pytest.raises(InvalidArgument) as caught:
        make("lrp", given)
    assert words in caught.value.message


def test_numbers_of_a_rule_that_is_named_are_read() -> None:
    found = Lrp(rules="a=gamma(0.5); b/c=d=epsilon(1e-3);").by_name()
    assert found == [("a", "gamma", 0.5), ("b/c=d", "epsilon", 1e-3)]


def test_rules_travel_as_they_are() -> None:
    message = pb.AttributeRequest()
    given = Lrp(
        composite="epsilon_gamma_box", low=-1.0, high=2.5, epsilon=1e-3, rules="a=identity", form="captum"
    )
    to_method(given, message)
    assert from_method(message) == given
    for method in TABLES:
        to_method(make(method), message)
        assert from_method(message) == make(method)


@pytest.mark.parametrize("method", TABLES)
def test_a_file_attributes_as_the_engine_does(engine: Engine, method: str) -> None:
    wish = Standalone(make(method), ["x"], ["x"], Target("y", 1))
    built = standalone_model(LoadedModel(net(), Backend("cpu", 1)), wish).model
    session = onnxruntime.InferenceSession(built.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    wanted = numbers(ask(engine, method), "x")
    size = 1 if method == "rectgrad" else 3  # a quantile is of one sample
    for k in range(0, 3, size):
        found = session.run(["attribution/x"], {name: X[k : k + size] for name in names if name == "x"})[0]
        np.testing.assert_allclose(found, wanted[k : k + size], rtol=1e-9)


@pytest.mark.parametrize("of", TABLES)
def test_noise_is_averaged_over_any_of_them(engine: Engine, of: str) -> None:
    found = numbers(ask(engine, "smoothgrad", of=of, stdev=0.0, draws=2), "x")
    np.testing.assert_allclose(found, numbers(ask(engine, of), "x"), rtol=1e-9)


def chain(depth: int, size: int) -> onnx.ModelProto:
    """Layers of random weights with Relu between."""
    rng = np.random.default_rng(1)
    weights = {f"w{k}": rng.normal(size=(size, size)) / np.sqrt(size) for k in range(depth)}
    lines = [f"a{k} = MatMul({'x' if k == 0 else f'h{k - 1}'}, w{k}) h{k} = Relu(a{k})" for k in range(depth)]
    return model(
        f"(double[N,{size}] x) => (double[N,{size}] h{depth - 1}) {{ {' '.join(lines)} }}", **weights
    )


def test_two_beginnings_become_alike_by_zplus_and_not_by_the_gradient(engine: Engine) -> None:
    """What a test of convergence needs: two targets of random weights at one tensor, and the layers before it."""
    size, depth = 48, 6
    engine.add("chain", chain(depth, size))
    rng = np.random.default_rng(2)
    top, layers = f"h{depth - 1}", [f"h{k}" for k in range(depth - 1)]
    targets = [Target(top, rng.normal(size=size)) for _ in range(2)]
    x = {"x": np.abs(rng.normal(size=(1, size)))}

    def apart(method: str, **given: Any) -> list[float]:
        """1 - |cosine| of the two, layer by layer back."""
        answer = engine.attribute(AttributionRequest("chain", x, method, layers, targets=targets, **given))
        found = []
        for name in reversed(layers):
            one, other = numbers(answer, name)[:, 0]
            found.append(1 - abs(one @ other) / np.linalg.norm(one) / np.linalg.norm(other))
        return found

    zplus, gradient = apart("lrp", rule="zplus"), apart("gradient")
    assert zplus[0] > 1e-3
    assert zplus[-1] < 1e-3 * zplus[0]
    assert min(gradient) > 0.5
