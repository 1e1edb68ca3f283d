"""The importance of units per class: against its definition in numpy, finite differences, and from a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.client import AsyncClient, Client
from onnx_attribution.errors import AttributionError, InvalidArgument, NotFound
from onnx_attribution.importance import Importance
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from tests.methods.toys import Floats, model

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]
RNG = np.random.default_rng(7)
D, V = RNG.normal(size=(3, 6)), RNG.normal(size=(6, 5))
W, B = RNG.normal(size=(4, 3, 3, 3)), RNG.normal(size=(4, 5))

TOKENS = """(double[N,4,3] x) => (double[N,5] y) {
    h = MatMul(x, D)
    t = Tanh(h)
    axes = Constant<value_ints = [1]>()
    s = ReduceSum<keepdims = 0>(t, axes)
    u = Tanh(s)
    z = MatMul(u, V)
    y = Softmax<axis = 1>(z)
}"""
POOLED = """(float[N,3,6,7] x) => (float[N,5] y) {
    w = Cast<to = 1>(W)
    b = Cast<to = 1>(B)
    c = Conv<pads = [1,1,1,1]>(x, w)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = MatMul(f, b)
}"""
MAP = "(double[N,4,3] x) => (double[N,4,6] y) { h = Tanh(x) y = MatMul(h, D) }"
TWO = """(double[N,3] a, double[N,3] b) => (double[N,5] y) {
    h = Mul(a, b)
    t = MatMul(h, D)
    u = Tanh(t)
    y = MatMul(u, V)
}"""
WIDE = """(float[N,3,6,7] x) => (float[N,5,1,1] y) {
    w = Cast<to = 1>(W)
    k = Cast<to = 1>(K)
    c = Conv<pads = [1,1,1,1]>(x, w)
    r = Relu(c)
    p = GlobalAveragePool(r)
    y = Conv(p, k)
}"""
ALONE = """(double[1,3] x) => (double[1,5] y) {
    t = MatMul(x, D)
    u = Tanh(t)
    m = Softmax<axis = 0>(u)
    s = Mul(u, m)
    y = MatMul(s, V)
}"""
LABELS = """(double[N,3] x) => (int64[N] y) {
    t = MatMul(x, D)
    u = Tanh(t)
    z = MatMul(u, V)
    y = ArgMax<axis = 1, keepdims = 0>(z)
}"""


@pytest.fixture(scope="module")
def engine(digits_path: Path, digits_fixed_path: Path) -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("tokens", model(TOKENS, D=D, V=V))
        made.add("pooled", model(POOLED, W=W, B=B))
        made.add("wide", model(WIDE, W=W, K=B.T[:, :, None, None]))
        made.add("labels", model(LABELS, D=D, V=V))
        made.add("alone", model(ALONE, D=D, V=V))
        made.add("map", model(MAP, D=D))
        made.add("two", model(TWO, D=D, V=V))
        made.add("digits", digits_path)
        made.add("fixed", digits_fixed_path)
        yield made


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    with app.background(engine, Settings(port=0, max_samples=64)) as (address, _):
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def points(*shape: int) -> Floats:
    return np.random.default_rng(5).normal(size=shape)


def assert_same(found: Importance, wanted: Importance) -> None:
    for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def logits(x: Floats, t: Floats | None = None) -> Floats:
    t = np.tanh(x @ D) if t is None else t
    return np.asarray(np.tanh(t.sum(axis=-2)) @ V)


def test_it_is_the_definition_of_the_logit_behind_a_softmax(engine: Engine) -> None:
    x, labels = points(300, 4, 3), np.arange(300) % 5
    found = engine.importance("tokens", x, labels, layer="t")
    s = np.tanh(x @ D).sum(axis=1)
    wanted = 4 * (1 - np.tanh(s) ** 2) * V[:, labels].T  # the gradient is the same at each of 4 tokens
    assert (found.layer, found.target) == ("t", "z")
    assert found.alpha.dtype == np.float64
    np.testing.assert_allclose(found.alpha, wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.classes.tolist() == [0, 1, 2, 3, 4]
    assert found.count.tolist() == [60] * 5
    for row, label in enumerate(found.classes):
        own = wanted[labels == label]
        np.testing.assert_allclose(found.mean[row], own.mean(axis=0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.std[row], own.std(axis=0), rtol=1e-9, atol=1e-12)


def test_it_is_the_slope_of_the_logit_as_a_unit_rises_everywhere(engine: Engine) -> None:
    x, labels = points(3, 4, 3), [1, 4, 0]
    found = engine.importance("tokens", x, labels, layer="h")
    h, step = x @ D, 1e-5
    for k in range(6):
        moved = np.zeros(6)
        moved[k] = step
        high, low = (logits(x, np.tanh(h + sign * moved))[np.arange(3), labels] for sign in (1, -1))
        np.testing.assert_allclose(found.alpha[:, k], (high - low) / (2 * step), rtol=1e-6, atol=1e-8)


def test_behind_a_global_average_it_is_the_weights_of_the_class(engine: Engine) -> None:
    x, labels = points(7, 3, 6, 7).astype(np.float32), [3, 3, 0, 1, 4, 2, 0]
    found = engine.importance("pooled", {"x": x}, labels, layer="r")
    np.testing.assert_allclose(found.alpha, B[:, labels].T, rtol=1e-5, atol=1e-6)  # convolutions are float32
    np.testing.assert_allclose(found.mean, B.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.std, 0, atol=1e-6)
    assert found.target == "y"


def test_without_logit_it_is_of_the_probability(engine: Engine) -> None:
    x, labels = points(5, 4, 3), [1, 4, 0, 2, 2]
    found = engine.importance("tokens", x, labels, layer="u", logit=False)
    z = logits(x)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    wanted = p[np.arange(5), labels, None] * (V[:, labels].T - p @ V.T)
    np.testing.assert_allclose(found.alpha, wanted, rtol=1e-9, atol=1e-12)
    assert found.target == "y"
    assert any("saturates" in words for words in found.warnings)
    assert_same(
        engine.importance("tokens", x, labels, layer="u", target="z"),
        engine.importance("tokens", x, labels, layer="u"),
    )


def test_another_axis_may_be_that_of_the_units(engine: Engine) -> None:
    x, labels = points(5, 4, 3), [1, 4, 0, 2, 2]
    found = engine.importance("tokens", x, labels, layer="t", channels=1)
    s = np.tanh(x @ D).sum(axis=1)
    wanted = ((1 - np.tanh(s) ** 2) * V[:, labels].T).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.alpha, np.repeat(wanted, 4, axis=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_scores_may_have_axes_of_one_element(engine: Engine, samples: int) -> None:
    x, labels = points(samples, 3, 6, 7).astype(np.float32), [3, 0, 1, 4, 2][:samples]
    found = engine.importance("wide", x, labels, layer="r")
    np.testing.assert_allclose(found.alpha, B[:, labels].T, rtol=1e-5, atol=1e-6)  # as above


def test_scores_before_an_output_of_labels_are_taken(engine: Engine, client: Client) -> None:
    x, labels = points(5, 3), [3, 0, 1, 4, 2]
    found = engine.importance("labels", x, labels, layer="u")
    np.testing.assert_allclose(found.alpha, V[:, labels].T, rtol=1e-12)
    assert found.target == "z"
    assert_same(client.importance("labels", x, labels, layer="u"), found)
    with pytest.raises(InvalidArgument, match=r"labels\[1\] is 5"):
        engine.importance("labels", x, [0, 5, 0, 0, 0], layer="u")


def test_samples_that_cannot_share_a_run_are_measured_one_by_one(engine: Engine, client: Client) -> None:
    x, labels = points(70, 3), np.arange(70) % 5
    found = engine.importance("alone", x, labels, layer="u")
    np.testing.assert_allclose(
        found.alpha, V[:, labels].T, rtol=1e-12
    )  # the Softmax is over one sample, and 1
    assert_same(client.importance("alone", x, labels, layer="u"), found)


def test_a_batch_takes_a_part_of_the_memory(digits_path: Path, digits_data: Digits) -> None:
    told = list[int]()
    with Engine(
        provider="cpu", threads=1, memory_budget=64 * 256 * 4
    ) as engine:  # bytes of 64 images, four times
        engine.add("digits", digits_path)
        engine.importance(
            "digits", digits_data[0][:200], digits_data[1][:200], layer="dense1",
            progress=lambda done, _: told.append(done),
        )  # fmt: skip
    assert told == [64, 128, 192, 200]


@pytest.mark.parametrize("labels", [[1, 0, 4], np.eye(5)[[1, 0, 4]], np.array([[1.0], [0.0], [4.0]])])
def test_labels_may_be_one_hot_rows(engine: Engine, labels: Any) -> None:
    x = points(3, 4, 3)
    found = engine.importance("tokens", x, labels, layer="t")
    assert_same(found, engine.importance("tokens", x, [1, 0, 4], layer="t"))


def test_batches_are_as_the_whole_and_are_told(
    digits_path: Path, digits_data: Digits, client: Client
) -> None:
    """With memory for a few rows a run, and 64 samples a message of the server."""
    images, labels = digits_data
    told = list[tuple[int, int]]()
    with Engine(provider="cpu", threads=1, memory_budget=1 << 20) as engine:
        engine.add("digits", digits_path)
        here = engine.importance(
            "digits", images, labels, layer="conv2", progress=lambda *done: told.append(done)
        )
    assert told == [(256, 360), (360, 360)]
    assert here.alpha.shape == (360, 32)
    there = client.importance(
        "digits", images, labels, layer="conv2", progress=lambda *done: told.append(done)
    )
    assert told[-1] == (360, 360)
    assert len(told) == 2 + 6
    np.testing.assert_allclose(there.alpha, here.alpha, rtol=1e-4, atol=1e-5)  # of float32, in other runs


@pytest.mark.parametrize("name", ["digits", "fixed"])
async def test_a_server_gives_what_the_engine_does(
    engine: Engine, client: Client, address: str, digits_data: Digits, name: str
) -> None:
    images, labels = digits_data[0][:40], digits_data[1][:40]
    here = engine.importance(name, images, labels, layer="dense1")
    assert_same(client.importance(name, {"image": images}, labels, layer="dense1"), here)
    async with AsyncClient(address) as other:
        assert_same(await other.importance(name, images, labels, layer="dense1"), here)


def test_several_inputs_go_sample_by_sample(engine: Engine, client: Client) -> None:
    a, b, labels = points(70, 3), points(71, 3)[1:], np.arange(70) % 5
    here = engine.importance("two", {"a": a, "b": b}, labels, layer="h")
    u = np.tanh((a * b) @ D)
    np.testing.assert_allclose(here.alpha, ((1 - u**2) * V[:, labels].T) @ D.T, rtol=1e-9, atol=1e-12)
    assert_same(client.importance("two", {"a": a, "b": b}, labels, layer="h"), here)


@pytest.mark.parametrize("remote", [False, True], ids=["engine", "client"])
@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("tokens", {"labels": [0, 1]}, "3 samples and 2 labels"),
        ("tokens", {"labels": [0, 1, 5]}, r"labels\[2\] is 5; the output has the classes 0 to 4"),
        ("tokens", {"labels": np.eye(6)[:3]}, "6 columns, and the output has 5 classes"),
        ("tokens", {"layer": "*"}, "importance is of one layer"),
        ("tokens", {"layer": "s", "channels": 2}, "the layer 's' has 2 axes"),
        ("tokens", {"logit": True, "target": "u"}, "has no logit"),
        ("tokens", {"target": "t"}, r"'t' has shape \[4, 6\] of one sample"),
        ("map", {}, r"'y' has shape \[4, 6\] of one sample"),
        ("two", {}, "give a dict of arrays by name"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    engine: Engine, client: Client, remote: bool, name: str, given: dict[str, Any], words: str
) -> None:
    asked: dict[str, Any] = {"labels": [0, 1, 2], "layer": "h", **given}
    with pytest.raises(InvalidArgument, match=words):
        (client if remote else engine).importance(name, points(3, 4, 3), **asked)


def test_inputs_of_different_lengths_are_refused(engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="different numbers of samples: 'a': 4, 'b': 3"):
        engine.importance("two", {"a": points(4, 3), "b": points(3, 3)}, [0] * 4, layer="h")


@pytest.mark.parametrize("remote", [False, True], ids=["engine", "client"])
def test_a_refusal_names_the_samples_that_it_is_about(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    """The batch that fails is not the first."""
    plain = Engine.stream

    def stream(self: Engine, request: Any, **options: Any) -> Any:
        if request.inputs["x"][-1, 0, 0] == 9:
            raise InvalidArgument("nine")
        return plain(self, request, **options)

    monkeypatch.setattr(Engine, "stream", stream)
    x = points(300, 4, 3)
    x[299, 0, 0] = 9
    with pytest.raises(AttributionError, match="samples 256 to 299: nine"):
        (client if remote else engine).importance("tokens", x, np.zeros(300, np.int64), layer="h")


def test_an_unknown_layer_is_not_found(engine: Engine, client: Client) -> None:
    for asked in (engine, client):
        with pytest.raises(NotFound, match="nowhere"):
            asked.importance("tokens", points(3, 4, 3), [0, 1, 2], layer="nowhere")
