"""What drivers have in common: an answer comes in stages, one for each revision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Evaluation


@dataclass(frozen=True)
class Stage:
    """One revision: the steps of its path (0: there is none), how many rows it evaluates as far as that is known
    before, and its runs."""

    steps: int
    planned: Callable[[], int]
    run: Callable[[], Evaluation]


Driver = Callable[[LoadedModel, Resolved, int], Iterator[Stage]]
"""From a model, a resolved request and the bytes that the rows of a run may take to the stages of the answer."""
