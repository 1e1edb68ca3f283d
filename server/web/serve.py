"""The page's own port, on this machine only."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from starlette.middleware import Middleware

from onnx_attribution.client.aio import AsyncClient
from onnx_attribution.server.operate.http import Http
from onnx_attribution.server.operate.on_thread import on_thread
from onnx_attribution.server.web.guard import KEY, Guard
from onnx_attribution.server.web.pages import Pages

HOST = "127.0.0.1"


@contextmanager
def serving(
    client: Callable[[], AsyncClient], pages: Callable[[AsyncClient], Pages], port: int = 0
) -> Iterator[str]:
    """The page on a thread of this process: the address to open, with its key.

    Raises:
        InvalidArgument: the port cannot be had.
    """
    key = secrets.token_urlsafe(16)

    @asynccontextmanager
    async def listening() -> AsyncIterator[str]:
        async with client() as asked:
            shown = pages(asked)
            try:
                http = Http(shown.routes(), [Middleware(Guard, key=key)])
                found = await http.start(HOST, port)
                yield f"http://{HOST}:{found}/?{KEY}={key}"
                await http.stop()
            finally:
                shown.close()

    with on_thread(listening, "page") as url:
        yield url
