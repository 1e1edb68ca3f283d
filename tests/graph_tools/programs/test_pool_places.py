"""Where maxima come from without the indices of MaxPool: the first of each window, counted through the whole tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_attribution.graph_tools.programs.portable import portable


def pooling(sizes: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    """Returns a model of a MaxPool, whose shapes are known."""
    graph = helper.make_graph(
        [helper.make_node("MaxPool", ["x"], ["z", "index"], **attributes)],
        "pooling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *sizes])],
        [
            helper.make_tensor_value_info("z", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("index", TensorProto.INT64, None),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def first_maxima(
    x: NDArray[Any], kernel: Any, strides: Any, dilations: Any, begin: Any, made: Any
) -> NDArray[Any]:
    """Returns the places, one window after the other."""
    found = np.zeros((*x.shape[:2], *made), np.int64)
    for at in np.ndindex(*found.shape):
        best: tuple[float, int] | None = None
        for k in np.ndindex(*kernel):
            own = [
                a * s - b + i * d for a, s, b, i, d in zip(at[2:], strides, begin, k, dilations, strict=True)
            ]
            if all(0 <= place < size for place, size in zip(own, x.shape[2:], strict=True)):
                place = int(np.ravel_multi_index((*at[:2], *own), x.shape))
                value = float(x.reshape(-1)[place])
                best = (value, place) if best is None or value > best[0] else best
        assert best is not None
        found[at] = best[1]
    return found


CASES: list[tuple[tuple[int, ...], dict[str, Any], tuple[int, ...]]] = [
    ((7, 6), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, (1, 1)),
    ((6, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}, (0, 0)),
    ((8, 9), {"kernel_shape": [3, 2], "strides": [2, 1], "auto_pad": "SAME_UPPER"}, (0, 0)),
    ((9, 9), {"kernel_shape": [4, 4], "strides": [2, 2], "auto_pad": "SAME_LOWER"}, (2, 2)),
    ((9, 8), {"kernel_shape": [2, 3], "dilations": [2, 1], "auto_pad": "VALID"}, (0, 0)),
    ((8, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, (0, 0)),
    ((9,), {"kernel_shape": [3], "strides": [2], "pads": [1, 0]}, (1,)),
    ((4, 5, 4), {"kernel_shape": [2, 2, 2]}, (0, 0, 0)),
]


@pytest.mark.parametrize("low", [-3.0, -np.inf])
@pytest.mark.parametrize(("sizes", "attributes", "begin"), CASES)
def test_the_first_maximum_of_each_window_is_found(
    sizes: tuple[int, ...],
    attributes: dict[str, Any],
    begin: tuple[int, ...],
    low: float,
    rng: np.random.Generator,
) -> None:
    model = pooling(sizes, **attributes)
    portable(model)
    assert all(len(node.output) == 1 for node in model.graph.node)
    x = rng.integers(-3, 4, size=(2, 3, *sizes)).astype(np.float32)  # small: many are equal
    x[x == -3] = low
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(["index"], {"x": x})[0]
    rank = len(sizes)
    strides, dilations = (attributes.get(name, [1] * rank) for name in ("strides", "dilations"))
    wanted = first_maxima(x, attributes["kernel_shape"], strides, dilations, begin, found.shape[2:])
    # of windows of -inf alone any place will do that is inside
    alone = np.isneginf(x.reshape(-1)[wanted])
    np.testing.assert_array_equal(found[~alone], wanted[~alone])
    assert np.isneginf(x.reshape(-1)[found[alone]]).all()


@pytest.mark.parametrize("attributes", [{"storage_order": 1}, {"kernel_shape": [9, 9]}])
def test_others_are_left_as_they_are(attributes: dict[str, Any]) -> None:
    model = pooling((12, 12), **{"kernel_shape": [2, 2], **attributes})
    portable(model)
    assert [len(node.output) for node in model.graph.node] == [2]
