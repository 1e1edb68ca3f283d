"""The conformance run itself: its line, what it calls lost, and that it would notice a wrong rule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators import VJP, NodeView
from onnx_attribution.graph_tools.operators.registry import Gradients
from tests.conformance import cases, run
from tests.conformance.report import PARTS, PASSED, Outcome, Report, lost, passing, update


@pytest.fixture
def report() -> Report:
    return Report(
        [
            Outcome("test_exp", "Exp", "schema", "pass"),
            Outcome("test_log", "Log", "schema", "fail", "z: 1, reference 2"),
            Outcome("own_Cast", "Cast", "own", "pass"),
            Outcome("test_dft", "DFT", "untagged", "pass"),
            Outcome("model/trees", "", "model", "refused", "no rule"),
            Outcome("model/digits", "", "model", "pass"),
        ]
    )


def test_line_counts_operators_cases_and_models(report: Report) -> None:
    assert report.line() == "operators 2/3   cases 1/2   untagged 1/1   models 2: 1 right, 1 refused (trees)"


def test_what_passed_before_and_fails_now_is_lost(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "passed.json"
    before = {"schema": ["test_exp", "test_log"], "own": ["own_Trilu"]}  # what was not run is not lost
    path.write_text(json.dumps(before))
    assert lost(report, path) == ["test_log"]


def test_update_keeps_the_parts_that_were_not_run(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "passed.json"
    path.write_text(json.dumps({"twin": ["test_elu_expanded"], "schema": ["test_log"]}))
    update(report, path)
    found = json.loads(path.read_text())
    assert found["twin"] == ["test_elu_expanded"]
    assert found["schema"] == ["test_exp"] == passing(report.outcomes)["schema"]


def test_committed_list_names_only_cases_there_are() -> None:
    passed = json.loads(PASSED.read_text())
    assert set(passed) == set(PARTS)
    for part, table in cases.PARTS.items():
        assert set(passed[part]) <= {name for rows in table.values() for name, _ in rows}
    assert set(passed["own"]) == {f"own_{operator}" for operator in cases.OWN}


def test_a_rule_that_is_wrong_by_a_thousandth_fails_its_case_and_its_twin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = VJP["", "Elu"]

    def wrong(op: Emitter, node: NodeView, g: Value) -> Gradients:
        (found,) = right.vjp(op, node, g)
        assert found is not None
        return (op("Mul", found, op.like(found, 1.001)),)

    monkeypatch.setitem(VJP, ("", "Elu"), replace(right, vjp=wrong))
    assert run.case_outcome("Elu", "test_elu", 1, "schema").verdict == "fail"
    assert run.twin_outcome("Elu", "test_elu", cases.twins("test_elu")[0]).verdict == "fail"


def test_second_derivative_of_a_linear_operator_is_left_out() -> None:
    assert list(run.double_outcome("Transpose", ["test_transpose_default"])) == []
    (found,) = run.double_outcome("Exp", ["test_exp"])
    assert found.verdict == "pass"
