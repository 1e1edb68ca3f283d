"""The page of metrics is what its module prints, and its example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from onnx_attribution.client.audit.metrics import METRICS
from onnx_attribution.client.audit.metrics.__main__ import page
from onnx_attribution.client.audit.trials import CHECKS

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "metrics.md").read_text()


def test_the_page_is_current() -> None:
    assert CHECKS  # which declare no metric of their own
    assert "\n".join(page()) + "\n" == TEXT, "run: make docs"
    assert all(f"`{name}`" in TEXT for name in METRICS)


def test_the_example_gives_each_method_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(compile(code, "docs/metrics.md", "exec"), {})
    told = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert told.keys() == {"gradient", "integrated_gradients", "guided_backprop"}
    assert told["guided_backprop"] == "fails"


def test_the_metrics_load_no_picture_library_until_it_is_needed() -> None:
    code = "import sys, onnx_attribution.client.audit.checks; print({'skimage', 'scipy', 'onnx'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "src")}
    )
    assert result.stdout == "set()\n", result.stderr
