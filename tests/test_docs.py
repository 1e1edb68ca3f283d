"""The pages under docs/: generated ones are current, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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


def test_the_operator_of_the_contributors_page_is_registered() -> None:
    (code,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL
    )
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
