"""An answer about one layer: its revisions as they come, each as HTML."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from onnx_attribution.server.web import words
from onnx_attribution.server.web.desk import Asked, Desk
from onnx_attribution.server.web.live import Events, State, revisions, streamed
from onnx_attribution.server.web.question import Question
from onnx_attribution.values import Attribution

SAVED = {"final": True, "number": None, "why": ""}


def routes(desk: Desk) -> list[BaseRoute]:
    async def stream(request: Request) -> Response:
        return streamed(desk, request, _events)

    return [Route("/stream", stream)]


async def _events(desk: Desk, questions: Sequence[Question], which: int) -> Events:
    asked = await desk.asked(questions[which])

    async def shown(answer: Attribution, state: State) -> str:
        return await asyncio.to_thread(shown_answer, desk, asked, answer, state)

    async for event in revisions(desk, asked.request, shown):
        yield event


def shown_answer(desk: Desk, asked: Asked, answer: Attribution, state: State, *, linked: bool = True) -> str:
    """An answer as HTML, in pictures and in words; `linked` to other pages."""
    told = words.told(answer, asked.info, asked.arrays, asked.baseline, desk.names)
    told["warnings"] = (*told["warnings"], *asked.notes)
    return desk.screen.render(
        "answer.html.j2",
        told=told,
        state=state,
        question=asked.question,
        command=asked.command,
        has_data=linked and desk.reading.has_data,
    )
