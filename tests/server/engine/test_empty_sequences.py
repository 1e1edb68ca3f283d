"""Inputs without elements: refused where a node steps through them, and answered elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.programs import gradients, parsed

EMPTY = np.zeros((0, 2, 3), np.float32)


def recurrent(operator: str, gates: int) -> onnx.ModelProto:
    """The final state, and the sequence turned about before."""
    model = parsed(
        "g (float[T,B,3] x) => (float[1,B,4] h) "
        f'{{ s = Sin(x) y, h = {operator}<hidden_size = 4, direction = "reverse">(s, w, r) }}'
    )
    rng = np.random.default_rng(0)
    for name, width in (("w", 3), ("r", 4)):
        weights = rng.standard_normal((1, 4 * gates, width)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    return model


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_a_sequence_without_a_step_is_refused_by_its_input(tmp_path: Path, operator: str, gates: int) -> None:
    onnx.save(recurrent(operator, gates), tmp_path / "m.onnx")
    words = f"'x' has no element along axis 0, and {operator} "
    with Engine(provider="cpu") as engine:
        engine.add("m", tmp_path / "m.onnx", batch_axes={"x": 1})
        for method in ("gradient", "integrated_gradients", "deeplift_rescale", "occlusion"):
            ask = AttributionRequest("m", {"x": EMPTY}, method, ["x"], target=Target("h", (0, 0)))
            with pytest.raises(InvalidArgument, match=words):
                engine.attribute(ask)
        engine.add("given", tmp_path / "m.onnx", example={"x": EMPTY})
        with pytest.raises(InvalidArgument, match=words):
            engine.attribute(AttributionRequest("given", {"x": EMPTY}, "gradient", ["x"]))


def test_a_cache_without_elements_that_frames_are_added_to_is_answered() -> None:
    model = recurrent("GRU", 3)
    model.graph.node[0].output[0] = "f"
    model.graph.node.insert(1, onnx.helper.make_node("Concat", ["cache", "f"], ["s"], axis=0))
    model.graph.input.append(onnx.helper.make_tensor_value_info("cache", 1, ["P", "B", 3]))
    found = gradients(model, {"x": np.ones((4, 2, 3), np.float32), "cache": EMPTY}, ["x"], np.ones((1, 2, 4)))
    assert np.all(found["x"] != 0)


@pytest.mark.parametrize(
    "body",
    ["z = ReduceSum<keepdims = 0>(x, a)", "s = Softmax<axis = 0>(x) z = ReduceSum<keepdims = 0>(s, a)"],
)
def test_of_an_example_without_elements_the_gradient_has_none(body: str) -> None:
    source = parsed(f"g (float[T,B,3] x) => (float[B,3] z) {{ a = Constant<value_ints = [0]>() {body} }}")
    assert gradients(source, {"x": EMPTY}, ["x"], np.ones((2, 3)))["x"].shape == EMPTY.shape
