"""Runs of segments along the path of a sample, of which nothing leaves the program but sums and scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx_attribution.errors import Overloaded
from onnx_attribution.graph_tools.programs.segments import segments_program
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Path
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import row_limit
from onnx_attribution.server.engine.rows.points import feeds_at
from onnx_attribution.server.engine.rows.summed import Run
from onnx_attribution.values import Array


class Inside:
    """The program of a request, and how many rows one run of it may have."""

    def __init__(self, model: LoadedModel, resolved: Resolved, memory: int) -> None:
        at, table, choice = resolved.recipe.at, resolved.recipe.table, resolved.choice
        assert isinstance(at, Path)
        self._resolved = resolved
        self._session = model.session(
            ("segments", choice, id(table), at.conductance),
            lambda: segments_program(model.network, choice, rules=table, conductance=at.conductance),
        )
        self.limit = max(row_limit(model, resolved.samples, memory, self._session, self._shapes), 2)

    def _shapes(self, rows: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs: of every second row, at most, two segments were one before."""
        segments = rows + rows // 2
        given = {"ends": (segments, rows), "sign": (segments,), "width": (segments,)}
        own = {f"segment/{name}": shape for name, shape in given.items()}
        return {**self._resolved.samples.runs[0].shapes(rows), **own}

    def __call__(self, sample: int, runs: Iterable[Run]) -> Iterator[tuple[Run, dict[str, Array]]]:
        """What the program finds in each run; one for which the memory does not suffice is divided."""
        left = list(runs)
        while left:
            run = left.pop(0)
            feeds = feeds_at(self._resolved, [(sample, alpha) for alpha in run.alphas])
            try:
                found = self._session.run({**feeds, **run.inputs()})
            except Overloaded:
                if len(run.segments) == 1:
                    raise
                self.limit = max(len(run.alphas) // 2, 2)
                left[:0] = run.halves()
                continue
            yield run, found
