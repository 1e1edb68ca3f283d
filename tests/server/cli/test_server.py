"""The command line and a server: the same answers as from the file, and `serve` from start to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.app import background
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from tests.server.cli.commands import explained, run

ROOT = Path(__file__).parents[2]
Data = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="module")
def server(digits_path: Path) -> Iterator[str]:
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        with background(engine, Settings(port=0)) as (address, _):
            yield address


def test_a_server_answers_like_the_file(server: str, digits_path: Path, image: Path) -> None:
    options = (
        "--input",
        image,
        "--layer",
        "conv2",
        "--target",
        "3",
        "--baseline",
        "0.5",
        "--provider",
        "cpu",
    )
    near, far = explained(digits_path, *options), explained("digits", "--server", server, *options)
    for found in (near, far):
        del found["seconds"]
    assert near == far
    assert explained("other", "--server", server, "--model", "digits", *options)["method"] == "neuron_ig"
    listed = [
        json.loads(run("layers", *where, "--json").stdout)
        for where in ((digits_path,), ("digits", "--server", server))
    ]
    assert listed[0]["layers"] == listed[1]["layers"]


def test_a_server_occludes_like_the_file(server: str, digits_path: Path, image: Path) -> None:
    options = (
        "--input", image, "--method", "occlusion", "--window", "image=4x4", "--stride", "image=2x2",
        "--provider", "cpu",
    )  # fmt: skip
    near, far = explained(digits_path, *options), explained("digits", "--server", server, *options)
    assert near["layers"] == far["layers"]
    assert near["evaluations"] == far["evaluations"] > 4


def test_a_server_does_not_know_every_model(server: str, image: Path) -> None:
    result = run("explain", "other", "--server", server, "--input", image)
    assert result.exit_code == 2
    assert "'other'" in result.stderr


def test_no_server_is_status_1(image: Path) -> None:
    result = run("explain", "digits", "--server", "127.0.0.1:1", "--input", image)
    assert result.exit_code == 1
    assert "is it running" in result.stderr


def test_serve_tells_its_address_and_drains_at_ctrl_c(digits_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "onnx_attribution.server.cli",
        "serve",
        str(digits_path),
        "--port",
        "0",
        "--json",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["models"] == ["digits"]
        assert run("layers", "digits", "--server", told["address"]).exit_code == 0
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "draining" in errors
    assert "Traceback" not in errors


def test_serve_says_what_it_skips(tmp_path: Path) -> None:
    (tmp_path / "outside.onnx").write_bytes(b"")
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "my net.onnx").write_bytes(b"")
    (folder / "link.onnx").symlink_to(tmp_path / "outside.onnx")
    result = run("serve", folder)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert any("my net.onnx" in line and "is no name" in line for line in lines)
    assert any("link.onnx" in line and "out of the folder" in line for line in lines)
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["/no/such/folder"], "/no/such/folder"), (["--port", "70000", "{folder}"], "port"), (["{folder}"], "no models"),
     (["--host", "0.0.0.0", "{folder}"], "allow_insecure"), (["--provider", "tpu", "{folder}"], "provider")],
)  # fmt: skip
def test_serve_refuses_unusable_settings(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = run("serve", *(text.format(folder=tmp_path) for text in arguments))
    assert result.exit_code == 2
    assert said in result.stderr
