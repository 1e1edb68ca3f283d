"""The server around an engine: listener, health, reflection, and an end in two stages."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, cast

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import attribution_pb2_grpc as rpc
from onnx_attribution.server.engine.engine import Engine as ModelEngine
from onnx_attribution.server.operate.tls import server_credentials
from onnx_attribution.server.service.access import Access
from onnx_attribution.server.service.attribution import AttributionService, Engine
from onnx_attribution.server.service.info import ServerService
from onnx_attribution.server.service.isolated import IsolatedEngine
from onnx_attribution.server.service.models import ModelService
from onnx_attribution.server.service.repository import Models, Repository, watch
from onnx_attribution.server.service.status import ErrorInterceptor, scrubber
from onnx_attribution.server.service.threads import Work
from onnx_attribution.server.settings import Settings

__all__ = ["Server", "background", "build", "serve"]

SERVICES = tuple(service.full_name for service in pb.DESCRIPTOR.services_by_name.values())
HEALTH_SECONDS = 1.0
MIB = 1 << 20

log = structlog.get_logger(__name__)


def build(engine: Engine, settings: Settings, repository: Repository | None = None) -> Server:
    """A server over the engine, not yet listening; needs a running event loop. `repository`: the model directories.

    Where structlog is not configured, its log goes to standard error.
    """
    if not structlog.is_configured():
        log_to_stderr()  # structlog's own default prints the local variables of tracebacks
    work = Work(
        workers=settings.workers,
        max_unary=settings.max_unary,
        max_streams=settings.max_streams,
        max_audits=settings.max_audits,
        heartbeat=settings.heartbeat_seconds,
    )
    scrub = scrubber(path if path.is_dir() else path.parent for path in settings.models)
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(scrub, Access.of(settings))],
        options=_options(settings),
        maximum_concurrent_rpcs=512,
    )
    rpc.add_AttributionServiceServicer_to_server(AttributionService(engine, work, settings, scrub), server)
    folders = repository or Repository(cast(Models, engine), settings.models)
    rpc.add_ModelServiceServicer_to_server(ModelService(engine, work, settings, scrub, folders), server)
    rpc.add_ServerServiceServicer_to_server(ServerService(engine, settings), server)
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection((*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME), server)
    return Server(server, health, engine, work, settings)


class Server:
    """A gRPC server with a graceful end. The engine is its owner's to close."""

    def __init__(
        self, server: grpc.aio.Server, health: HealthServicer, engine: Engine, work: Work, settings: Settings
    ) -> None:
        self.work = work
        self._server = server
        self._health = health
        self._engine = engine
        self._settings = settings
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listens, and returns the port. Raises: InvalidArgument if the address cannot be had."""
        await self._publish_health()
        credentials = server_credentials(self._settings)
        try:
            port: int = (
                self._server.add_insecure_port(self._settings.address)
                if credentials is None
                else self._server.add_secure_port(self._settings.address, credentials)
            )
        except RuntimeError:
            raise InvalidArgument(f"cannot listen on {self._settings.address}: is the port in use?") from None
        await self._server.start()
        self._watch = asyncio.create_task(self._watch_health())
        return port

    async def drain(self) -> None:
        """The graceful end: streams finish with their best revision, new calls are refused, then all is stopped."""
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._settings.lame_duck)
        self.work.draining.set()
        # The listener stays while calls run: a new one gets a reason and not just a broken connection.
        end = asyncio.get_running_loop().time() + self._settings.grace_seconds
        while self.work.running and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        await self.stop()

    async def stop(self) -> None:
        """The abrupt end: cancels what still runs."""
        if self._watch is not None:
            self._watch.cancel()
        # Streams that have ended are given a moment to send their last message.
        await self._server.stop(0.5 if self.work.draining.is_set() and not self.work.running else 0)
        self.work.close()

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_SECONDS)
            with suppress(Exception):  # an engine that fails says so to its callers
                await self._publish_health()

    async def _publish_health(self) -> None:
        """The server and its services serve; a model does unless it failed to load."""
        serving = health_pb2.HealthCheckResponse.SERVING
        for name in ("", *SERVICES):
            await self._health.set(name, serving)
        for info in await asyncio.to_thread(self._engine.models):
            failed = info.state == "FAILED"
            status = health_pb2.HealthCheckResponse.NOT_SERVING if failed else serving
            await self._health.set(f"models/{info.name}", status)


def serve(settings: Settings) -> None:
    """Serves the models of the settings until a signal: the first drains, the second aborts."""
    log_to_stderr()
    make = IsolatedEngine if settings.isolate else ModelEngine
    engine = make(
        provider=settings.provider,
        threads=settings.threads or None,
        memory_budget=settings.memory_budget_mib * MIB,
        tf32=settings.tf32,
        devices=settings.devices,
        most_loaded=settings.most_loaded,
    )
    try:
        repository = Repository(engine, settings.models)
        repository.start(_log_skipped)
        asyncio.run(_serve(engine, settings, repository))
    finally:
        engine.close()


def _log_skipped(file: Path, why: str) -> None:
    log.warning("skipped", file=str(file), why=why)


def _log_change(model: str, what: str) -> None:
    log.info("models", model=model, what=what)


@contextmanager
def background(engine: Engine, settings: Settings) -> Iterator[tuple[str, Server]]:
    """A server on a thread of this process: its address and itself; drained at the end."""
    ready: list[tuple[str, Server, asyncio.AbstractEventLoop] | BaseException] = []
    known, ended = threading.Event(), asyncio.Event()

    async def run() -> None:
        server = build(engine, settings)
        port = await server.start()
        address = settings.address.removesuffix(str(settings.port)) + str(port)
        ready.append((address, server, asyncio.get_running_loop()))
        known.set()
        await ended.wait()
        await server.drain()

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            ready.append(error)
            known.set()

    thread = threading.Thread(target=main, name="server", daemon=True)
    thread.start()
    known.wait()
    if isinstance(ready[0], BaseException):
        raise ready[0]
    address, server, loop = ready[0]
    try:
        yield address, server
    finally:
        with suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(ended.set)
        thread.join()
        if len(ready) > 1 and isinstance(ready[1], BaseException):
            raise ready[1]


async def _serve(engine: Engine, settings: Settings, repository: Repository | None = None) -> None:
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):  # before all that takes time: none is missed
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    server = build(engine, settings, repository)
    port = await server.start()
    watched = repository if settings.watch else None
    watching = asyncio.create_task(watch(watched, _log_change)) if watched else None
    log.info("serving", host=settings.host, port=port, models=len(engine.models()))
    await signals.get()
    if watching is not None:
        watching.cancel()
    log.info("draining", running=server.work.running)
    draining, second = asyncio.create_task(server.drain()), asyncio.create_task(signals.get())
    await asyncio.wait([draining, second], return_when=asyncio.FIRST_COMPLETED)
    if draining.done():
        second.cancel()
        await draining
    else:
        log.info("aborting", running=server.work.running)
        draining.cancel()
        await server.stop()
    log.info("stopped")


class _Stderr:
    """Standard error as it is at each write: tests and embedding programs replace it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def log_to_stderr() -> None:
    """Sends the server's log to standard error."""
    # Plain tracebacks: the rich ones print local variables, and inputs must never be logged.
    render = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    stamp = structlog.processors.TimeStamper(fmt="iso")
    structlog.configure(
        processors=[structlog.processors.add_log_level, stamp, render],
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stderr())),
    )


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_request_mib * MIB),
        ("grpc.max_send_message_length", int((settings.max_response_mib + 1) * MIB)),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.max_concurrent_streams", 100),
        ("grpc.so_reuseport", 0),  # a second server on the same port fails loudly
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
        ("grpc.http2.max_ping_strikes", 2),
    ]
