"""What gets better while one looks: the revisions of an answer as server-sent events, each with its HTML."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from onnx_attribution.client.messages import options_of
from onnx_attribution.server.web.desk import Desk, sides
from onnx_attribution.server.web.question import Question
from onnx_attribution.values import Attribution, AttributionRequest, Completed, Progress, Revision

PROGRESS_SECONDS = 0.2

Events = AsyncIterator[tuple[str, Mapping[str, Any]]]
"""Their kinds, `progress`, `revision` or `final`, and what they say."""

State = Mapping[str, Any]
"""Whether a revision is the final one, its number, and why none follows."""


async def revisions(
    desk: Desk, request: AttributionRequest, shown: Callable[[Attribution, State], Awaitable[str]]
) -> Events:
    """The answer to a request: how far it is, and each revision as it is shown, the last one marked."""
    known: dict[int, Attribution] = {}
    told = 0.0
    async with desk.client.stream(request.model, request.inputs, **options_of(request)) as stream:
        async for event in stream:
            match event:
                case Progress():
                    if time.monotonic() - told > PROGRESS_SECONDS:
                        told = time.monotonic()
                        yield "progress", {"done": event.done, "planned": event.planned}
                case Revision():
                    known[event.number] = event.attribution
                    state = {"final": False, "number": event.number, "why": ""}
                    text = await shown(event.attribution, state)
                    yield "revision", {"html": text, "number": event.number}
                case Completed():
                    best = event.best_revision
                    state = {"final": True, "number": best, "why": event.stop_reason.replace("_", " ")}
                    text = await shown(known[best], state)
                    yield "final", {"html": text, "number": best}


def streamed(
    desk: Desk, request: Request, events: Callable[[Desk, Sequence[Question], int], Events]
) -> Response:
    """The events of a question as they come; a refusal is one of them."""

    async def lines() -> AsyncIterator[str]:
        questions: Sequence[Question] = ()
        which = 0
        try:
            questions, which = sides(request)
            async for kind, told in events(desk, questions, which):
                yield f"event: {kind}\ndata: {json.dumps(told)}\n\n"
        except asyncio.CancelledError:  # nobody is there any more
            return
        except Exception as error:
            text = desk.screen.refusal(error, questions, which)
            yield f"event: refused\ndata: {json.dumps({'html': text})}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")
