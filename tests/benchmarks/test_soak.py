"""The soak finds a server that leaks or exits, and its fuzzing is reproducible."""

from __future__ import annotations

from random import Random

import pytest

from benchmarks import soak
from benchmarks.soaking.attacks import mutated
from benchmarks.table import Figure


def missed(scenario: str, control: str) -> list[Figure]:
    """What a brief soak finds wrong."""
    return [figure for figure in soak.soak(1, 0, scenario, control) if figure.verdict == "missed"]


def test_a_leak_is_found() -> None:
    # 256 KiB for each of 40 refusals
    assert any(
        figure.what == "MiB that stay" and (figure.number or 0) > 8 for figure in missed("hostile", "leak")
    )


def test_an_exit_is_found() -> None:
    assert {figure.of for figure in missed("fuzz", "crash")} >= {"fuzzed messages"}


def test_fuzzed_messages_get_an_answer() -> None:
    assert not [figure for figure in missed("fuzz", "none") if figure.what != "slowest s"]


def test_a_scenario_that_fails_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> list[Figure]:
        raise RuntimeError("no server")

    monkeypatch.setattr(soak, "SCENARIOS", {"broken": broken})
    (figure,) = missed("broken", "none")
    assert figure.how == "RuntimeError: no server"


def test_a_seed_makes_the_same_messages() -> None:
    first, second = ([mutated(bytes(range(100)), Random(seed)) for seed in range(50)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 40
