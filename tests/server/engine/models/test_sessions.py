"""Sessions hold weights in layouts of their own: none is made twice, or kept for nothing."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend, Session
from onnx_attribution.values import AttributionRequest
from tests.methods.toys import model

Data = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.mark.parametrize(
    ("method", "layers", "made", "kept"),
    [
        ("gradient", [], 1, 1),
        ("integrated_gradients", [], 1, 1),
        ("gradient_x_activation", [], 2, 1),
        ("gradient", ["conv2"], 2, 1),
        ("deeplift_rescale", [], 1, 0),
    ],
)
def test_of_programs_of_gradients_those_stay_that_answer(
    digits_path: Path,
    digits_data: Data,
    method: str,
    layers: list[str],
    made: int,
    kept: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One more proves that the gradient of a row is that of the row alone; at the input it gives the answer, too."""
    alive, count = WeakSet[Session](), []
    make = Backend.session

    def noted(*given: Any, **more: Any) -> Session:
        session = make(*given, **more)
        if session.outputs[1:] in (
            ("gradient/image",),
            ("activation/image", "gradient/image"),
            ("gradient/conv2",),
        ):
            alive.add(session)
            count.append(session.outputs)
        return session

    monkeypatch.setattr(Backend, "session", noted)
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("digits", digits_path)
        fixed: dict[str, Any] = {"steps": 4, "quadrature": "trapezoid"} if "integrated" in method else {}
        engine.attribute(
            AttributionRequest("digits", {"image": digits_data[0][:2]}, method, layers, target=1, **fixed)
        )
        gc.collect()
        assert (len(count), len(alive)) == (made, kept)


@pytest.mark.parametrize(
    ("text", "width", "alone"),
    [
        ("(float[N,8] x) => (float[N,8] y) { h = MatMul(x, W)  y = Tanh(h) }", 8, True),
        ("(float[N,M] x) => (float[N,M] y) { h = Exp(x)  y = Tanh(h) }", 8, False),
        ("(float[N,600] x) => (float[N,600] y) { h = MatMul(x, W)  y = Tanh(h) }", 600, False),
        ("(float[N,9000] x) => (float[N,9000] y) { h = Exp(x)  y = Tanh(h) }", 9000, False),
    ],
    ids=["a tiny network", "rows of any size", "many weights", "large rows"],
)
def test_only_tiny_networks_are_computed_in_the_thread_that_asks(
    text: str, width: int, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = list[int]()
    make = ort.InferenceSession

    def noted(model: bytes, options: ort.SessionOptions, **more: Any) -> ort.InferenceSession:
        threads.append(options.intra_op_num_threads)
        return make(model, options, **more)

    weights = {"W": np.full((width, width), 0.01, np.float32)} if "W" in text else {}
    with Engine(provider="cpu", threads=3) as engine:
        engine.add("net", model(text, **weights))
        engine.predict("net", {"x": np.zeros((1, width), np.float32)})
        monkeypatch.setattr(ort, "InferenceSession", noted)
        engine.attribute(
            AttributionRequest("net", {"x": np.ones((1, width), np.float32)}, "gradient", target=0)
        )
    assert (1 in threads) == alone  # others look at the file as it is
