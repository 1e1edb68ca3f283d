"""The engine: threads, life, and names of tensors."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import (
    ModelError,
    NotReady,
)
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import (
    Array,
    AttributionRequest,
    Target,
)
from tests.method_names import FIXED_METHODS, METHODS, SOURCE_METHODS

Data = tuple[NDArray[np.float32], NDArray[np.int64]]
Floats = NDArray[np.float64]


def parsed(body: str, **weights: Any) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 21]> g {body}')
    for name, value in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return proto


def wide(array: Array) -> Floats:
    return np.asarray(array, np.float64)


def relu_layers(engine: Engine, name: str) -> tuple[str, ...]:
    return tuple(x.name for x in engine.layers(name, "Relu"))


@pytest.mark.parametrize("method", METHODS)
def test_eight_threads_have_the_answer_of_one(digits_path: Path, digits_data: Data, method: str) -> None:
    """The model is loaded and its programs are built under way, by whichever thread is first."""
    images = digits_data[0]
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("digits", digits_path)

        def answer(k: int) -> Floats:
            found = engine.attribute(
                AttributionRequest(
                    "digits", {"image": images[k : k + 2]}, method, target=Target(index=k % 10), steps=6,
                    source=("image",),
                )
            )  # fmt: skip
            return np.asarray(found.layers["image"].values, np.float64)

        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(answer, range(24)))
        for k in range(24):
            np.testing.assert_array_equal(together[k], answer(k))


def test_eight_threads_load_a_model_once(
    digits_path: Path, digits_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    class Counted(LoadedModel):
        def __init__(self, *given: Any, **options: Any) -> None:
            loads.append(1)
            super().__init__(*given, **options)

    monkeypatch.setattr("onnx_attribution.server.engine.models.registry.LoadedModel", Counted)
    with Engine(provider="cpu", threads=1) as engine, ThreadPoolExecutor(8) as pool:
        engine.add("digits", digits_path)
        outputs = list(pool.map(lambda _: engine.predict("digits", {"image": digits_data[0][:2]}), range(8)))
    assert len(loads) == 1
    assert len(outputs) == 8


CALLS: dict[str, Callable[[Engine, dict[str, Array]], object]] = {
    "attribute": lambda engine, inputs: engine.attribute(AttributionRequest("digits", inputs, "gradient")),
    "predict": lambda engine, inputs: engine.predict("digits", inputs),
    "layers": lambda engine, _: engine.layers("digits"),
    "info": lambda engine, _: engine.info("digits"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_engine_refuses(digits_path: Path, digits_data: Data, call: str) -> None:
    inputs: dict[str, Array] = {"image": digits_data[0][:1]}
    engine = Engine(provider="cpu", threads=1)
    engine.add("digits", digits_path)
    CALLS[call](engine, inputs)
    engine.close()
    with pytest.raises(NotReady, match="closed"):
        CALLS[call](engine, inputs)


def test_closing_twice_is_closing_once() -> None:
    engine = Engine(provider="cpu", threads=1)
    engine.close()
    engine.close()


def digits(images: Array, **changes: Any) -> AttributionRequest:
    return replace(AttributionRequest("digits", {"image": images}, "neuron_ig", steps=4), **changes)


IMAGE = np.zeros((2, 1, 8, 8), dtype=np.float32)


def test_a_model_that_failed_to_load_keeps_no_frames_of_its_callers(tmp_path: Path) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("bad", tmp_path / "missing.onnx")
        depths = []
        for _ in range(3):
            with pytest.raises(ModelError) as refusal:
                engine.info("bad")
            depths.append(len(list(traceback.walk_tb(refusal.value.__traceback__))))
        assert depths[1] == depths[2]


def test_baselines_are_named_like_sources(digits_path: Path) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        image = np.ones((1, 1, 8, 8), dtype=np.float32)
        answers = [
            engine.attribute(
                AttributionRequest(
                    "digits",
                    {"image": image},
                    "deeplift_rescale",
                    ["relu2"],
                    source=[name],
                    baselines={name: 0.2},
                )
            )
            for name in ("conv1", "/conv1/Conv")
        ]
        np.testing.assert_array_equal(answers[0].layers["relu2"].values, answers[1].layers["relu2"].values)


def test_a_tensor_that_a_fusion_swallows_can_be_a_layer(shared: Path) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("bert", shared / "models" / "bert-toy-fused" / "model.onnx")
        tokens = {n: np.ones((1, 6), np.int64) for n in ("input_ids", "token_type_ids", "input_mask")}
        answer = engine.attribute(
            AttributionRequest(
                "bert", tokens, "gradient", ["117"], target=Target("seq_relationship_score", 0)
            )
        )
        assert np.isfinite(answer.layers["117"].values).all()


@pytest.mark.parametrize("name", ["target", "weight", "slot", "slots", "row_sample", "target_weight"])
@pytest.mark.parametrize("method", METHODS)
def test_tensors_may_be_called_as_programs_call_theirs(name: str, method: str) -> None:
    graph = f"n (float[N,3] x) => (float[N,3] {name}) {{ h = Exp(x) {name} = Tanh(h) }}"
    text = f'<ir_version: 8, opset_import: ["" : 17]> {graph}'
    with Engine(provider="cpu") as engine:
        engine.add("net", onnx.parser.parse_model(text))
        layers = ["x" if method in SOURCE_METHODS else "h"]
        answer = engine.attribute(
            AttributionRequest("net", {"x": np.ones((2, 3))}, method, layers, target=Target(index=1))
        )
        assert answer.target.tensor == name
        assert np.isfinite(answer.layers[layers[0]].values).all()


@pytest.mark.parametrize("method", [m for m in FIXED_METHODS if m != "occlusion"])
def test_a_scalar_input_is_a_source_of_several_samples(method: str) -> None:
    net = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> n (float[N,3] x, float s) => (float[N,3] y) { y = Mul(x, s) }'
    )
    with Engine(provider="cpu") as engine:
        engine.add("net", net)
        inputs: dict[str, Array] = {"x": np.ones((2, 3), np.float32), "s": np.asarray(2, np.float32)}
        answer = engine.attribute(AttributionRequest("net", inputs, method, target=Target(index=1), steps=2))
    # y = x s: from (0, 0) to (1, 2) each has half of it; the gradient of s is x
    expected = {"gradient": 1.0, "gradient_x_activation": 2.0}.get(method, 1.0)
    np.testing.assert_allclose(wide(answer.layers["s"].values), expected, rtol=1e-5)
