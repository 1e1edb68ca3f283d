"""An answer about one layer: its revisions as they come, each as HTML."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from onnx_attribution.client.messages import options_of
from onnx_attribution.server.web import words
from onnx_attribution.server.web.desk import Asked, Desk, sides
from onnx_attribution.server.web.question import Question
from onnx_attribution.values import Attribution, Completed, Progress, Revision

PROGRESS_SECONDS = 0.2
SAVED = {"final": True, "number": None, "why": ""}


def routes(desk: Desk) -> list[BaseRoute]:
    async def stream(request: Request) -> Response:
        """The revisions of an answer as they come: each as HTML, the last one marked."""

        async def events() -> AsyncIterator[str]:
            try:
                questions, which = sides(request)
                async for kind, told in _events(desk, questions[which]):
                    yield f"event: {kind}\ndata: {json.dumps(told)}\n\n"
            except asyncio.CancelledError:  # nobody is there any more
                return
            except Exception as error:
                yield f"event: refused\ndata: {json.dumps({'html': desk.screen.refusal(error)})}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return [Route("/stream", stream)]


async def _events(desk: Desk, question: Question) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
    asked = await desk.asked(question)
    revisions: dict[int, Attribution] = {}
    shown = 0.0
    async with desk.client.stream(
        asked.request.model, asked.request.inputs, **options_of(asked.request)
    ) as stream:
        async for event in stream:
            match event:
                case Progress():
                    if time.monotonic() - shown > PROGRESS_SECONDS:
                        shown = time.monotonic()
                        yield "progress", {"done": event.done, "planned": event.planned}
                case Revision():
                    revisions[event.number] = event.attribution
                    state: dict[str, Any] = {"final": False, "number": event.number, "why": ""}
                    text = await asyncio.to_thread(shown_answer, desk, asked, event.attribution, state)
                    yield "revision", {"html": text, "number": event.number}
                case Completed():
                    best = event.best_revision
                    state = {"final": True, "number": best, "why": event.stop_reason.replace("_", " ")}
                    text = await asyncio.to_thread(shown_answer, desk, asked, revisions[best], state)
                    yield "final", {"html": text, "number": best}


def shown_answer(
    desk: Desk, asked: Asked, answer: Attribution, state: Mapping[str, Any], *, linked: bool = True
) -> str:
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
