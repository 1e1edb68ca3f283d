"""What drivers have in common: an answer comes in stages, one for each revision, and has sums for each target."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Evaluation, Sums
from onnx_attribution.server.engine.rows.shared import of_one_tensor

Evaluations = Generator[int, object, list[Sums]]
"""Yields the rows evaluated by each run, and may be sent a reason to end; returns the sums of each target."""


SeveralEvaluations = Generator[int, None, list[Sums]]
"""The same of targets that are evaluated together."""


@dataclass(frozen=True)
class Stage:
    """One revision: the steps of its path once it has run (0: there is none), how many rows it evaluates as far as that
    is known before, its runs, and whether it is known once these are over that another one follows."""

    steps: Callable[[], int]
    planned: Callable[[], int]
    run: Callable[[], Evaluations]
    goes_on: Callable[[], bool] = lambda: False


Driver = Callable[[LoadedModel, Sequence[Resolved], int], Iterator[Stage]]
"""From a model, a request resolved for each of its targets and the bytes that the rows of a run may take to the stages
of the answer."""


def by_tensor(
    steps: int,
    asked: Sequence[Resolved],
    planned: Callable[[Resolved], int],
    run: Callable[[Sequence[Resolved]], SeveralEvaluations],
) -> Stage:
    """A stage in which the targets that are elements of one tensor are evaluated together."""

    def run_all() -> Evaluations:
        found: dict[int, Sums] = {}
        for numbers in of_one_tensor(asked):
            sums = yield from run([asked[k] for k in numbers])
            found.update(zip(numbers, sums, strict=True))
        return [found[k] for k in range(len(asked))]

    return Stage(lambda: steps, lambda: sum(map(planned, asked)), run_all)


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

    return Stage(lambda: steps, lambda: sum(map(planned, asked)), run_all)
