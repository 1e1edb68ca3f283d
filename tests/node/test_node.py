"""The example in Node, whose calls are made of the .proto, gives the numbers of the client in Python."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_attribution.client import Client
from onnx_attribution.server.app import background
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Array

FOLDER = Path(__file__).parents[2] / "examples" / "node"
SCRIPT = FOLDER / "attribute.mjs"


def explained(address: str) -> subprocess.CompletedProcess[str]:
    """What the example says of a server; skips where it cannot run."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node")
    if not (FOLDER / "node_modules" / "@grpc" / "grpc-js").is_dir():
        pytest.skip("no npm packages: make node")
    return subprocess.run([node, SCRIPT, address], capture_output=True, text=True, timeout=60)


def drawn() -> Array:
    """The digit that the example explains."""
    found = re.search(r"SEVEN = (.*);", SCRIPT.read_text())
    assert found is not None
    pixels = [int(one, 16) for one in re.sub(r'[" +]', "", found[1])]
    return (np.array(pixels, np.float32) / np.float32(15)).reshape(1, 1, 8, 8)


def test_the_example_gives_the_numbers_of_the_client_in_python(digits_path: Path) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        with background(engine, Settings(port=0)) as (address, _):
            done = explained(address)
            with Client(address) as client:
                given: dict[str, Any] = {
                    "method": "neuron_ig",
                    "layers": ["conv2"],
                    "target": 7,
                    "tolerance": 0.01,
                }
                layer = client.attribute("digits", drawn(), **given).layers["conv2"]
    assert done.returncode == 0, done.stderr
    assert "STOP_REASON_CONVERGED" in done.stdout
    shape, *numbers = re.search(
        r"conv2 \[(.*)\] sum (\S+) residual (\S+) L1 error (\S+)\nmost is unit (\d+): (\S+)", done.stdout
    ).groups()  # type: ignore[union-attr]
    assert shape == ",".join(map(str, layer.values.shape))
    expected = (
        layer.sum[0],
        layer.residual[0],
        layer.error_estimate[0],
        layer.values.argmax(),
        layer.values.max(),
    )
    np.testing.assert_allclose(np.array(numbers, float), expected, rtol=1e-4, atol=1e-6)


def test_an_error_is_said_by_its_status() -> None:
    with Engine(provider="cpu") as engine, background(engine, Settings(port=0)) as (address, _):
        done = explained(address)
    assert done.returncode == 1
    assert done.stderr.startswith("NOT_FOUND: no model 'digits'")
