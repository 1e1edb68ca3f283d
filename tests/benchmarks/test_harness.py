"""The clock, the verdicts and the page of `make bench`, with figures that are made up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import table
from benchmarks.__main__ import measure
from benchmarks.bench import Bench
from benchmarks.networks import NETWORKS
from benchmarks.rows import SECTIONS, Section
from benchmarks.table import Figure, least, most
from benchmarks.timing import Ratio, Times, alternating


def test_programs_take_turns() -> None:
    turns: list[str] = []

    def run(name: str) -> None:
        turns.append(name)
        time.sleep(0.031)

    times = alternating({"a": lambda: run("a"), "b": lambda: run("b")}, rounds=3)
    assert "".join(turns) == "aabb" + 3 * "ab"
    assert [len(each) for each in times.rounds.values()] == [3, 3]


def test_a_short_program_is_repeated_within_a_turn() -> None:
    calls = 0

    def run() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.001)

    assert 0.001 <= alternating({"short": run}, rounds=1).median("short") < 0.03
    assert calls > 5


def test_a_ratio_is_the_median_of_those_within_each_round() -> None:
    times = Times(
        {"ours": (2.0, 30.0, 4.0), "forward": (1.0, 10.0, 2.0)}
    )  # a machine that is slow for one round
    assert times.ratio("ours", "forward") == Ratio(2.0, 2.0, 3.0)


def test_no_further_round_begins_when_the_time_is_over() -> None:
    times = alternating({"a": lambda: time.sleep(0.03)}, rounds=50, seconds=0.05)
    assert len(times.rounds["a"]) == 2


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (Figure("a", "b", 2.3, most(2.3)), "met"),
        (Figure("a", "b", Ratio(2.31, 2.0, 2.6), most(2.3)), "missed"),
        (Figure("a", "b", 1.0, least(1)), "met"),
        (Figure("a", "b", 0.9, least(1)), "missed"),
        (Figure("a", "b", float("nan"), least(1)), "missed"),
        (Figure("a", "b", 0.2, most(0.05), excused=True), "excused"),
        (Figure("a", "b", 0.01, most(0.05), excused=True), "met"),
        (Figure("a", "b", None, most(1), "torch is not installed"), ""),
        (Figure("a", "b", 3.0), ""),
    ],
)
def test_a_figure_is_judged_by_its_target(figure: Figure, verdict: str) -> None:
    assert figure.verdict == verdict


def test_every_row_has_the_columns_of_the_table() -> None:
    figures = [Figure("a|b", "c", Ratio(2.314, 2, 3), most(2)), Figure("a", "c", None, None, "not here")]
    text = table.section("Title", "Words.", figures)
    rows = [row for row in text.splitlines() if row.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {len(table.HEADER) + 1}
    assert rows[2] == "| a\\|b | c | 2.31 (2 to 3) | ≤ 2 | missed |  |"


def test_a_page_keeps_the_sections_that_were_not_measured(tmp_path: Path) -> None:
    page = tmp_path / "results" / "machine.md"
    for first in (1.0, 2.0):
        parts = {"First": table.section("First", "Words.", [Figure("a", "b", first)])}
        if first == 1.0:
            parts["Second"] = table.section("Second", "Words.", [Figure("c", "d", 7.0)])
        table.write(page, parts, 2)
    text = page.read_text()
    assert text.startswith("# machine\n")
    assert text.count("## First") == text.count("## Second") == 1
    assert "| a | b | 2 |" in text
    assert "| c | d | 7 |" in text
    assert "| a | b | 1 |" not in text


def test_the_name_of_a_machine_is_a_file_name() -> None:
    assert set(table.machine(2)) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert table.machine(2).endswith("-2-threads")


def test_only_the_sections_that_are_asked_for_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def figures(bench: Bench) -> Iterator[Figure]:
        yield Figure("a", "b", 2.0, most(1))

    def fails(bench: Bench) -> Iterator[Figure]:
        raise AssertionError("not asked for")

    made = (Section("one", "One", "Words.", figures), Section("two", "Two", "Words.", fails))
    monkeypatch.setattr("benchmarks.__main__.SECTIONS", made)
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    measure(Bench(tmp_path, 2), ["one"], write=True)
    printed = capsys.readouterr().out
    assert "0 of 1 targets met" in printed
    assert "missed: a: b 2 (≤ 1)" in printed
    assert "## One" in (tmp_path / f"{table.machine(2)}.md").read_text()


def test_networks_and_sections_have_names_of_their_own() -> None:
    assert len({network.key for network in NETWORKS}) == len(NETWORKS)
    assert (
        len({section.name for section in SECTIONS})
        == len({section.title for section in SECTIONS})
        == len(SECTIONS)
    )
    assert all(section.note for section in SECTIONS)
