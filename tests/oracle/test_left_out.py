"""What is not compared, and why: every case of a method of ours is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.oracle import cases, file
from tests.oracle.file import Json
from tests.oracle.test_oracle import EQUAL, RUN


@pytest.fixture
def whole(shared: Path) -> Json:
    """Returns the whole file of cases, or skips."""
    assert (shared / "oracle" / "cases.json").is_file()
    return file.oracle()


def test_the_committed_cases_are_those_of_the_file(whole: Json) -> None:
    held = file.committed()
    assert len(held["cases"]) == 370
    for part in ("cases", "equivalences"):
        assert [item for item in held[part] if item not in whole[part]] == []
    assert held["models"].items() <= whole["models"].items()


def test_nothing_of_our_methods_is_left_out(whole: Json) -> None:
    """Twelve cases carry a caution and are compared as it says."""
    found = [file.caution(case) for case in file.cases() if case.get("caution")]
    assert found.count(file.ONLY_DELTA) == 8
    assert found.count(file.IN_DOUBLE) == 4
    assert not any(e.get("caution") for e in whole["equivalences"])
    assert len(file.DROPPED_NOTHING) == 1
    lift = [c for c in whole["cases"] if "deeplift" in c["method"].lower() and c not in file.cases()]
    assert {c["method"] for c in lift} == {"DeepLIFT_GenomicsDefault"}  # rule selections, tested beside


def test_every_method_has_cases_that_run() -> None:
    ran, known = cases.counts(RUN), cases.counts(file.cases())
    assert set(ran) == set(known) == set(file.METHODS)
    assert {e["lhs"]["method"] for e in EQUAL} >= {
        "DeepLift",
        "LayerConductance",
        "NeuronDeepLift",
        "Saliency",
    }
