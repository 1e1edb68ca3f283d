"""Channels are the same axis wherever they are spoken of: in the neurons of a report and in ablation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnx_attribution.client.audit.ablation import ablation
from onnx_attribution.client.audit.ranks import channels_axis
from onnx_attribution.client.audit.records import channels_of
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import LayerInfo
from tests.methods.toys import model

RNG = np.random.default_rng(2)
Shape = tuple[int | str | None, ...] | None


@pytest.mark.parametrize(
    ("unit", "shape", "axis", "wanted"),
    [
        ((7,), ("N", 7), 1, 0),
        ((4, 30), ("N", 4, 30), 1, 0),
        ((9, 16), ("N", "tokens", 16), 2, 1),
        ((9, 16), ("tokens", "N", 16), 2, 1),  # recurrent layers have their samples on axis 1
        ((9, 16), (9, "N", 16), 2, 1),
        ((9, 16), (9, 1, 16), 2, 1),
        ((8, 14, 14), ("N", 8, 14, 14), 1, 0),
        ((14, 14, 8), ("N", 14, 14, 8), 3, 2),
        ((1, 8, 14, 14), (1, 8, 14, 14), 1, 1),  # run one by one
        ((16, 9), (16, 9, "N"), 0, 0),
        ((4, 30), None, None, 1),  # nothing is known
        ((4, 5, 5), None, None, 0),
        ((7,), None, None, 0),
    ],
)
def test_channels_of_a_sample_lie_where_the_operators_of_the_layer_have_them(
    unit: tuple[int, ...], shape: Shape, axis: int | None, wanted: int
) -> None:
    layer = (
        None if shape is None else LayerInfo("h", "", "Relu", "float32", shape, cut=True, channel_axis=axis)
    )
    assert channels_axis(unit, layer) == wanted
    values = np.asarray(RNG.normal(size=unit), np.float64)
    sums, strongest, maps = channels_of(values, layer)
    expected = np.sum(values, axis=tuple(axis for axis in range(len(unit)) if axis != wanted))
    np.testing.assert_allclose(sums.astype(np.float64), expected, rtol=1e-5, atol=1e-6)
    order = np.argsort(-np.abs(sums), kind="stable")[: len(strongest)]
    np.testing.assert_array_equal(strongest, order)
    first = np.moveaxis(values, wanted, 0)[order[0]]
    np.testing.assert_allclose(maps[0].astype(np.float64).ravel(), first.ravel(), rtol=1e-6)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


@pytest.mark.parametrize(
    ("text", "shape", "layer", "groups"),
    [
        ("(float[N,4,30] x) => (float[N,4] y) { h = Relu(x) y = ReduceSum<keepdims = 0>(h, last) }",
         (2, 4, 30), "h", 4),
        ("(float[N,T,6] x) => (float[N,6] y) { h = Relu(x) y = ReduceSum<keepdims = 0>(h, first) }",
         (2, 9, 6), "h", 6),
        ("(float[N,8,8,3] x) => (float[N,3] y) { h = Relu(x) y = ReduceSum<keepdims = 0>(h, both) }",
         (2, 8, 8, 3), "h", 3),
        ("(float[N,3,8,8] x) => (float[N,3] y) { h = Relu(x) y = ReduceSum<keepdims = 0>(h, places) }",
         (2, 3, 8, 8), "h", 3),
        ("(float[N,5,6] x) => (float[N,3] y) { h = Relu(x) m = MatMul(h, W) y = ReduceSum<keepdims = 0>(m, first) }",
         (2, 5, 6), "h", 6),
    ],
    ids=["curves", "tokens", "channels last", "channels first", "a fixed number of tokens"],
)  # fmt: skip
def test_ablation_takes_the_same_channels(
    engine: Engine, text: str, shape: tuple[int, ...], layer: str, groups: int
) -> None:
    axes = {"last": [2], "first": [1], "both": [1, 2], "places": [2, 3]}
    constants = {name: np.array(each) for name, each in axes.items() if f" {name})" in text}
    made = model(text, **constants, **({"W": np.eye(6, 3, dtype=np.float32)} if "W)" in text else {}))
    engine.add("net", made)
    x = RNG.uniform(0.1, 1, shape).astype(np.float32)
    found = ablation(engine, "net", {"x": x}, layer, methods=["gradient_x_activation"], target=0)
    assert found.groups == groups
    # class 0 is the sum over its channel: it is the first that goes, and nothing is left
    values = found.curves["gradient_x_activation"].values
    np.testing.assert_allclose(values[:, 1:], 0, atol=1e-6)
    channel = np.take(x, 0, axis=shape.index(groups, 1))
    np.testing.assert_allclose(values[:, 0], channel.reshape(2, -1).sum(axis=1), rtol=1e-5)
