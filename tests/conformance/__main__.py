"""Every operator and every kind of file against independent oracles: `python -m tests.conformance`.

Runs the frozen backend cases and own models for the six operators they miss (reference evaluator in float64, else
onnxruntime in float64, else float32, by finite differences), the function-expanded twin of each case (the same gradient
as its plain form), second derivatives of one case an operator, and the real models of the shared folder where it is, at
four layers each (`gradients.py`).
Ends with status 1 if something that passed before does not; `--update` rewrites `passed.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from onnx_graphsurgeon.logger import G_LOGGER

from tests.conformance import cases, run
from tests.conformance.report import Outcome, Report, lost, update


def main(arguments: list[str]) -> int:
    """Prints what does not pass, what is left out and why, and the line that sums it up."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--update", action="store_true", help="rewrite passed.json")
    parser.add_argument("--operator", action="append", help="only this operator's cases; no models")
    given = parser.parse_args(arguments)
    if given.update and given.operator:
        parser.error("--update needs a whole run")
    G_LOGGER.severity = G_LOGGER.ERROR
    warnings.simplefilter("ignore")  # some cases overflow on purpose
    started, report = time.monotonic(), Report()
    for outcome in _outcomes(given.operator):
        _take(report, outcome)
    folder, same = os.environ.get("ONNX_ATTRIBUTION_TEST_DATA"), True
    if folder and not given.operator:
        same = _is_frozen(Path(folder))
        for outcome in run.model_outcomes(sorted(Path(folder).glob("models/*/model.onnx"))):
            _take(report, outcome)
    elif not given.operator:
        report.skipped.append("the real models; ONNX_ATTRIBUTION_TEST_DATA is not set")
    for words in report.skipped:
        print(f"skipped: {words}")
    print(f"{report.line()}   ({time.monotonic() - started:.0f} s)")
    if given.update:
        update(report)
        return 0
    regressions = lost(report)
    if not same:
        regressions.append("the list of cases, which is not that of the shared folder")
    for name in regressions:
        print(f"passed before, and does not now: {name}")
    return 1 if regressions else 0


def _take(report: Report, outcome: Outcome) -> None:
    report.outcomes.append(outcome)
    if outcome.verdict != "pass":
        print(f"{outcome.verdict:8} {outcome.id}: {outcome.detail}", flush=True)


def _outcomes(operators: list[str] | None) -> Iterator[Outcome]:
    """The frozen cases, the own ones, the twins and the second derivatives."""
    for part, table in cases.PARTS.items():
        for operator, rows in table.items():
            if operators and operator not in operators:
                continue
            for name, smooth in rows:
                yield run.case_outcome(operator, name, smooth, part)
                for twin in cases.twins(name):
                    yield run.twin_outcome(operator, name, twin)
            yield from run.double_outcome(operator, [name for name, smooth in rows if smooth])
    for operator in cases.OWN:
        if not operators or operator in operators:
            yield run.outcome(cases.own(operator))


def _is_frozen(folder: Path) -> bool:
    """Whether the committed list has the cases of the shared one."""
    theirs = json.loads((folder / "op_cases.json").read_text())
    return all(
        {operator: len(rows) for operator, rows in table.items()}
        == {operator: len(rows) for operator, rows in theirs[part].items()}
        for part, table in cases.PARTS.items()
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
