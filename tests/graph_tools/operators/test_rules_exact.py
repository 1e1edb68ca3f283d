"""Gradients whose numbers are known: at zeros and ties by hand, and of large sizes, with two threads and repeated
positions, written a second time in numpy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.checks import gradient_model
from tests.graph_tools.operators.test_rules import Row, floats, ints, model_of

Array = NDArray[Any]


def test_norm_of_zeros_has_gradient_zero() -> None:
    model, _ = model_of(Row("ReduceL2", [(2, 3), ints(1)]))
    assert not _gradient(model, {"x0": np.zeros((2, 3), np.float32)}, np.ones((2, 1), np.float32)).any()


def test_ties_of_a_maximum_share_its_gradient() -> None:
    model, _ = model_of(Row("ReduceMax", [(1, 4), ints(1)]))
    found = _gradient(model, {"x0": floats(1, 3, 3, 2)[None]}, np.ones((1, 1), np.float32))
    np.testing.assert_allclose(found, [[0, 0.5, 0.5, 0]])


def test_ties_in_a_pool_go_to_the_first() -> None:
    model, _ = model_of(Row("MaxPool", [(1, 1, 4)], {"kernel_shape": [2], "strides": [2]}))
    found = _gradient(model, {"x0": np.zeros((1, 1, 4), np.float32)}, np.ones((1, 1, 2), np.float32))
    np.testing.assert_allclose(found, [[[1, 0, 1, 0]]])


# --- Large sizes, two threads, repeated positions: each expectation is written a second time in numpy -----------

LARGE: dict[str, Callable[[np.random.Generator], tuple[Row, dict[str, Array], Array, Array]]] = {}


def large(function: Callable[[np.random.Generator], tuple[Row, dict[str, Array], Array, Array]]) -> None:
    LARGE[function.__name__] = function


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


@large
def gather(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    index, g = rng.integers(-300, 300, 5000), _normal(rng, 5000, 200)
    expected = np.zeros((300, 200))
    np.add.at(expected, index, g)
    return Row("Gather", [(300, 200), index]), {"x0": _normal(rng, 300, 200)}, g, expected


@large
def gather_in_the_middle(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    index, g = rng.integers(0, 30, 500), _normal(rng, 20, 500, 100)
    expected = np.zeros((20, 30, 100))
    np.add.at(expected, (np.arange(20)[:, None], index), g)
    return Row("Gather", [(20, 30, 100), index], {"axis": 1}), {"x0": _normal(rng, 20, 30, 100)}, g, expected


@large
def gather_elements(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    index, g = rng.integers(0, 40, (1000, 1000)), _normal(rng, 1000, 1000)
    expected = np.zeros((40, 1000))
    np.add.at(expected, (index, np.arange(1000)[None]), g)
    return Row("GatherElements", [(40, 1000), index]), {"x0": _normal(rng, 40, 1000)}, g, expected


@large
def gather_nd(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    index, g = rng.integers(0, 100, (10000, 2)), _normal(rng, 10000, 100)
    expected = np.zeros((100, 100, 100))
    np.add.at(expected, (index[:, 0], index[:, 1]), g)
    return Row("GatherND", [(100, 100, 100), index]), {"x0": _normal(rng, 100, 100, 100)}, g, expected


@large
def scatter_elements(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    index, g = np.argsort(rng.random((500, 1000)), axis=1)[:, :700], _normal(rng, 1000, 1000)
    expected = g.copy()
    np.put_along_axis(expected[:500], index, 0, axis=1)
    row = Row("ScatterElements", [(1000, 1000), index, _normal(rng, 500, 700)], {"axis": 1})
    return row, {"x0": _normal(rng, 1000, 1000)}, g, expected


@large
def scatter_elements_max(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    x, y, g = _normal(rng, 1000), _normal(rng, 1000000), _normal(rng, 1000)
    index = rng.integers(0, 1000, 1000000)
    most = x.copy()
    np.maximum.at(most, index, y)
    row = Row("ScatterElements", [(1000,), index, y], {"reduction": "max"})
    return row, {"x0": x}, g, g * (most == x)


@large
def scatter_nd(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    index, g = rng.permutation(1000)[:600], _normal(rng, 1000, 1000)
    expected = g.copy()
    expected[index] = 0
    row = Row("ScatterND", [(1000, 1000), index[:, None], _normal(rng, 600, 1000)])
    return row, {"x0": _normal(rng, 1000, 1000)}, g, expected


@large
def updates_of_scatter_nd(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    index, g = rng.integers(0, 50, 1000), _normal(rng, 50, 1000)
    row = Row("ScatterND", [_normal(rng, 50, 1000), index[:, None], (1000, 1000)], {"reduction": "add"})
    return row, {"x2": _normal(rng, 1000, 1000)}, g, g[index]


@large
def slice_backwards(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    g, expected = _normal(rng, 500, 334), np.zeros((1000, 1000))
    expected[::-2, 999:0:-3] = g[:, :333]
    expected[::-2, 0] = g[:, 333]
    row = Row("Slice", [(1000, 1000), ints(-1, -1), ints(-(2**62), -(2**62)), ints(0, 1), ints(-2, -3)])
    return row, {"x0": _normal(rng, 1000, 1000)}, g, expected


@large
def pad_reflect(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    g, expected = _normal(rng, 1300, 1100), np.zeros(1000000)
    origin = np.pad(np.arange(1000000).reshape(1000, 1000), ((100, 200), (40, 60)), mode="reflect")
    np.add.at(expected, origin.reshape(-1), g.reshape(-1))
    row = Row("Pad", [(1000, 1000), ints(100, 40, 200, 60)], {"mode": "reflect"})
    return row, {"x0": _normal(rng, 1000, 1000)}, g, expected.reshape(1000, 1000)


@large
def resize_nearest(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    g, expected = _normal(rng, 1, 2, 875, 625), np.zeros((1, 2, 500, 500))
    rows = np.floor(np.arange(875) / 1.75).astype(int)
    columns = np.floor(np.arange(625) / 1.25).astype(int)
    channel = np.arange(2)[:, None, None]
    at: Any = (0, channel, rows[:, None], columns[None])  # numpy declares no tuples of arrays here
    np.add.at(expected, at, g[0])
    row = Row("Resize", [(1, 2, 500, 500), None, floats(1, 1, 1.75, 1.25)],
              {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})  # fmt: skip
    return row, {"x0": _normal(rng, 1, 2, 500, 500)}, g, expected


@large
def resize_linear(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    def weights(size: int, out: int) -> Array:
        at = np.clip((np.arange(out) + 0.5) * size / out - 0.5, 0, size - 1)
        made: Array = np.maximum(0, 1 - np.abs(at[None] - np.arange(size)[:, None]))
        return made

    g = _normal(rng, 1, 2, 1000, 250)  # scales that float32 holds exactly
    expected = weights(500, 1000) @ g.astype(np.float64) @ weights(500, 250).T
    row = Row("Resize", [(1, 2, 500, 500), None, None, ints(1, 2, 1000, 250)], {"mode": "linear"})
    return row, {"x0": _normal(rng, 1, 2, 500, 500)}, g, expected


@large
def max_pool(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    x, g = _normal(rng, 2, 8, 256, 256), _normal(rng, 2, 8, 128, 128)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    first = windows.reshape(*g.shape, 9).argmax(-1)
    n, c, i, j = np.indices(g.shape)
    expected = np.zeros_like(padded, dtype=np.float64)
    np.add.at(expected, (n, c, 2 * i + first // 3, 2 * j + first % 3), g)
    row = Row("MaxPool", [x.shape], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]})
    return row, {"x0": x}, g, expected[:, :, 1:-1, 1:-1]


@large
def grid_sample(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    g = _normal(rng, 4, 8, 200, 150)
    grid = rng.uniform(-1, 1, (4, 200, 150, 2)).astype(np.float32)
    expected = np.zeros((4, 8, 65, 33))  # sizes that float32 scales by exactly
    across, down = (np.moveaxis(grid, -1, 0) + 1) * np.asarray([16, 32])[:, None, None, None]
    image, channel = np.arange(4)[:, None, None, None], np.arange(8)[None, :, None, None]
    for i, j in np.ndindex(2, 2):
        row, column = np.floor(down).astype(int) + i, np.floor(across).astype(int) + j
        share = (1 - np.abs(down - row)) * (1 - np.abs(across - column))
        at: Any = (image, channel, np.minimum(row, 64)[:, None], np.minimum(column, 32)[:, None])
        np.add.at(expected, at, g * share[:, None])
    return (
        Row("GridSample", [(4, 8, 65, 33), grid], {"align_corners": 1}),
        {"x0": _normal(rng, 4, 8, 65, 33)},
        g,
        expected,
    )


@large
def top_k(rng: np.random.Generator) -> tuple[Row, dict[str, Array], Array, Array]:
    x = rng.permutation(1000000).astype(np.float32).reshape(1000, 1000)
    g, expected = _normal(rng, 1000, 400), np.zeros((1000, 1000))
    np.put_along_axis(expected, np.argsort(-x, axis=1)[:, :400], g, axis=1)
    return Row("TopK", [x.shape, ints(400)], outputs="zi"), {"x0": x}, g, expected


@pytest.mark.parametrize("name", LARGE)
def test_large_gradient_with_two_threads_is_exact(name: str, rng: np.random.Generator) -> None:
    row, values, g, expected = LARGE[name](rng)
    model, _ = model_of(row)
    found = _gradient(model, values, g, threads=2, again=5)
    size = np.sqrt(np.mean(expected**2))
    np.testing.assert_allclose(
        found, expected, rtol=1e-5, atol=2e-6 * size * np.sqrt(max(g.size / expected.size, 1))
    )


def _gradient(
    model: onnx.ModelProto, values: dict[str, Array], g: Array, threads: int = 1, again: int = 1
) -> Array:
    """The gradient of the first input for the cotangent `g`; runs `again` times and must not change."""
    (wrt,) = values
    graph, names = gradient_model(copy.deepcopy(model), [wrt])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    run = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = {x.name for x in run.get_inputs()}
    feeds = {k: v for k, v in {**values, f"v/{model.graph.output[0].name}": g}.items() if k in wanted}
    first: Array = run.run([names[wrt]], feeds)[0]
    for _ in range(again - 1):
        np.testing.assert_array_equal(run.run([names[wrt]], feeds)[0], first)
    return first
