"""Words of `values` to enum numbers and back: `freed` is BATCH_MODE_FREED."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from onnx_attribution import values as v
from onnx_attribution.errors import InvalidArgument, Unsupported
from onnx_attribution.proto import attribution_pb2 as pb

__all__ = ["BATCH_MODES", "MODEL_STATES", "STOP_REASONS", "Words"]

Word = TypeVar("Word", bound=str)
Number = TypeVar("Number", bound=int)


class Words(Generic[Word, Number]):
    """One enum's words."""

    def __init__(self, kind: str, numbers: Mapping[Word, Number]) -> None:
        self.kind = kind
        self.numbers: Mapping[str, Number] = dict(numbers.items())
        self.words: Mapping[int, Word] = {number: word for word, number in numbers.items()}

    def number(self, word: str) -> Number:
        """Raises: InvalidArgument for a word that is not in the enum."""
        if word not in self.numbers:
            raise InvalidArgument(f"{self.kind} {word!r} is not one of: {', '.join(self.numbers)}")
        return self.numbers[word]

    def word(self, number: int) -> Word:
        """Raises: Unsupported for a number that another protocol version added."""
        if number not in self.words:
            message = f"{self.kind} number {number} is not known here; known are: {', '.join(self.numbers)}"
            raise Unsupported(message, number=number)
        return self.words[number]


BATCH_MODES: Words[v.BatchMode, pb.BatchMode] = Words(
    "batch mode",
    {
        "dynamic": pb.BATCH_MODE_DYNAMIC,
        "freed": pb.BATCH_MODE_FREED,
        "single": pb.BATCH_MODE_SINGLE,
    },
)
STOP_REASONS: Words[v.StopReason, pb.StopReason] = Words(
    "stop reason",
    {
        "converged": pb.STOP_REASON_CONVERGED,
        "max_steps": pb.STOP_REASON_MAX_STEPS,
        "deadline_near": pb.STOP_REASON_DEADLINE_NEAR,
        "draining": pb.STOP_REASON_DRAINING,
        "exact": pb.STOP_REASON_EXACT,
    },
)
MODEL_STATES: Words[v.ModelState, pb.Model.State] = Words(
    "model state",
    {
        "READY": pb.Model.STATE_READY,
        "FAILED": pb.Model.STATE_FAILED,
        "UNLOADED": pb.Model.STATE_UNLOADED,
    },
)
