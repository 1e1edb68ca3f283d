"""The README tells the truth: its code runs, its commands print what it shows, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from onnx_attribution.server.app import background
from onnx_attribution.server.cli.app import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from tests.method_names import METHODS
from tests.release.readme import shown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Returns the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def executed(code: str) -> str:
    """Returns what the code prints, in an interpreter of its own, so that nothing it registers stays."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_client_code_runs_against_a_server(digits_path: Path) -> None:
    first, references = [block for block in blocks("python") if "Client(" in block]
    assert len(first.splitlines()) <= 10
    assert "127.0.0.1:8081" in first
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        with background(engine, Settings(port=0)) as (address, _):
            shown, spread = (
                executed(code.replace("127.0.0.1:8081", address)) for code in (first, references)
            )
    assert "'conv2'" in shown
    assert "(1, 32, 8, 8)" in shown
    assert re.fullmatch(r"\[[\d.]+\] \[[\d.]+\]\n", spread)


def test_explanation_over_http_runs_against_a_server(digits_path: Path) -> None:
    (code,) = [block for block in blocks("python") if ":explain" in block]
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        with background(engine, Settings(port=0, kserve=True)) as (_, server):
            shown = executed(code.replace("127.0.0.1:8080", f"127.0.0.1:{server.http_port}"))
    assert shown.startswith("(32, 8, 8) ")


def test_embedded_code_runs() -> None:
    (code,) = [block for block in blocks("python") if "Engine(" in block]
    assert len(code.splitlines()) <= 10
    assert "(1, 32, 8, 8)" in executed(code)


def masked(text: str) -> list[list[str]]:
    """Returns the words of each line; decimals, which differ between machines, are masked."""
    return [re.sub(r"-?\d+\.\d+(e-?\d+)?", "#", line).split() for line in text.strip().splitlines()]


@pytest.mark.parametrize("block", blocks("console"))
def test_commands_print_what_the_readme_shows(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command, _, shown = block.partition("\n")
    prompt, name, *arguments = shlex.split(command)
    assert (prompt, name) == ("$", "onnx-attribution")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert masked(result.stdout) == masked(shown)


def test_every_method_is_named() -> None:
    assert all(f"`{method}`" in README for method in METHODS)


def test_links_and_paths_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
    for path in re.findall(r"`((?:src|tests|client|server|graph_tools|proto|docs)/[\w./]*)`", README):
        assert (ROOT / path).exists(), path


def test_every_link_of_the_published_readme_leads_somewhere() -> None:
    text = shown(README, "https://host/owner/name")
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    ours = [target for target in targets if target.startswith("https://host/owner/name/")]
    assert all(target.startswith("https://") for target in targets)
    assert len(ours) == len([one for one in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in one])
    assert any(one.endswith("docs/demo.png") and "/raw/v" in one for one in ours)


def test_the_published_readme_keeps_its_words_where_nobody_says_where_the_tree_is() -> None:
    text = shown(README)
    assert not re.search(r"\]\((?!https://)", text)
    assert "[errors]" not in text
    assert "Every error has a reason, a word that does not change: errors says" in text


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs" / "demo.png").stat().st_size < 200_000
