"""The pages under docs/: generated ones are current, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from onnx_attribution.server.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"])
GENERATED = re.findall(
    r"^\tonnx-attribution (.+) > (docs/\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE
)


@pytest.mark.parametrize(("arguments", "page"), GENERATED, ids=[page for _, page in GENERATED])
def test_generated_pages_are_what_their_command_prints(arguments: str, page: str) -> None:
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 0, result.output
    assert (ROOT / page).read_text() == result.stdout, "run: make docs"


def snippet(title: str) -> str:
    """The Python of a section of the contributors' page."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(rf"^## {title}\n.*?^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(code)


def test_the_method_of_the_contributors_page_can_be_asked_for() -> None:
    shown = (
        "import numpy as np, onnx.parser\n"
        "from onnx_attribution.server.engine import Engine\n"
        "from onnx_attribution.values import AttributionRequest\n"
        "text = '<ir_version: 9, opset_import: [\"\": 21]> g (float[N,1] x) => (float[N,1] y) { y = Mul(x, x) }'\n"
        "with Engine() as engine:\n"
        "    engine.add('square', onnx.parser.parse_model(text))\n"
        "    x = np.array([[3.0]], np.float32)\n"
        "    asked = AttributionRequest('square', {'x': x}, 'squared_gradient', factor=2)\n"
        "    print(engine.attribute(asked).layers['x'].values.item())\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{snippet('Add a method')}\n{shown}"],
        capture_output=True,
        text=True,
    )
    assert result.stdout == "72.0\n", result.stderr


def test_the_operator_of_the_contributors_page_is_registered() -> None:
    code = snippet("Add an operator")
    shown = "from onnx_attribution.graph_tools.operators import VJP; print(('com.example', 'Square') in VJP)"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\n{shown}"], capture_output=True, text=True
    )
    assert result.stdout == "True\n", result.stderr


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for path in re.findall(
        r"`((?:src|tests|client|server|graph_tools|proto|docs|examples|\.ci)/[\w./]*)`", text
    ):
        assert (ROOT / path).exists(), path


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    linked = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index)}
    assert {*PAGES} - {ROOT / "docs" / "README.md"} <= linked


def test_the_code_of_the_page_on_interventions_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs" / "ablation.md").read_text(), re.MULTILINE | re.DOTALL
    )
    made: dict[str, Any] = {}
    exec(code, made)
    assert made["found"].values.shape == (6, 4)
