"""`onnx-attribution ops`: the table of operators, as text and as JSON, and the reasons for a refusal."""

from __future__ import annotations

import json

from typer.testing import CliRunner, Result

from onnx_attribution.errors import Reason
from onnx_attribution.graph_tools.catalogue import catalogue
from onnx_attribution.server.cli.app import app


def run(*arguments: str) -> Result:
    """Returns what the command did."""
    result = CliRunner().invoke(app, ["ops", *arguments])
    assert result.exit_code == 0, result.output
    return result


def test_every_operator_is_a_line_and_a_summary_follows() -> None:
    lines = run().stdout.splitlines()
    assert len([line for line in lines if line.startswith("ai.onnx ")]) >= 180
    assert f"{len(catalogue())} operators: " in lines[-1]
    assert "120 of them ONNX tags differentiable, 0 refused" in lines[-1]


def test_json_holds_the_same_operators() -> None:
    found = json.loads(run("--json").stdout)["operators"]
    assert [entry["operator"] for entry in found] == [entry.operator for entry in catalogue()]
    assert {"domain", "operator", "gradient", "deeplift", "reason", "tagged"} == set(found[0])


def test_pattern_picks_operators() -> None:
    found = json.loads(run("--pattern", "roipool", "--json").stdout)["operators"]
    assert [entry["operator"] for entry in found] == ["MaxRoiPool"]


def test_reasons_are_listed_with_what_to_do_instead() -> None:
    expected = [one for one in Reason if {"NotDifferentiable", "check"} & {*one.errors}]
    text = run("--reasons").stdout
    assert all(one in text for one in expected)
    found = json.loads(run("--reasons", "--json").stdout)["reasons"]
    assert found == [{"word": w, "meaning": w.meaning, "instead": w.instead} for w in expected]
    assert {"NO_PATH", "NO_RULE", "NOT_RUNNABLE"} <= {one["word"] for one in found}
