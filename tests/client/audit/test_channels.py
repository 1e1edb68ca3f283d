"""Channels are the same axis wherever they are spoken of: in the neurons of a report and in ablation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnx_attribution.client.audit.ablation import ablation
from onnx_attribution.client.audit.ranks import Sizes, channel_axis
from onnx_attribution.client.audit.records import channels_of
from onnx_attribution.server.engine import Engine
from tests.methods.toys import model

RNG = np.random.default_rng(2)


@pytest.mark.parametrize(
    ("unit", "image", "declared", "wanted"),
    [
        ((7,), None, None, 0),
        ((4, 30), None, None, 0),  # curves: channels come first
        ((4, 30), None, ("N", 4, 30), 0),
        ((4, 30), None, ("N", 4, "time"), 0),
        ((9, 16), None, ("N", "tokens", 16), 1),  # an open size is of positions
        ((9, 16), None, (None, 16), 1),  # without a batch axis
        ((9, 16), None, ("N", "tokens", "features"), 0),
        ((9, 16), None, None, 0),
        ((2, 9, 9), None, ("N", 2, "tokens", "tokens"), 0),
        ((9, 2, 8), None, ("N", "tokens", 2, 8), 1),
        ((8, 14, 14), (28, 28), ("N", 8, 14, 14), 0),
        ((14, 14, 8), (28, 28), ("N", 14, 14, 8), 2),
        ((14, 14, 8), None, ("N", 14, 14, 8), 0),  # nothing says that it is a picture
        ((1, 8, 14, 14), (28, 28), None, 1),
        ((1, 14, 14, 8), (28, 28), None, 3),
        ((1, 8, 14, 14), None, (1, 8, 14, 14), 1),
    ],
)
def test_channels_are_the_first_axis_of_a_fixed_size_unless_a_picture_says_otherwise(
    unit: tuple[int, ...], image: tuple[int, int] | None, declared: Sizes | None, wanted: int
) -> None:
    assert channel_axis(unit, image, declared) == wanted
    values = np.asarray(RNG.normal(size=unit), np.float64)
    sums, strongest, maps = channels_of(values, image, declared)
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
    ],
    ids=["curves", "tokens", "channels last", "channels first"],
)  # fmt: skip
def test_ablation_takes_the_same_channels(
    engine: Engine, text: str, shape: tuple[int, ...], layer: str, groups: int
) -> None:
    axes = {"last": [2], "first": [1], "both": [1, 2], "places": [2, 3]}
    made = model(text, **{name: np.array(each) for name, each in axes.items() if f" {name})" in text})
    engine.add("net", made)
    x = RNG.uniform(0.1, 1, shape).astype(np.float32)
    found = ablation(engine, "net", {"x": x}, layer, methods=["gradient_x_activation"], target=0)
    assert found.groups == groups
    # class 0 is the sum over its channel: it is the first that goes, and nothing is left
    values = found.curves["gradient_x_activation"].values
    np.testing.assert_allclose(values[:, 1:], 0, atol=1e-6)
    channel = np.take(x, 0, axis=shape.index(groups, 1))
    np.testing.assert_allclose(values[:, 0], channel.reshape(2, -1).sum(axis=1), rtol=1e-5)
