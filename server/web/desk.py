"""What all pages share: whom they ask, what was sent to them, and a question with all that is known of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.requests import Request

from onnx_attribution.client.aio import AsyncClient
from onnx_attribution.client.niwt.unit_names import UnitNames
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import MethodInfo
from onnx_attribution.server.web.inputs import Inputs
from onnx_attribution.server.web.question import Question, Reading
from onnx_attribution.server.web.screen import Screen
from onnx_attribution.server.web.uploads import Uploads
from onnx_attribution.values import Array, Attribution, AttributionRequest, ModelInfo

KEPT = 16
"""Answers of one kind that stay while people go from layer to layer."""

FILED = ("baseline_file", "references")
"""Fields of a question that name files beside the input."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Asked:
    """A question with all that is known of it; `baseline` is in words."""

    question: Question
    info: ModelInfo
    about: MethodInfo
    arrays: Mapping[str, Array]
    request: AttributionRequest
    baseline: str
    command: str
    notes: tuple[str, ...]


class Desk:
    """What pages are made with. `names` are those of units."""

    def __init__(self, client: AsyncClient, reading: Reading, names: UnitNames) -> None:
        self.client = client
        self.reading = reading
        self.names = names
        self.uploads = Uploads()
        self.screen = Screen(self.uploads.folder)
        self.inputs = Inputs(reading, self.uploads)
        self.spines = Kept[Attribution]()

    async def asked(self, question: Question) -> Asked:
        """The request of a question. Raises: AttributionError: it cannot be answered."""
        info = await self.client.model(question.model)
        given = await self.inputs.given(question, info)
        methods = {one.name: one for one in await self.client.methods()}
        if question.method not in methods:
            raise InvalidArgument(f"the server has no method {question.method!r}; choose one of the list")
        named = {name: getattr(question, name) for name in FILED}
        files = {name: self.inputs.files(question.model, key) for name, key in named.items() if key}
        own = question.about(given)
        request, options, notes = await asyncio.to_thread(
            self.reading.request, own, info, methods[question.method], given, files
        )
        return Asked(
            question=question,
            info=info,
            about=methods[question.method],
            arrays=request.inputs,
            request=request,
            baseline=self.baseline(question),
            command=own.command(self.reading.place(question.model), options),
            notes=tuple(dict.fromkeys((*given.notes, *notes))),
        )

    def baseline(self, question: Question) -> str:
        """What the target is compared with, in words; "" for the default."""
        several = self.inputs.called(question.references)
        words = [question.baseline, self.inputs.called(question.baseline_file)]
        return " and ".join([*filter(None, words), *[f"the mean over those of {several}"] * bool(several)])


def sides(request: Request) -> tuple[list[Question], int]:
    """The questions of an address, and which of them is meant."""
    questions = Question.both(request.query_params)
    return questions, len(questions) - 1 if request.query_params.get("side") == "1" else 0


class Kept(Generic[Value]):
    """What was computed for a question about a model; the oldest gives way."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Question], Value] = {}

    def get(self, info: ModelInfo, question: Question) -> Value | None:
        return self._known.get((info.digest, question))

    def keep(self, info: ModelInfo, question: Question, value: Value) -> Value:
        while len(self._known) >= KEPT:
            del self._known[next(iter(self._known))]
        self._known[info.digest, question] = value
        return value
