"""The report of an audit in Chromium: nothing is asked for, nothing is broken, and a phone shows it whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.browser.test_browser import ROOT, scripted
from tests.server.cli.commands import run


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, digits_path: Path) -> dict[str, Any]:
    """Returns what Chromium says of a report."""
    out = tmp_path_factory.mktemp("audit")
    done = run(
        "audit", digits_path, "--data", digits_path.with_name("digits.npz"), "--rows", "0:3", "--out", out,
        "--methods", "gradient,deeplift-rescale,guided-backprop", "--compare", digits_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(scripted("report.mjs", out / "report.html", out))
    return {**found, "file": (out / "report.html").as_uri()}


def test_the_page_asks_for_nothing_and_says_nothing_on_the_console(seen: dict[str, Any]) -> None:
    assert set(seen["requests"]) == {seen["file"]}
    assert seen["messages"] == []


@pytest.mark.parametrize("width", [1280, 390])
def test_no_picture_is_broken_and_nothing_lies_outside(seen: dict[str, Any], width: int) -> None:
    found = seen["widths"][str(width)]
    assert found["images"] > 40
    assert found["broken"] == 0
    assert found["page"] <= width
    assert found["narrow"] == 0
    assert found["smallest"] >= 12


def test_the_committed_example_opens_alone(tmp_path: Path) -> None:
    example = ROOT / "docs" / "audit" / "report.html"
    found = json.loads(scripted("report.mjs", example, tmp_path))
    assert set(found["requests"]) == {example.as_uri()}
    assert found["messages"] == []
    for width, one in found["widths"].items():
        assert one["broken"] == 0
        assert one["page"] <= int(width)
