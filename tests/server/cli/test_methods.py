"""`onnx-attribution methods`, and the pages that are written by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from onnx_attribution.methods import MethodInfo, Parameter, registered
from onnx_attribution.server.cli.app import app
from onnx_attribution.server.cli.methods import page, table
from onnx_attribution.server.engine.recipe import infos

ROOT = Path(__file__).parents[3]


def run(*arguments: str) -> str:
    """What the command printed."""
    result = CliRunner().invoke(app, ["methods", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_method_is_printed_with_its_parameters() -> None:
    text = run()
    assert all(name in text for name in registered())
    assert "between 1 and 16384" in text
    assert "LayerConductance" in text


def test_json_holds_parameters_bounds_and_facts() -> None:
    found = {one["name"]: one for one in json.loads(run("--json"))["methods"]}
    assert list(found) == list(registered())
    steps = next(one for one in found["neuron_ig"]["parameters"] if one["name"] == "steps")
    assert (steps["default"], steps["at_least"], steps["at_most"]) == (None, 1, 16384)
    assert found["neuron_ig"]["error_estimate"]
    assert not found["occlusion"]["needs_derivatives"]
    assert found["gradient"]["sums_to"] == ""


def test_the_pages_are_current() -> None:
    ours = [one for one in infos() if registered()[one.name].__module__.startswith("onnx_attribution.")]
    said = (ROOT / "docs/methods.md").read_text().strip().splitlines()
    assert said == "\n".join(page(ours)).splitlines(), (
        "write it anew: onnx-attribution methods --markdown > docs/methods.md"
    )
    assert "\n".join(table(ours)) in (ROOT / "README.md").read_text()


def test_the_page_of_a_method_without_sources_has_no_empty_line_and_no_broken_row() -> None:
    one = Parameter("scale", "number", 1.0, "Of |x|.")
    lines = list(page([MethodInfo("mine", "|g|", "|g|", (one,))]))
    assert not any(line.startswith("- Defined in") for line in lines)
    assert "| parameter | default | may be | what it is for |" in lines
    assert r"| `scale` | 1.0 | number | Of \|x\|. |" in lines
    assert r"| `mine` | \|g\| | none |" in lines


PLUGINS = {
    "leaves": "raise SystemExit('wanted another Python')",
    "breaks": "import a_module_that_is_not_there",
    "fails": """
from dataclasses import dataclass
from onnx_attribution.methods import Method, register
from onnx_attribution.server.engine.recipe import recipe

@register("fails")
@dataclass(frozen=True)
class Fails(Method):
    "A method without an end."

@recipe(Fails)
def fails(method):
    return 1 / 0
""",
}


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A folder of installed packages, each with a module that an entry point names."""
    for name, text in PLUGINS.items():
        (tmp_path / f"{name}.py").write_text(text)
        about = tmp_path / f"{name}-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (about / "entry_points.txt").write_text(f"[onnx_attribution.methods]\n{name} = {name}\n")
    return tmp_path


def test_packages_that_fail_are_told_and_stop_nothing_else(plugins: Path, digits_path: Path) -> None:
    def run_with(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "onnx_attribution.server.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(plugins), str(ROOT / "src")))},
        )

    np.save(plugins / "x.npy", np.zeros((1, 1, 8, 8), np.float32))
    listed = run_with("methods", "--json")
    assert listed.returncode == 0
    assert [one["name"] for one in json.loads(listed.stdout)["methods"]] == list(registered())
    asked, failed = (
        run_with("explain", digits_path, "--input", str(plugins / "x.npy"), "--method", name)
        for name in ("leaves", "fails")
    )
    assert (asked.returncode, failed.returncode) == (2, 2)
    for words in (listed.stderr, asked.stderr):
        assert "'leaves' could not be loaded: SystemExit: wanted another Python" in words
        assert "'breaks' could not be loaded: ModuleNotFoundError" in words
    for words in (listed.stderr, failed.stderr):
        assert "'fails' cannot be evaluated: its recipe raises ZeroDivisionError" in words
    assert "no method 'leaves'; there are: gradient, " in asked.stderr
