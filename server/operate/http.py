"""The HTTP port: whether the process lives, whether it is ready, and its metrics. More routes may be mounted beside."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.operate.metrics import Metrics

__all__ = ["Http", "routes"]

MOST_AT_ONCE = 256
END_SECONDS = 1


def routes(unready: Callable[[], str], metrics: Metrics) -> list[BaseRoute]:
    """/livez, /readyz and /metrics. `unready` says what stands in the way of readiness, "" if nothing does."""

    async def livez(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        why = unready()
        return JSONResponse({"ready": not why, **({"reason": why} if why else {})}, 503 if why else 200)

    async def exposed(request: Request) -> Response:
        body, kind = await asyncio.to_thread(metrics.exposed, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": kind})

    return [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", exposed)]


class Http:
    """A listener on the loop that runs."""

    def __init__(self, routes: Sequence[BaseRoute], middleware: Sequence[Middleware] = ()) -> None:
        self.app = Starlette(routes=list(routes), middleware=list(middleware))
        config = uvicorn.Config(
            self.app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=MOST_AT_ONCE,
            timeout_graceful_shutdown=END_SECONDS,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens, and returns the port. Raises: InvalidArgument if the address cannot be had."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise InvalidArgument(
                f"cannot listen on {host}:{port} for HTTP: {error.strerror}; http_port takes another one, 0 a free "
                "one, and --no-http does without"
            ) from None
        found: int = listener.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        await self._server.up.wait()
        return found

    async def stop(self) -> None:
        """Ends the answers that are being given, after a moment."""
        self._server.down.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=END_SECONDS + 1)


class _Server(uvicorn.Server):
    """uvicorn as a part of a server that has its own signals and its own end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up, self.down = asyncio.Event(), asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Waits, without looking at the clock ten times a second."""
        self.up.set()
        await self.down.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.server_state.connections:
            await super().shutdown(sockets)
        for server in self.servers:
            server.close()
        for one in sockets or ():
            one.close()
