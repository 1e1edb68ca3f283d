"""The page's own port, on this machine only."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from starlette.middleware import Middleware

from onnx_attribution.client.aio import AsyncClient
from onnx_attribution.server.operate.http import Http
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
    ready: list[int | BaseException] = []
    known, ended = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        async with client() as asked:
            shown = pages(asked)
            try:
                http = Http(shown.routes(), [Middleware(Guard, key=key)])
                ready.append(await http.start(HOST, port))
                known.set()
                await ended.wait()
                await http.stop()
            finally:
                shown.close()

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            ready.append(error)
            known.set()

    thread = threading.Thread(target=main, name="page", daemon=True)
    thread.start()
    known.wait()
    if isinstance(ready[0], BaseException):
        raise ready[0]
    try:
        yield f"http://{HOST}:{ready[0]}/?{KEY}={key}"
    finally:
        with suppress(RuntimeError):  # the loop has ended already
            loops[0].call_soon_threadsafe(ended.set)
        thread.join()
