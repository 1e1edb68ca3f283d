"""Occlusion of groups and windows: features across inputs, overlaps, hidden layers, samples that cannot share a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Array, Target
from tests.methods.test_occlusion import LINEAR, defined, occluded, pair, text, wide

__all__ = ["pair"]  # the fixture

Floats = NDArray[np.float64]


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


def test_a_linear_model_has_weight_times_difference(engine: Engine, pair: dict[str, Array]) -> None:
    answer = occluded(engine, text(LINEAR), pair, baselines={"a": 0.5, "b": np.array([[1, 2], [3, 4.0]])})
    np.testing.assert_array_equal(answer.layers["a"].values, (wide(pair["a"]) - 0.5) * [1, -2, 3])
    weights = np.array([[5, 7], [-11, 13]])
    np.testing.assert_array_equal(answer.layers["b"].values, (wide(pair["b"]) - [[1, 2], [3, 4]]) * weights)


def test_equal_numbers_are_one_group_across_inputs(engine: Engine, pair: dict[str, Array]) -> None:
    """Group 7 holds the first of `a` and the diagonal of `b`; every element of it has the whole effect."""
    groups = {"a": np.array([7, 2, 2]), "b": np.array([[7, 9], [2, 7]])}
    answer = occluded(engine, text(LINEAR), pair, groups=groups)
    a, b = wide(pair["a"]) * [1, -2, 3], wide(pair["b"]) * [[5, 7], [-11, 13]]
    seven, two, nine = a[:, 0] + b[:, 0, 0] + b[:, 1, 1], a[:, 1] + a[:, 2] + b[:, 1, 0], b[:, 0, 1]
    np.testing.assert_array_equal(answer.layers["a"].values, np.stack([seven, two, two], 1))
    np.testing.assert_array_equal(
        answer.layers["b"].values, np.stack([seven, nine, two, seven], 1).reshape(3, 2, 2)
    )


def test_groups_broadcast_and_sources_without_groups_go_element_by_element(
    engine: Engine, pair: dict[str, Array]
) -> None:
    answer = occluded(engine, text(LINEAR), pair, source=["a", "b"], groups={"b": np.array([[0], [1]])})
    rows = (wide(pair["b"]) * [[5, 7], [-11, 13]]).sum(axis=2, keepdims=True)
    np.testing.assert_array_equal(answer.layers["b"].values, np.broadcast_to(rows, (3, 2, 2)))
    np.testing.assert_array_equal(answer.layers["a"].values, wide(pair["a"]) * [1, -2, 3])
    alone = occluded(engine, text(LINEAR), pair, groups={"b": np.array([[[0], [1]]])})  # with a batch axis
    assert list(alone.layers) == ["b"]
    np.testing.assert_array_equal(alone.layers["b"].values, answer.layers["b"].values)


def test_samples_of_one_number_each_are_features(engine: Engine) -> None:
    model = text("(float[N] x, int64[N] k) => (float[N] y) { c = Cast<to = 1>(k) y = Mul(x, c) }")
    inputs = {"x": np.array([1, 2, 3.0]), "k": np.array([4, 5, 0])}
    answer = occluded(engine, model, inputs, baselines={"x": 0.5})
    np.testing.assert_array_equal(answer.layers["x"].values, [2, 7.5, 0])
    np.testing.assert_array_equal(answer.layers["k"].values, [4, 10, 0])
    both = occluded(engine, model, inputs, groups={"x": np.array(7), "k": np.array(7)}, baselines={"k": 1})
    np.testing.assert_array_equal(both.layers["x"].values, [4, 10, 0])


def averaged(effects: Floats, windows: Sequence[NDArray[np.bool_]]) -> Floats:
    """The mean, over the windows that cover an element, of their effects."""
    masks = np.stack(windows).astype(np.float64)
    return np.asarray(np.einsum("kg,g...->k...", effects, masks) / masks.sum(axis=0))


@pytest.mark.parametrize(
    ("window", "strides", "corners"),
    [
        ((3, 4), None, [(i, j) for i in (0, 3, 6) for j in (0, 4)]),
        ((1, 4, 4), (1, 3, 2), [(i, j) for i in (0, 3, 6) for j in (0, 2, 4)]),
    ],
)
def test_windows_of_an_image_are_replaced_and_averaged_where_they_overlap(
    engine: Engine,
    digits_path: Path,
    digits_data: tuple[NDArray[np.float32], NDArray[np.int64]],
    window: tuple[int, ...],
    strides: tuple[int, ...] | None,
    corners: list[tuple[int, int]],
) -> None:
    """The last windows are cut off at the edge, as in Captum's Occlusion."""
    images: Array = digits_data[0][:3]
    given = {"windows": {"image": window}, "strides": {} if strides is None else {"image": strides}}
    answer = occluded(engine, digits_path, {"image": images}, target=Target(index=4), **given)
    masks = []
    for top, left in corners:
        mask = np.zeros((1, 8, 8), bool)
        mask[:, top : top + window[-2], left : left + window[-1]] = True
        masks.append(mask)
    effects = defined(
        digits_path, {"image": images}, {"image": 0.0}, [{"image": mask} for mask in masks],
        lambda out: float(out[0][0, 4]),
    )  # fmt: skip
    expected = averaged(effects, masks)
    np.testing.assert_allclose(wide(answer.layers["image"].values), expected, rtol=1e-4, atol=1e-5)


def test_a_hidden_layer_is_occluded_where_it_is_named(
    engine: Engine, digits_path: Path, digits_data: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> None:
    """The last layer is linear in `relu3`: weight times activation, with the baseline at `relu3` itself."""
    images = digits_data[0][:2]
    weights = next(
        onnx.numpy_helper.to_array(i)
        for i in onnx.load(digits_path).graph.initializer
        if i.dims and i.dims[0] == 10 and len(i.dims) == 2
    )
    answer = occluded(
        engine, digits_path, {"image": images}, layers=["relu3"], target=Target(index=[3, 8]),
        baselines={"relu3": 0.25},
    )  # fmt: skip
    hidden = engine.predict("net", {"image": images}, ["relu3"])["relu3"]
    expected = (wide(hidden) - 0.25) * weights[[3, 8]]
    np.testing.assert_allclose(wide(answer.layers["relu3"].values), expected, rtol=1e-3, atol=1e-5)
    assert answer.layers["relu3"].cut


MIXED = """(float[1,4] x) => (float[1,2] y) <int64[1] rows = {0}, float[4,2] V = {1,2,3,4,5,6,7,8}> {
    m = ReduceMax<keepdims = 1, axes = [0]>(x)
    c = CumSum(x, zero)
    h = Mul(c, m)
    y = MatMul(h, V)
}"""


def test_samples_that_cannot_share_a_run_have_the_same_values(
    engine: Engine, rng: np.random.Generator
) -> None:
    """Both maximum and running sum over the batch are the identity for one row: `h = x * x`."""
    model = text(MIXED)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "zero"))
    x = rng.normal(size=(3, 1, 4)).astype(np.float32)
    answer = occluded(engine, model, {"x": x}, target=Target(index=1), groups={"x": np.array([0, 0, 1, 2])})
    assert answer.batch == "single"
    each = wide(x) ** 2 * [2, 4, 6, 8]
    pair = each[..., :2].sum(axis=-1, keepdims=True)
    expected = np.concatenate([pair, pair, each[..., 2:]], -1)
    np.testing.assert_allclose(
        wide(answer.layers["x"].values), expected, rtol=0, atol=1e-6 * each.sum(-1).max()
    )
