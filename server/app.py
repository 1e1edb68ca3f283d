"""The server around an engine: gRPC and HTTP, health, what is known of its calls, and an end in two stages."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import grpc
import structlog
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection
from starlette.routing import BaseRoute

from onnx_attribution.errors import AttributionError, InvalidArgument, NotFound
from onnx_attribution.graph_tools.select.names import close_names
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import attribution_pb2_grpc as rpc
from onnx_attribution.proto import open_inference_pb2 as oip
from onnx_attribution.proto import open_inference_pb2_grpc as oip_rpc
from onnx_attribution.server.engine.engine import Engine as ModelEngine
from onnx_attribution.server.operate.http import Http, routes
from onnx_attribution.server.operate.kserve import routes as kserve_routes
from onnx_attribution.server.operate.logs import CallLog, configure
from onnx_attribution.server.operate.metrics import Metrics
from onnx_attribution.server.operate.on_thread import on_thread
from onnx_attribution.server.operate.process import for_serving
from onnx_attribution.server.operate.tls import server_credentials
from onnx_attribution.server.service.access import Access
from onnx_attribution.server.service.attribution import AttributionService, Engine, refusal
from onnx_attribution.server.service.calls import CallInterceptor, Listener, Listeners
from onnx_attribution.server.service.health import Health
from onnx_attribution.server.service.inference import InferenceService
from onnx_attribution.server.service.info import ServerService
from onnx_attribution.server.service.isolated import IsolatedEngine
from onnx_attribution.server.service.models import ModelService
from onnx_attribution.server.service.repository import Models, Repository, watch
from onnx_attribution.server.service.rest.rest import Rest
from onnx_attribution.server.service.status import ErrorInterceptor, scrubber
from onnx_attribution.server.service.threads import Work
from onnx_attribution.server.settings import Settings

if TYPE_CHECKING:
    from onnx_attribution.server.operate.traces import Traces

__all__ = ["Server", "background", "build", "engine_of", "serve"]

SERVICES = tuple(
    service.full_name
    for file in (pb.DESCRIPTOR, oip.DESCRIPTOR)
    for service in file.services_by_name.values()
)
HEALTH_SECONDS = 1.0
MIB = 1 << 20
MAX_CALLS = 4096
"""Far above what is admitted: gRPC refuses calls without a reason, and breaks those of a connection's beginning."""

log = structlog.get_logger(__name__)


def build(
    engine: Engine,
    settings: Settings,
    repository: Repository | None = None,
    *,
    metrics: Metrics | None = None,
    listeners: Sequence[Listener] = (),
) -> Server:
    """A server over the engine, not yet listening; needs a running event loop. `repository`: the model directories.

    `metrics` are those that the engine was given as its observer; `listeners` are told of every call.
    Where structlog is not configured, its log goes to standard error.
    """
    if not structlog.is_configured():
        configure(
            settings.log_level, settings.log_format
        )  # structlog's own prints local variables in tracebacks
    metrics = metrics or Metrics()
    work = Work(
        workers=settings.workers,
        max_unary=settings.max_unary,
        max_streams=settings.max_streams,
        max_audits=settings.max_audits,
        heartbeat=settings.heartbeat_seconds,
    )
    work.observer = metrics
    metrics.watch(lambda: work.pending, lambda: work.running, engine.models)
    scrub = scrubber(path if path.is_dir() else path.parent for path in settings.models)
    traces = _traces(settings)
    told = Listeners((metrics, *listeners, *traces))
    closing = [one for one in (*listeners, *traces) if isinstance(one, Closing)]
    calls = CallInterceptor(told)
    access = Access.of(settings)
    server = grpc.aio.server(
        interceptors=[calls, ErrorInterceptor(scrub, access, partial(refusal, work))],
        options=_options(settings),
        maximum_concurrent_rpcs=MAX_CALLS,
    )
    attributions = AttributionService(engine, work, settings, scrub)
    rpc.add_AttributionServiceServicer_to_server(attributions, server)
    folders = repository or Repository(cast(Models, engine), settings.models)
    rpc.add_ModelServiceServicer_to_server(ModelService(engine, work, settings, scrub, folders), server)
    rpc.add_ServerServiceServicer_to_server(ServerService(engine, work, settings), server)
    inference = InferenceService(engine, work, settings)
    oip_rpc.add_GRPCInferenceServiceServicer_to_server(inference, server)
    health = Health()
    health.add_to(server)
    reflection.enable_server_reflection((*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME), server)
    watched = folders if settings.watch else None
    more = []
    if settings.kserve:
        rest = Rest(attributions, inference, engine, work, settings, scrub, access, told)
        more = kserve_routes(rest, settings)
    built = Server(server, health, engine, work, settings, metrics, watched, closing, more)
    inference.is_ready = lambda: not built.unready()
    return built


@runtime_checkable
class Closing(Protocol):
    """What has something left to do when the server ends."""

    def close(self) -> None: ...


class Server:
    """A gRPC server and a port of HTTP with a graceful end. The engine is its owner's to close."""

    def __init__(
        self,
        server: grpc.aio.Server,
        health: Health,
        engine: Engine,
        work: Work,
        settings: Settings,
        metrics: Metrics,
        watched: Repository | None = None,
        closing: Sequence[Closing] = (),
        more: Sequence[BaseRoute] = (),
    ) -> None:
        self.work = work
        self.http_port: int | None = None
        self.ready = threading.Event()
        """Set once the models that are preloaded are loaded, or have failed."""
        self.looked = threading.Event()
        """Set once every file that is there at the beginning was looked at."""
        self._server = server
        self._health = health
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._watched = watched
        self._closing = closing
        self._http = Http([*routes(self.unready, metrics), *more]) if settings.http else None
        self._is_ending = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> int:
        """Listens, and returns the port. Raises: InvalidArgument if an address cannot be had, or no model fits a name
        that is to be preloaded."""
        wanted = _preloaded(self._engine, self._settings.preload)
        if not wanted:
            self.ready.set()
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
        if self._http is not None:
            self.http_port = await self._http.start(*self._settings.http_address)
        await self._server.start()
        self._tasks = [asyncio.create_task(self._watch_health()), asyncio.create_task(self._watch_models())]
        if self._watched is not None:
            self._tasks.append(asyncio.create_task(watch(self._watched, _log_change)))
        if wanted:
            self._tasks.append(asyncio.create_task(self._preload(wanted)))
        return port

    def unready(self) -> str:
        """What stands in the way of more calls, "" if nothing does."""
        if self._is_ending:
            return "the server is shutting down"
        if not self.ready.is_set():
            return "models are being loaded"
        if (seconds := self.work.overdue) > self._settings.hung_seconds:
            return f"a run has not returned, {seconds:.0f} s after its request ended"
        return ""

    async def drain(self) -> None:
        """The graceful end: streams finish with their best revision, new calls are refused, then all is stopped."""
        self._is_ending = True
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
        self._is_ending = True
        for task in self._tasks:
            task.cancel()
        # Streams that have ended are given a moment to send their last message.
        await self._server.stop(0.5 if self.work.draining.is_set() and not self.work.running else 0)
        if self._http is not None:
            await self._http.stop()
        self.work.close()
        for one in self._closing:
            await asyncio.to_thread(one.close)

    async def _preload(self, models: Sequence[str]) -> None:
        """Loads the models and runs each once; one that cannot be loaded is listed as failed."""
        for model in models:
            try:
                await self.work.run(
                    lambda model=model: self._engine.warm_up(model),  # type: ignore[misc]  # mypy#15459
                    self._settings.stream_seconds,
                    compute=False,
                )
            except AttributionError as error:
                log.warning("not loaded", model=model, why=error.message)
            except Exception as error:
                log.error("not loaded", model=model, exc_info=error)
        self.ready.set()
        await self._publish_health()

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_SECONDS)
            with suppress(Exception):  # an engine that fails says so to its callers
                await self._publish_health()

    async def _watch_models(self) -> None:
        """Looks at each file once, so that it is known before it is asked for whether it can be served."""
        looked: set[tuple[str, int]] = set()
        while True:
            with suppress(Exception):  # an engine that fails says so to its callers
                for info in await asyncio.to_thread(self._engine.models):
                    key, failed = (info.name, info.version), info.state == "FAILED"
                    if info.state == "UNLOADED" and key not in looked:
                        looked.add(key)  # first: it may end a process
                        failed = await self._look(f"{info.name}/versions/{info.version}")
                    if failed:
                        looked.discard(key)  # once its file has changed it is looked at again
                if not self.looked.is_set():
                    await self._publish_health()
                    self.looked.set()
            await asyncio.sleep(HEALTH_SECONDS)

    async def _look(self, model: str) -> bool:
        """Whether it turns out that the model cannot be served, which is logged."""
        try:
            info = await self.work.run(
                lambda: self._engine.look(model), self._settings.stream_seconds, compute=False
            )
        except NotFound:  # it is gone
            return False
        except AttributionError as error:
            log.warning("not looked at", model=model, why=error.message)
            return False
        except Exception as error:
            log.error("not looked at", model=model, exc_info=error)
            return False
        if info.state == "FAILED":
            log.warning("not loaded", model=model, why=info.reason)
        return info.state == "FAILED"

    async def _publish_health(self) -> None:
        """The server and its services serve once they are ready; a model does unless it failed to load."""
        models = await asyncio.to_thread(self._engine.models)
        self._metrics.models = frozenset(info.name for info in models)
        serving, not_serving = (
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        )
        own = not_serving if self.unready() else serving
        states = dict.fromkeys(("", *SERVICES), own)
        for info in models:
            states[f"models/{info.name}"] = not_serving if info.state == "FAILED" else serving
        await self._health.set(states)


def engine_of(settings: Settings, metrics: Metrics | None = None) -> ModelEngine | IsolatedEngine:
    """An engine as the settings want it, without models; `metrics` count what it does."""
    kind = partial(IsolatedEngine, prepare=for_serving) if settings.isolate else ModelEngine
    return kind(
        provider=settings.provider,
        threads=settings.threads or None,
        memory_budget=settings.memory_budget_mib * MIB,
        tf32=settings.tf32,
        devices=settings.devices,
        most_loaded=settings.most_loaded,
        observer=metrics,
    )


def serve(settings: Settings) -> None:
    """Serves the models of the settings until a signal: the first drains, the second aborts."""
    configure(settings.log_level, settings.log_format)
    for_serving()
    metrics = Metrics()
    engine = engine_of(settings, metrics)
    try:
        repository = Repository(engine, settings.models)
        repository.start(log_skipped)
        asyncio.run(_serve(engine, settings, repository, metrics))
    finally:
        engine.close()


def log_skipped(file: Path, why: str) -> None:
    """A file of a model directory that is not served."""
    log.warning("skipped", file=str(file), why=why)


def _log_change(model: str, what: str) -> None:
    log.info("models", model=model, what=what)


@contextmanager
def background(
    engine: Engine,
    settings: Settings,
    repository: Repository | None = None,
    *,
    metrics: Metrics | None = None,
    listeners: Sequence[Listener] = (),
) -> Iterator[tuple[str, Server]]:
    """A server on a thread of this process: its address and itself; drained at the end."""

    @asynccontextmanager
    async def listening() -> AsyncIterator[tuple[str, Server]]:
        server = build(engine, settings, repository, metrics=metrics, listeners=listeners)
        port = await server.start()
        yield settings.address.removesuffix(str(settings.port)) + str(port), server
        await server.drain()

    with on_thread(listening, "server") as found:
        yield found


async def _serve(
    engine: Engine,
    settings: Settings,
    repository: Repository | None = None,
    metrics: Metrics | None = None,
) -> None:
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):  # before all that takes time: none is missed
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    server = build(engine, settings, repository, metrics=metrics, listeners=[CallLog()])
    port = await server.start()
    http = f"{settings.http_address[0]}:{server.http_port}" if server.http_port else None
    log.info("serving", host=settings.host, port=port, http=http, models=len(engine.models()))
    await signals.get()
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


def _traces(settings: Settings) -> list[Traces]:
    if not settings.traces:
        return []
    try:
        from onnx_attribution.server.operate.traces import Traces, exporting

        return [Traces(exporting())]
    except ModuleNotFoundError as error:
        raise InvalidArgument(
            f"traces need {error.name}; install it with: pip install 'onnx-attribution[otel]'"
        ) from None


def _preloaded(engine: Engine, wanted: Sequence[str]) -> list[str]:
    """The models that fit the names or globs. Raises: InvalidArgument for one that fits none."""
    known = list(dict.fromkeys(info.name for info in engine.models())) if wanted else []
    found: dict[str, None] = {}
    for pattern in wanted:
        fitting = [name for name in known if fnmatchcase(name, pattern)]
        if not fitting:
            close = ", ".join(close_names(pattern, known)) or f"there are {len(known)} models"
            raise InvalidArgument(f"preload: no model {pattern!r}; close names: {close}")
        found |= dict.fromkeys(fitting)
    return list(found)


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_request_mib * MIB),
        ("grpc.max_send_message_length", int((settings.max_response_mib + 1) * MIB)),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.max_concurrent_streams", MAX_CALLS),
        ("grpc.so_reuseport", 0),  # a second server on the same port fails loudly
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
        ("grpc.http2.max_ping_strikes", 2),
        *([("grpc.max_connection_age_ms", int(1000 * age))] if (age := settings.connection_seconds) else []),
    ]
