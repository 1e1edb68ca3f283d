"""Requests to `Rest`, without a web server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from onnx_attribution.server.service.access import Access
from onnx_attribution.server.service.attribution import AttributionService
from onnx_attribution.server.service.inference import InferenceService
from onnx_attribution.server.service.rest.rest import Answer, Asked, Rest
from onnx_attribution.server.service.threads import Work
from onnx_attribution.server.settings import Settings


def rest_of(engine: Any, work: Work | None = None, **settings: Any) -> Rest:
    given = Settings(**settings)
    work = work or Work(
        workers=given.workers, max_unary=given.max_unary, max_streams=given.max_streams, heartbeat=15
    )
    attributions = AttributionService(engine, work, given, _as_it_is)
    inference, access = InferenceService(engine, work, given), Access.of(given)
    return Rest(attributions, inference, engine, work, given, _as_it_is, access)


def ask(
    rest: Rest, method: str, path: str, body: bytes | object = b"", headers: dict[str, str] | None = None
) -> Answer:
    """The answer to one request; a body that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def read() -> bytes:
        return data

    return asyncio.run(rest.answer(Asked(method, path, headers or {}, read)))


def said(answer: Answer) -> Any:
    """The JSON of an answer, which has no words beyond JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(answer.body, parse_constant=refuse)


def _as_it_is(text: str) -> str:
    return text
