"""Sums over the positions of each channel: where channels lie, and what the sums are, of every method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.proto import requests
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import AttributionRequest, References, Target
from tests.method_names import METHODS, SOURCE_METHODS
from tests.methods.toys import model

RNG = np.random.default_rng(3)
W, B = RNG.normal(size=(4, 3, 3, 3)), RNG.normal(size=(4, 5))
L = RNG.normal(size=(4, 3, 3))
D, V = RNG.normal(size=(3, 6)), RNG.normal(size=(6, 5))

POOLED = """(float[N,3,6,7] x) => (float[N,5] y) {
    ww = Cast<to = 1>(W)
    bw = Cast<to = 1>(B)
    c = Conv<pads = [1,1,1,1]>(x, ww)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = MatMul(f, bw)
}"""
LINE = """(float[N,3,8] x) => (float[N,5] y) {
    lw = Cast<to = 1>(L)
    bw = Cast<to = 1>(B)
    c = Conv<pads = [1,1]>(x, lw)
    r = Tanh(c)
    t = Transpose<perm = [0,2,1]>(r)
    e = Exp(t)
    axes = Constant<value_ints = [1]>()
    s = ReduceMean<keepdims = 0>(e, axes)
    y = MatMul(s, bw)
}"""
TOKENS = """(double[N,4,3] x) => (double[N,5] y) {
    h = MatMul(x, D)
    t = Tanh(h)
    shape = Constant<value_ints = [-1, 6]>()
    flat = Reshape(t, shape)
    g = Tanh(flat)
    back = Constant<value_ints = [-1, 4, 6]>()
    b = Reshape(g, back)
    axes = Constant<value_ints = [1]>()
    s = ReduceSum<keepdims = 0>(b, axes)
    y = MatMul(s, V)
}"""
AHEAD = """(double[4,N,3] x) => (double[N,5] y) {
    h = MatMul(x, D)
    t = Tanh(h)
    axes = Constant<value_ints = [0]>()
    s = ReduceSum<keepdims = 0>(t, axes)
    y = MatMul(s, V)
}"""
ALONE = """(float[1,3,5] x) => (float[1,5] y) {
    lw = Cast<to = 1>(L)
    bw = Cast<to = 1>(B)
    h = Conv<pads = [1,1]>(x, lw)
    a = Tanh(h)
    k = Softmax<axis = 0>(a)
    m = Add(a, k)
    s = GlobalAveragePool(m)
    f = Flatten(s)
    y = MatMul(f, bw)
}"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("pooled", model(POOLED, W=W, B=B))
        made.add("line", model(LINE, L=L, B=B))
        made.add("tokens", model(TOKENS, D=D, V=V))
        made.add("ahead", model(AHEAD, D=D, V=V), batch_axes={"x": 1})
        made.add("alone", model(ALONE, L=L, B=B))
        yield made


def points(name: str, *shape: int) -> NDArray[np.floating]:
    """Convolutions run in float32 only."""
    kind = np.float64 if name in ("tokens", "ahead") else np.float32
    return np.random.default_rng(5).normal(size=shape).astype(kind)


def assert_near(found: Any, wanted: Any, name: str = "pooled") -> None:
    exact = name in ("tokens", "ahead")
    np.testing.assert_allclose(found, wanted, rtol=1e-9 if exact else 2e-5, atol=1e-12 if exact else 2e-6)


def test_behind_a_global_average_they_are_the_weights_of_the_class(engine: Engine) -> None:
    labels = [4, 0, 2]
    request = AttributionRequest(
        "pooled",
        {"x": points("pooled", 3, 3, 6, 7)},
        "gradient",
        ["r"],
        target=Target(index=labels),
        channel_sums="auto",
    )
    found = engine.attribute(request).layers["r"]
    assert found.values.shape == (3, 4)
    assert_near(found.values, B[:, labels].T)
    assert_near(found.sum, B[:, labels].sum(axis=0))


@pytest.mark.parametrize(
    ("name", "shape", "layer", "axis"),
    [
        ("pooled", (3, 3, 6, 7), "c", 1),
        ("pooled", (3, 3, 6, 7), "x", 1),
        ("pooled", (3, 3, 6, 7), "f", 1),
        ("line", (3, 3, 8), "x", 1),
        ("line", (3, 3, 8), "r", 1),
        ("line", (3, 3, 8), "e", 2),  # the Transpose moves them
        ("line", (3, 3, 8), "s", 1),
        ("tokens", (3, 4, 3), "t", 2),
        ("tokens", (3, 4, 3), "g", 2),  # [N * tokens, units]
        ("tokens", (3, 4, 3), "s", 1),
        ("ahead", (4, 3, 3), "t", 2),  # [tokens, N, units]
        ("alone", (3, 3, 5), "a", 2),  # a sample is [1, units, positions]
    ],
)
@pytest.mark.parametrize("method", ["gradient", "gradient_x_activation", "neuron_ig"])
def test_channels_lie_where_operators_have_them(
    engine: Engine, name: str, shape: tuple[int, ...], layer: str, axis: int, method: str
) -> None:
    given: dict[str, Any] = {"steps": 4} if method == "neuron_ig" else {}
    request = AttributionRequest(
        name, {"x": points(name, *shape)}, method, [layer], target=[1, 2, 3], **given
    )
    whole = engine.attribute(request)
    values = whole.layers[layer].values
    values = values if name != "alone" or values.ndim == 4 else values[:, None]
    others = tuple(k for k in range(1, values.ndim) if k != axis)
    for told in ("auto", axis, axis - values.ndim):
        if name == "alone" and told != "auto":
            continue
        found = engine.attribute(request.changed(channel_sums=told))
        assert_near(found.layers[layer].values, values.sum(axis=others), name)
        assert_near(found.layers[layer].sum, whole.layers[layer].sum, name)
        assert found.warnings == whole.warnings


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_them(engine: Engine, method: str) -> None:
    layer = "x" if method in SOURCE_METHODS else "r"
    given: dict[str, Any] = {"steps": 4, "baselines": {"x": References(points("line", 2, 3, 8))}}
    request = AttributionRequest(
        "line", {"x": points("line", 2, 3, 8)}, method, [layer], targets=[1, [0, 2]], **given
    )
    whole, found = engine.attribute(request), engine.attribute(request.changed(channel_sums="auto"))
    wanted = whole.layers[layer].values.sum(axis=3)
    assert_near(found.layers[layer].values, wanted)
    for field in ("sum", "residual"):
        assert_near(getattr(found.layers[layer], field), getattr(whole.layers[layer], field))


def test_of_gradients_nothing_else_leaves_the_program() -> None:
    network = LoadedModel(model(POOLED, W=W, B=B), Backend("cpu")).network
    program = rows_program(
        network, Choice(("x",), ("c",), "y"), activations=False, totals="gradient", channels={"c": 1}
    )
    assert program.outputs == ("target/value", "channels/c")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"channel_sums": 4},
            r"the layer 'c' has 4 axes with its samples in front, and no axis of channels 4",
        ),
        ({"channel_sums": -4}, "no axis of channels -4"),
        ({"channel_sums": 0}, "channel_sums is"),
        ({"channel_sums": True}, "channel_sums is"),
        ({"channel_sums": "first"}, "channel_sums is"),
        ({"channel_sums": "auto", "sums_only": True}, "sums_only or channel_sums, not both"),
    ],
)
def test_axes_that_are_not_there_are_refused(engine: Engine, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        engine.attribute(
            AttributionRequest(
                "pooled", {"x": points("pooled", 2, 3, 6, 7)}, "gradient", ["c"], target=1, **given
            )
        )


@pytest.mark.parametrize("told", [None, "auto", 2, -1])
def test_the_wire_has_them(told: Any) -> None:
    request = AttributionRequest("m", {"x": points("pooled", 2, 3)}, "gradient", channel_sums=told)
    found = requests.from_request(requests.to_request(request))
    assert found.channel_sums == told
    assert found == request
