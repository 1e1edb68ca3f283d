"""The benchmark of a device says that there is none, and asks what it can be asked without."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gpu
from onnx_attribution.server.engine import engine as engines
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.recipe import infos


def test_without_a_device_it_is_skipped_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "Backend", lambda provider: Backend("cpu"))
    assert gpu.main() == 0
    assert capsys.readouterr().out == "gpu: skipped, onnxruntime finds no CUDA device\n"


def test_every_method_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU in place of the device: the same numbers."""
    monkeypatch.setattr(engines, "Backend", lambda provider, threads, **_: Backend("cpu", threads))
    rows = list(gpu.compared("digits", Path("tests/data/digits/digits.onnx")))
    assert [row[1] for row in rows] == [one.name for one in infos()]
    assert all(row[2:] == ("0.0e+00", "") for row in rows)
