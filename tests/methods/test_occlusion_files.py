"""Occlusion of real models: the differences of their files, run by onnxruntime alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import (
    Array,
    AttributionRequest,
    Target,
)
from tests.methods.test_occlusion import defined, occluded, singles, wide


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


def probability(label: int) -> Callable[[list[Any]], float]:
    """The entry of a ZipMap, which follows the label."""
    return lambda out: float(out[1][0][label])


FLOATS = {
    "rf-iris": ("float_input", np.array([[5.1, 3.5, 1.4, 0.2], [6.2, 3.4, 5.4, 2.3]]), probability(2)),
    "coffee-tree-ensemble": ("float_input", np.random.default_rng(0).random((2, 286)) * 3, probability(1)),
    "lightgbm-pipeline-iris": ("input", np.array([[5.1, 3.5], [7.2, 2.4]]), probability(1)),
    "tree-classifier-sk": (
        "input",
        np.random.default_rng(0).random((2, 32)) * 2,
        lambda out: float(out[1][0, 1]),
    ),
    "knn-multi": ("input", np.array([[0.3, -0.2, 1.0]]), probability(0)),
}


@pytest.mark.parametrize("name", FLOATS)
def test_trees_and_neighbours_have_the_differences_of_their_file(
    engine: Engine, shared: Path, name: str
) -> None:
    path = shared / "models" / name / "model.onnx"
    source, x, value = FLOATS[name]
    x = x.astype(np.float32)
    label = {"rf-iris": 2, "knn-multi": 0}.get(name, 1)
    answer = occluded(
        engine, path, {source: x}, target=Target("proba_0" if "sk" in name else None, index=label)
    )
    expected = defined(path, {source: x}, {source: 0}, singles(source, x.shape[1:]), value)
    found = wide(answer.layers[source].values).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_features_of_a_passenger_have_the_differences_of_their_file(engine: Engine, shared: Path) -> None:
    path = shared / "models" / "titanic-pipeline" / "model.onnx"
    people: dict[str, Array] = {
        "pclass": np.array([["1"], ["3"]], object),
        "sex": np.array([["female"], ["male"]], object),
        "age": np.array([[29], [40]], np.float32),
        "fare": np.array([[211.3], [7.0]], np.float32),
        "embarked": np.array([["S"], ["Q"]], object),
    }
    low: dict[str, Any] = {"pclass": "2", "sex": "", "age": 30.0, "fare": 0.0, "embarked": ""}
    answer = occluded(engine, path, people, target=Target(index=1), baselines={"pclass": "2", "age": 30.0})
    groups = [g for name in people for g in singles(name, (1,))]
    expected = defined(path, people, low, groups, probability(1))
    found = np.concatenate([wide(answer.layers[name].values) for name in people], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(expected[0]).min() > 1e-4


def test_tokens_of_a_beam_search_have_the_differences_of_their_file(engine: Engine, shared: Path) -> None:
    path = shared / "models" / "tiny-gpt2-beamsearch" / "model.onnx"
    settings: dict[str, Array] = {
        **{
            n: np.array([k], np.int32) for n, k in {"max_length": 10, "min_length": 1, "num_beams": 2}.items()
        },
        "num_return_sequences": np.array([1], np.int32),
        **{n: np.array([1], np.float32) for n in ("length_penalty", "repetition_penalty")},
    }
    ids = np.array([[3, 5, 7, 9, 11], [2, 4, 6, 8, 1]], np.int32)
    engine.add("beams", path)
    inputs = {"input_ids": ids, **settings}
    answer = engine.attribute(
        AttributionRequest("beams", inputs, "occlusion", target=Target("sequences", (0, 6)))
    )
    assert list(answer.layers) == ["input_ids"]  # the settings are shared by all samples
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])

    def seventh(row: Array) -> float:
        return float(session.run(None, {"input_ids": row[None], **settings})[0][0, 0, 6])

    expected = np.zeros((2, 5))
    for k, place in np.ndindex(2, 5):
        moved = ids[k].copy()
        moved[place] = 0
        expected[k, place] = seventh(ids[k]) - seventh(moved)
    assert expected.any()
    np.testing.assert_array_equal(answer.layers["input_ids"].values, expected)
    with pytest.raises(
        InvalidArgument, match=r"no output of the model holds floats .*without derivatives takes an output"
    ):
        engine.attribute(AttributionRequest("beams", inputs, "gradient"))


def test_windows_of_a_recurrent_speech_model_have_the_differences_of_its_file(
    engine: Engine, shared: Path, rng: np.random.Generator
) -> None:
    path = shared / "models" / "silero-vad-v5" / "model.onnx"
    inputs: dict[str, Array] = {
        "input": rng.normal(size=(1, 512)).astype(np.float32) * 0.1,
        "state": rng.normal(size=(2, 1, 128)).astype(np.float32) * 0.1,
        "sr": np.array(16000),
    }
    answer = occluded(
        engine, path, inputs, windows={"input": (128,)}, target=Target("output"), shapes={"input": (1, 512)},
        example={"sr": inputs["sr"]},
    )  # fmt: skip
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    at_x = float(session.run(["output"], inputs)[0].item())
    found = wide(answer.layers["input"].values).reshape(4, 128)
    for part in range(4):
        moved = {**inputs, "input": inputs["input"].copy()}
        moved["input"][0, 128 * part : 128 * part + 128] = 0
        expected = at_x - float(session.run(["output"], moved)[0].item())
        np.testing.assert_allclose(found[part], expected, rtol=1e-3, atol=1e-8)


SEVERAL_KINDS = {
    "acasxu-1-1": "linear_7_Add",
    "bert-toy-fused": "prediction_scores",
    "derived-mnist-qoperator-int8": "dense_2",
    "dtln-model2": "conv1d_3",
    "matmul-integer-dynamic": "output_1",
    "mlnet-imputer-tree": "label",
    "silero-vad-v3": "hn",
    "voicevox-duration": "phoneme_length",
}
"""Models of fixed and dynamic batches, of one and of 201 inputs, of integers, fused, quantised, recurrent."""


@pytest.mark.parametrize("name", SEVERAL_KINDS)
def test_interleaved_groups_of_all_inputs_have_the_differences_of_the_file(
    engine: Engine, shared: Path, name: str
) -> None:
    """The elements of every input are dealt to three groups in turn; the target is the output's first element."""
    path, output = shared / "models" / name / "model.onnx", SEVERAL_KINDS[name]
    engine.add("net", path)
    loaded = LoadedModel(path, Backend("cpu", 2))
    inputs = dict(loaded.network.example)
    masks: dict[str, NDArray[np.int64]] = {}  # with the batch axis
    groups: dict[str, NDArray[np.int64]] = {}
    for source in loaded.features((), output):
        axis, shape = loaded.network.input_axes[source], inputs[source].shape
        numbers = np.arange(inputs[source].size).reshape(shape) % 3  # one sample
        masks[source] = numbers
        groups[source] = numbers if axis is None else numbers.squeeze(axis)
    rank = engine.predict("net", inputs, [output])[output].ndim
    first = Target(output, (0,) * (rank - (loaded.rows_of([output])[output] is not None)))
    answer = engine.attribute(AttributionRequest("net", inputs, "occlusion", target=first, groups=groups))

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])

    def value(fed: Mapping[str, Array]) -> float:
        found = session.run([output], {x.name: fed[x.name] for x in session.get_inputs()})[0]
        return float(np.asarray(found).reshape(-1)[0])

    effects = np.zeros(3)
    for k in range(3):
        low = {n: np.where(mask == k, inputs[n].dtype.type(0), inputs[n]) for n, mask in masks.items()}
        effects[k] = value(inputs) - value({**inputs, **low})
    assert effects.any()
    for source, numbers in groups.items():
        found = wide(answer.layers[source].values).reshape(numbers.shape)
        scale = max(float(np.abs(effects).max()), 1)
        np.testing.assert_allclose(found, effects[numbers], rtol=1e-4, atol=1e-5 * scale)
