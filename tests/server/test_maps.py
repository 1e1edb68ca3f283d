"""Maps and Shapley values over gRPC and on the command line: as the engine answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.client import Client
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import AttributionRequest, Target
from tests.server.cli.commands import explained

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]
ASKED: dict[str, dict[str, Any]] = {
    "grad_cam": {"layers": ["relu2", "conv1"], "sign": "absolute", "upsample": "linear"},
    "grad_cam_pp": {"form": "jacobgil", "sign": "signed", "attr_dim_summation": False},
    "hires_cam": {"relu_attributions": True, "upsample": "nearest"},
    "layer_cam": {"layers": ["conv2"], "channel_axis": 1},
    "xgrad_cam": {"upsample": "linear_corners"},
    "full_grad": {"sign": "positive", "normalise": False, "upsample": "linear"},
    "full_grad_terms": {},
    "guided_grad_cam": {"layers": ["conv2"], "relu_attributions": False, "upsample": "linear"},
    "kernel_shap": {"windows": {"image": (2, 4)}, "strides": {"image": (2, 4)}, "coalitions": 60, "seed": 3},
    "smoothgrad": {"of": "grad_cam(sign=positive, upsample=linear)", "draws": 3, "layers": ["conv2"]},
}


@pytest.fixture(scope="module")
def engine(digits_path: Path) -> Iterator[Engine]:
    with Engine(provider="cpu", threads=2) as engine:
        engine.add("digits", digits_path)
        yield engine


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Client]:
    with app.background(engine, Settings(port=0)) as (address, _), Client(address) as client:
        yield client


@pytest.mark.parametrize("method", ASKED)
def test_remote_maps_equal_the_embedded_ones(
    engine: Engine, client: Client, digits_data: Digits, method: str
) -> None:
    images, given = digits_data[0][:2], ASKED[method]
    targets: Any = [7, Target("dense1", 3)]
    here = engine.attribute(AttributionRequest("digits", {"image": images}, method, targets=targets, **given))
    there = client.attribute("digits", images, method=method, targets=targets, **given)
    assert list(there.layers) == list(here.layers)
    assert there.warnings == here.warnings
    for name, layer in here.layers.items():
        assert layer.values.shape[:2] == (2, 2)
        np.testing.assert_array_equal(there.layers[name].values, layer.values)
        np.testing.assert_array_equal(there.layers[name].error_estimate, layer.error_estimate)
        np.testing.assert_array_equal(there.layers[name].sum, layer.sum)
    if here.joint_residual is not None:
        assert there.joint_residual is not None
        np.testing.assert_array_equal(there.joint_residual, here.joint_residual)


def test_a_map_is_asked_for_drawn_and_written_on_the_command_line(
    engine: Engine, digits_path: Path, digits_data: Digits, tmp_path: Path
) -> None:
    np.save(tmp_path / "image.npy", digits_data[0][:1])
    options: list[Any] = [
        "--input",
        tmp_path / "image.npy",
        "--target",
        "7",
        "--output",
        tmp_path / "out.npz",
    ]
    found = explained(
        digits_path, *options, "--method", "grad-cam", "--sign", "positive", "--upsample", "linear",
        "--relu-attributions", "--plot", tmp_path / "map.png",
    )  # fmt: skip
    assert any("no layer is named: the map is of" in words for words in found["warnings"])
    asked = AttributionRequest(
        "digits", {"image": digits_data[0][:1]}, "grad_cam", target=7, sign="positive", upsample="linear",
        relu_attributions=True,
    )  # fmt: skip
    answer: Any = engine.attribute(asked)
    ((name, layer),) = answer.layers.items()
    assert layer.values.shape == (1, 1, 8, 8)
    with np.load(tmp_path / "out.npz") as data:
        np.testing.assert_allclose(data[name], layer.values, rtol=1e-5, atol=1e-6)
    assert (tmp_path / "map.png").stat().st_size > 5000


def test_shapley_values_of_quarters_sum_to_the_change_on_the_command_line(
    digits_path: Path, digits_data: Digits, tmp_path: Path
) -> None:
    np.save(tmp_path / "image.npy", digits_data[0][:1])
    found = explained(
        digits_path, "--input", tmp_path / "image.npy", "--target", "7", "--method", "kernel-shap", "--window", "4x4",
        "--output", tmp_path / "out.npz",
    )  # fmt: skip
    with np.load(tmp_path / "out.npz") as data:
        quarters = data["image"][0, 0, ::4, ::4]
    target = found["targets"][0] if "targets" in found else found["target"]
    change = target["value"][0] - target["baseline_value"][0]
    np.testing.assert_allclose(quarters.sum(), change, rtol=1e-5)
