"""Targets behind a final activation: the advice to take the logit, the way to it, and mean-centred classes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, Target
from tests.method_names import METHODS
from tests.methods.toys import explain, model, values

W = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [-1.0, -3.0]])
X = np.ones((1, 4))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


def lift(
    engine: Engine, nodes: str, target: Target | None = None, method: str = "deeplift_rescale"
) -> Attribution:
    net = model(f"(double[N,4] x) => (double[N,2] y) {{ logits = MatMul(x, W) {nodes} }}", W=W)
    return explain(engine, net, {"x": X}, method, target=target or Target(index=0))


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Softmax(logits)",
        "y = LogSoftmax(logits)",
        "y = Sigmoid(logits)",
        "p = Softmax(logits) y = Identity(p)",
    ],
)
def test_a_final_activation_is_recognised_and_the_logit_recommended(engine: Engine, nodes: str) -> None:
    answer = lift(engine, nodes)
    (advice,) = [w for w in answer.warnings if "logit" in w]
    assert "'logits'" in advice
    assert "saturates" in advice
    moved = lift(engine, nodes, Target(index=0, logit=True))
    assert moved.target.tensor == "logits"
    assert not any("logit" in w for w in moved.warnings)
    np.testing.assert_allclose(values(moved), [W[:, 0]], rtol=1e-12)


def test_other_targets_get_no_advice_and_have_no_logit(engine: Engine) -> None:
    assert lift(engine, "y = Tanh(logits)").warnings == ()
    with pytest.raises(InvalidArgument, match="not made by a Softmax"):
        lift(engine, "y = Tanh(logits)", Target(index=0, logit=True))


@pytest.mark.parametrize(("index", "expected"), [(0, [0, 0.5, -0.5, 1]), (1, [0, -0.5, 0.5, -1])])
def test_mean_centring_has_the_authors_example(engine: Engine, index: int, expected: list[float]) -> None:
    """Issue 116 of kundajelab/deeplift: {1,1,0,-1} and {1,0,1,-3}; the mean is over classes, for each feature."""
    target = Target(index=index, logit=True, mean_centred=True)
    answer = lift(engine, "y = Softmax(logits)", target)
    np.testing.assert_allclose(values(answer), [expected], atol=1e-12)
    np.testing.assert_allclose(answer.layers["x"].residual, 0, atol=1e-12)


def test_a_vector_added_to_all_logits_changes_nothing_that_is_mean_centred(engine: Engine) -> None:
    net = "(double[N,4] x) => (double[N,3] y) { z = MatMul(x, A) h = Relu(z) y = MatMul(h, V) }"
    rng = np.random.default_rng(2)
    a, v, added = rng.normal(size=(4, 5)), rng.normal(size=(5, 3)), rng.normal(size=(5, 1))
    x = rng.normal(size=(3, 4))
    target = Target(index=1, mean_centred=True)
    found = [
        values(explain(engine, model(net, A=a, V=w), {"x": x}, "deeplift_rescale", target=target))
        for w in (v, v + added)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)


def test_softmax_itself_sums_and_shifts_of_logits_get_nothing(engine: Engine) -> None:
    answer = lift(engine, "y = Softmax(logits)")
    np.testing.assert_allclose(answer.layers["x"].residual, 0, atol=1e-12)


CLASSES = """(double[N,4] x) => (int64[N] label, seq(map(int64, float)) chances) {
    logits = MatMul(x, W)
    p = Softmax(logits)
    label = ArgMax<axis = 1, keepdims = 0>(p)
    narrow = Cast<to = 1>(p)
    chances = ai.onnx.ml.ZipMap<classlabels_int64s = [0, 1]>(narrow)
}"""


@pytest.mark.parametrize("method", METHODS)
def test_a_classifier_of_labels_and_maps_is_explained_by_the_scores_before_them(
    engine: Engine, method: str
) -> None:
    net = model(CLASSES, W=W)
    net.opset_import.add(domain="ai.onnx.ml", version=3)
    answer = explain(engine, net, {"x": X}, method)
    z = X @ W
    chances = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    assert answer.target.tensor in ("p", "narrow")
    assert f"no output holds floats; the target is {answer.target.tensor!r}" in answer.warnings
    np.testing.assert_allclose(answer.target.value, chances.max(axis=1), rtol=1e-6)  # of float32
    scores = explain(engine, net, {"x": X}, method, target=Target(index=0, logit=True))
    assert scores.target.tensor == "logits"
    np.testing.assert_allclose(scores.target.value, z[:, 0], rtol=1e-12)
