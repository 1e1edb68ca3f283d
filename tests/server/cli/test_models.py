"""What a server serves can be listed, and what failed with its reason; `serve` says how many there are."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnx_attribution.server.app import background
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from tests.server.cli.commands import run

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(digits_path: Path, tmp_path: Path) -> Path:
    shutil.copy(digits_path, tmp_path / "digits.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    with Engine(provider="cpu") as engine:
        for name in ("digits", "broken"):
            engine.add(name, folder / f"{name}.onnx")
        with background(engine, Settings(port=0, models=(folder,))) as (address, server):
            assert server.looked.wait(20)
            yield address


def test_failures_are_listed_with_their_reason(server: str, folder: Path) -> None:
    before = run("models", "--server", server)
    assert "1 served, 1 failed, 1 not loaded yet" in before.stdout
    assert "not an ONNX model" in before.stdout
    assert str(folder) not in before.stdout
    after = run("models", "--server", server, "--load")
    assert after.exit_code == 0
    assert after.stdout.rstrip().endswith("1 served, 1 failed")
    told = json.loads(run("models", "--server", server, "--json").stdout)
    assert {one["name"]: one["state"] for one in told["models"]} == {"digits": "READY", "broken": "FAILED"}


@pytest.mark.parametrize("preload", [["*"], []])
def test_serve_says_in_one_line_what_is_served_and_how_to_list_it(folder: Path, preload: list[str]) -> None:
    config = folder / "settings.toml"
    config.write_text(f"models = [{str(folder)!r}]\nport = 0\nprovider = 'cpu'\npreload = {preload}\n")
    command = [sys.executable, "-m", "onnx_attribution.server.cli", "serve", "--config", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ONNX_ATTRIBUTION_PROT": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving 1 model on 127.0.0.1:")
            assert "1 failed (broken), health and metrics on http://127.0.0.1:" in line
            address = line.split(" on ")[1].split(",")[0]
            assert f"`onnx-attribution models --server {address}` lists them" in line
            process.send_signal(signal.SIGTERM)
            rest, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert rest == ""
    assert process.returncode == 0
    assert "ONNX_ATTRIBUTION_PROT is no setting" in errors
    assert "not an ONNX model" in errors


def test_serve_without_models_says_what_is_missing() -> None:
    result = run("serve", "--port", "0")
    assert result.exit_code == 2
    assert "name their folders" in result.stderr
