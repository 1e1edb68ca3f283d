"""The demo runs, shows revisions arriving, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[1]


def test_demo_shows_revisions_draws_a_picture_and_stops_its_server(tmp_path: Path) -> None:
    picture = tmp_path / "demo.png"
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "onnx_attribution.client.demo", "--output", str(picture)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - started < 60  # 2 s on an idle machine
    errors = [float(x) for x in re.findall(r"revision \d+:.*estimated error +([\d.]+)", result.stdout)]
    assert len(errors) >= 2
    assert errors[-1] < errors[0] / 4
    assert "deeplift_rescale" in result.stdout
    assert picture.read_bytes()[:4] == b"\x89PNG"
    address = re.search(r"server on 127\.0\.0\.1:(\d+)", result.stdout)
    assert address is not None
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(address[1]))) != 0, "the server still listens"


def test_a_digit_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from onnx_attribution.client.demo import main

    assert main(["--digit", "100000"]) == 2
    assert "--digit is 100000" in capsys.readouterr().err


def test_a_server_that_does_not_start_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx_attribution.client.demo import serving

    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))

    with pytest.raises(SystemExit, match="no models in"), serving(tmp_path):
        pass
