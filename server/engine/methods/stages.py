"""What drivers have in common: an answer comes in stages, one for each revision, and has sums for each target."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Evaluation, Sums

Evaluations = Generator[int, None, list[Sums]]
"""Yields the rows evaluated by each run; returns the sums of each target."""


@dataclass(frozen=True)
class Stage:
    """One revision: the steps of its path (0: there is none), how many rows it evaluates as far as that is known
    before, and its runs."""

    steps: int
    planned: Callable[[], int]
    run: Callable[[], Evaluations]


Driver = Callable[[LoadedModel, Sequence[Resolved], int], Iterator[Stage]]
"""From a model, a request resolved for each of its targets and the bytes that the rows of a run may take to the stages
of the answer."""


def one_by_one(
    steps: int,
    asked: Sequence[Resolved],
    planned: Callable[[Resolved], int],
    run: Callable[[Resolved], Evaluation],
) -> Stage:
    """A stage in which the targets are evaluated one after the other."""

    def run_all() -> Evaluations:
        found = []
        for one in asked:
            found.append((yield from run(one)))
        return found

    return Stage(steps, lambda: sum(map(planned, asked)), run_all)
