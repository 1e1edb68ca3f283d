"""`onnx-attribution methods`, and the pages that are written by it."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from onnx_attribution.methods import registered
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
    assert (steps["default"], steps["at_least"], steps["at_most"]) == (64, 1, 16384)
    assert found["neuron_ig"]["error_estimate"]
    assert not found["occlusion"]["needs_derivatives"]
    assert found["gradient"]["sums_to"] == ""


def test_the_pages_are_current() -> None:
    ours = [one for one in infos() if registered()[one.name].__module__ == "onnx_attribution.methods"]
    said = (ROOT / "docs/methods.md").read_text().strip().splitlines()
    assert said == "\n".join(page(ours)).splitlines(), (
        "write it anew: onnx-attribution methods --markdown > docs/methods.md"
    )
    assert "\n".join(table(ours)) in (ROOT / "README.md").read_text()
