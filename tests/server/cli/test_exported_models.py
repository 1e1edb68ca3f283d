"""Real models, exported: names mean what they mean to `explain`, numbers are the engine's, or those of differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.graph_tools.programs.export import exposed
from onnx_attribution.graph_tools.read.load import load
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import AttributionRequest, Target
from tests.checks import to_double
from tests.server.cli.commands import run
from tests.server.cli.test_expose import Array, outputs


def model_of(shared: Path, name: str) -> Path:
    (path,) = (shared / "models" / name).glob("*.onnx")
    return path


def test_yolox_shows_a_layer(shared: Path, tmp_path: Path) -> None:
    path, out = model_of(shared, "yolox-nano"), tmp_path / "e.onnx"
    result = run("expose", path, "--layer", "Conv_70", "-o", out, "--json")
    (layer,) = json.loads(result.stdout)["layers"]
    before, after = onnx.load(path), onnx.load(out)
    assert list(after.graph.node) == list(before.graph.node)
    assert {t.name for t in after.graph.initializer} == {t.name for t in before.graph.initializer}
    x = np.random.default_rng(0).normal(size=(1, 3, 416, 416)).astype(np.float32)
    found = outputs(out, images=x)
    assert list(found) == ["output", layer]
    np.testing.assert_array_equal(found["output"], outputs(path, images=x)["output"])


@pytest.mark.parametrize(
    "name", ["mnist-cntk", "torchscript-transformer", "lstm-scan", "mnist-self-attention"]
)
def test_names_mean_what_they_mean_to_explain(shared: Path, name: str) -> None:
    path = model_of(shared, name)
    model, proto = LoadedModel(path, Backend("cpu", 1)), load(path)
    made = {z for node in proto.graph.node for z in node.output}
    known = [*model.names.nodes, *model.names.modules, *(layer.name for layer in model.layers())]
    compared, words = 0, [*known, *(word.rpartition("/")[2] for word in known)]
    for word in words[:: max(len(words) // 30, 1)]:
        try:
            meant = model.tensor(word)
        except AttributionError:
            continue
        if meant not in made:
            continue  # of the normal form alone
        try:
            assert exposed(proto, [word])[1] == [meant], word
        except InvalidArgument:  # ambiguous: the file has more that ends so
            continue
        compared += 1
    assert compared >= min(len(known) // 2, 10), compared


def test_the_gradient_of_an_old_file_of_fixed_batch_is_the_slope_in_float64(
    shared: Path, tmp_path: Path
) -> None:
    path, out = model_of(shared, "mnist-cntk"), tmp_path / "g.onnx"
    assert run("gradient", path, "--target", "3", "--minus", "5", "-o", out).exit_code == 0
    rng = np.random.default_rng(0)
    x, u = rng.normal(size=(2, 3, 1, 28, 28))
    found = outputs(out, Input3=x.astype(np.float32))
    double = ReferenceEvaluator(to_double(onnx.load(path)))

    def value(at: Array) -> Array:
        found: list[Any] = [double.run(None, {"Input3": row[None]}) for row in at]
        y = np.concatenate([one[0] for one in found])
        return np.asarray(y[:, 3] - y[:, 5])

    h = 1e-6
    x = x.astype(np.float32).astype(np.float64)
    slope = (value(x + h * u) - value(x - h * u)) / (2 * h)
    ours = found["gradient/Input3"].astype(np.float64)
    size = np.abs(ours * u).sum(axis=(1, 2, 3))
    np.testing.assert_allclose((ours * u).sum(axis=(1, 2, 3)) / size, slope / size, atol=1e-4)
    np.testing.assert_allclose(found["target/value"], value(x), rtol=1e-4, atol=1e-3)


def test_where_a_default_session_fuses_quantised_operators_the_original_is_told_apart(
    shared: Path, tmp_path: Path
) -> None:
    path, out = model_of(shared, "mobilenetv2-qdq"), tmp_path / "g.onnx"
    result = run("gradient", path, "--target", "3", "-o", out)
    assert "note: the original in a session with onnxruntime's default settings" in result.stdout
    assert "differs from this file in 'scores' by up to 0." in result.stdout
    assert "without optimisation (ORT_DISABLE_ALL) it is what this file computes" in result.stdout
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    x = np.random.default_rng(0).normal(size=(1, 3, 244, 244)).astype(np.float32)
    (bare,) = onnxruntime.InferenceSession(path, options).run(None, {"image": x})
    found, fused = outputs(out, image=x)["scores"], outputs(path, image=x)["scores"]
    np.testing.assert_allclose(found, bare, rtol=1e-4, atol=1e-4)
    assert np.abs(found - fused).max() > 0.05


@pytest.mark.parametrize(
    ("name", "layer", "tolerance"),
    [
        ("torchscript-transformer", -3, 1e-5),
        ("squeezenet-fp16", -3, 1e-2),  # half precision: eleven bits
        ("lstm-scan", 0, 1e-5),
    ],
)
def test_the_gradient_at_a_layer_is_the_engines(
    shared: Path, tmp_path: Path, name: str, layer: int, tolerance: float
) -> None:
    path, out = model_of(shared, name), tmp_path / "g.onnx"
    loaded = LoadedModel(path, Backend("cpu", 2))
    example = loaded.network.example
    with Engine(provider="cpu", threads=2) as engine:
        engine.add("m", path)
        wanted = engine.layers("m")[layer].name
        target = next(one.name for one in engine.info("m").outputs if one.dtype.startswith("float"))
        shape = engine.predict("m", example, [target])[target].shape
        weights = np.random.default_rng(0).normal(size=shape)
        ask = AttributionRequest(
            "m", example, "gradient", [wanted], target=Target(target, weights.astype(np.float64))
        )
        expected = engine.attribute(ask).layers[wanted].values
        kind = loaded.graph.tensors()[target].dtype
    assert run("gradient", path, "--layer", wanted, "--target", f"{target}:", "-o", out).exit_code == 0
    found = outputs(out, **example, **{"target/weight": weights.astype(kind)})[f"gradient/{wanted}"]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.reshape(expected.shape) / scale, expected / scale, atol=tolerance)
