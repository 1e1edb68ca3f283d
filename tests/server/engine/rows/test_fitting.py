"""Runs are halved where memory runs out, and go on where they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from onnx_attribution.errors import Overloaded
from onnx_attribution.server.engine.rows.fitting import Fitting


def summed(most: int, tried: list[int]) -> Callable[[Sequence[int]], int]:
    def run(part: Sequence[int]) -> int:
        tried.append(len(part))
        if len(part) > most:
            raise Overloaded("no memory")
        return sum(part)

    return run


def test_each_row_is_run_once_in_runs_that_fit() -> None:
    fitting, tried = Fitting(8), list[int]()
    found = list(fitting.runs(range(10), summed(3, tried)))
    assert [row for part, _ in found for row in part] == list(range(10))
    assert [value for _, value in found] == [0 + 1, 2 + 3, 4 + 5, 6 + 7, 8 + 9]
    assert tried == [8, 4, 2, 2, 2, 2, 2]
    assert fitting.limit == 2  # which later rows know, too


def test_one_row_for_which_there_is_no_memory_is_told() -> None:
    with pytest.raises(Overloaded):
        list(Fitting(4).runs(range(4), summed(0, [])))
