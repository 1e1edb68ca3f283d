"""Requests to `Rest`, without a web server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    return Rest(attributions, InferenceService(engine, work, given), engine, work, given, _as_it_is)


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


@contextmanager
def serving_http(rest: Rest, **settings: Any) -> Iterator[str]:
    """The address of a server on loopback."""
    import threading
    import time

    import uvicorn
    from starlette.applications import Starlette

    from onnx_attribution.server.operate.kserve import routes

    app = Starlette(routes=routes(rest, Settings(**settings)))
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, ws="none", http="h11")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        end = time.monotonic() + 10
        while not server.started and time.monotonic() < end:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def _as_it_is(text: str) -> str:
    return text
