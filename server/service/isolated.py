"""An engine in a process of its own: a model that ends the process does not end the server.

The child does what it is told over a pipe: calls by number, those that stream one event at a time. Where it ends, all
calls that ran there are told so, with the models that were at work; with the next call another child is started, and
knows the same models.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Self

from onnx_attribution.errors import AttributionError, Cancelled, NotReady, Reason
from onnx_attribution.interventions import Intervened, Intervention
from onnx_attribution.methods import MethodInfo
from onnx_attribution.server.engine.engine import Engine
from onnx_attribution.server.engine.interrupt import Interrupt, current
from onnx_attribution.server.engine.observe import Observer, Silent
from onnx_attribution.values import (
    Array,
    AttributionRequest,
    Event,
    LayerInfo,
    ModelInfo,
    Selection,
    StopReason,
    Target,
)

POLL = 0.05  # seconds between questions whether a call is still wanted
Stop = Callable[[], StopReason | Literal["cancelled"] | None]


class IsolatedEngine:
    """The calls of `Engine` that a server makes, in a child process; thread-safe.

    `observer` is told of the runs in the child with the next answer from there; `prepare`, a function of a module, is
    called there before all else.
    """

    def __init__(
        self, *, observer: Observer | None = None, prepare: Callable[[], None] | None = None, **options: Any
    ) -> None:
        self._options, self._observer, self._prepare = options, observer or Silent(), prepare
        self._child: _Child | None = None
        self._starting = threading.Lock()
        self._models: dict[tuple[str, int], Path] = {}
        self._closed = False
        self.provider = str(self._call("provider"))

    def add(self, name: str, model: Path, *, version: int = 1) -> None:
        self._models[name, version] = model
        self._call("add", name, model, version=version)

    def load(self, name: str, model: Path, *, version: int = 1) -> ModelInfo:
        found: ModelInfo = self._call("load", name, model, version=version, about=name)
        self._models[name, version] = model
        return found

    def remove(self, name: str, version: int | None = None, *, wait: float = 0) -> bool:
        closed = bool(self._call("remove", name, version, wait=wait))
        for key in [key for key in self._models if key[0] == name and version in (None, key[1])]:
            del self._models[key]
        return closed

    def models(self) -> list[ModelInfo]:
        found: list[ModelInfo] = self._call("models")
        return found

    def methods(self) -> list[MethodInfo]:
        found: list[MethodInfo] = self._call("methods")
        return found

    def info(self, model: str) -> ModelInfo:
        found: ModelInfo = self._call("info", model, about=model)
        return found

    def look(self, model: str) -> ModelInfo:
        found: ModelInfo = self._call("look", model, about=model)
        return found

    def warm_up(self, model: str) -> ModelInfo:
        found: ModelInfo = self._call("warm_up", model, about=model)
        return found

    def layers(self, model: str, pattern: str = "", target: str = "") -> list[LayerInfo]:
        found: list[LayerInfo] = self._call("layers", model, pattern, target, about=model)
        return found

    def predict(
        self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        found: dict[str, Array] = self._call("predict", model, dict(inputs), tuple(outputs), about=model)
        return found

    def intervene(
        self,
        model: str,
        inputs: Mapping[str, Array],
        interventions: Intervention | Sequence[Intervention],
        *,
        target: Target | Selection = None,
        outputs: Sequence[str] = (),
        donors: Mapping[str, Array] | None = None,
    ) -> Intervened:
        found: Intervened = self._call(
            "intervene",
            model,
            inputs,
            interventions,
            target=target,
            outputs=outputs,
            donors=donors,
            about=model,
        )
        return found

    def stream(
        self, request: AttributionRequest, *, stop: Stop | None = None, revisions: bool = True
    ) -> Iterator[Event]:
        """The events of `Engine.stream`. `stop` is asked all along, and not between runs only."""
        child = self._running()
        number = child.open(request.model, request, revisions)
        try:
            while (event := child.wait(child.send("next", number), number, stop)) is not None:
                yield event
        finally:
            child.close_stream(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child."""
        with self._starting:
            self._closed = True
            if self._child is not None:
                self._child.end()

    def _call(self, name: str, *args: Any, about: str = "", **options: Any) -> Any:
        child = self._running()
        number = child.number(about)
        try:
            return child.wait(child.send("call", number, name, args, options), number, None)
        finally:
            child.forget(number)

    def _running(self) -> _Child:
        with self._starting:
            if self._closed:
                raise NotReady("the engine is closed", reason=Reason.ENGINE_CLOSED)
            if self._child is None or not self._child.is_alive:
                self._child = _Child(self._options, dict(self._models), self._observer, self._prepare)
            return self._child


class _Child:
    """One child process and what waits for it."""

    def __init__(
        self,
        options: Mapping[str, Any],
        models: Mapping[tuple[str, int], Path],
        observer: Observer,
        prepare: Callable[[], None] | None,
    ) -> None:
        self._observer = observer
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=serve, args=(other, dict(options), dict(models), prepare), name="models", daemon=True
        )
        self._process.start()
        other.close()
        self._sending, self._numbers = threading.Lock(), itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._about: dict[int, str] = {}
        self._changing = threading.Lock()
        self.is_alive = True
        threading.Thread(target=self._receive, name="models", daemon=True).start()

    def number(self, about: str) -> int:
        """The number of a new call about a model."""
        with self._changing:
            number = next(self._numbers)
            self._about[number] = about
            return number

    def forget(self, number: int) -> None:
        with self._changing:
            self._about.pop(number, None)

    def open(self, model: str, request: AttributionRequest, revisions: bool) -> int:
        number = self.number(model)
        self._tell("open", number, request, revisions)
        return number

    def close_stream(self, number: int) -> None:
        self.forget(number)
        with suppress(NotReady):
            self._tell("close", number)

    def send(self, *message: Any) -> Future[Any]:
        """Sends a message that is answered."""
        answer: Future[Any] = Future()
        with self._changing:
            if not self.is_alive:
                raise self._gone()
            self._waiting[message[1]] = answer
        self._tell(*message)
        return answer

    def wait(self, answer: Future[Any], number: int, stop: Stop | None) -> Any:
        """The answer; meanwhile the child is told why it should end, and what ends the calls of this thread."""
        interrupt = current()

        def ended() -> None:
            assert interrupt is not None
            with suppress(NotReady):
                self._tell("interrupt", number, interrupt.error)

        if interrupt is None:
            return self._answer(answer, number, stop)
        with interrupt.watching(ended):
            return self._answer(answer, number, stop)

    def _answer(self, answer: Future[Any], number: int, stop: Stop | None) -> Any:
        told = None
        while True:
            try:
                return answer.result(POLL)
            except NotYet:
                if answer.done():
                    raise
            if stop is not None and (reason := stop()) != told:
                told = reason
                self._tell("stop", number, reason)

    def end(self) -> None:
        """Ends the process, however busy it is."""
        with suppress(OSError):
            self._pipe.close()
        self._process.join(1)
        self._process.kill()

    def _tell(self, *message: Any) -> None:
        try:
            with self._sending:
                self._pipe.send(message)
        except (OSError, ValueError):
            raise self._gone() from None

    def _receive(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                number, found, error, runs = self._pipe.recv()
                for run in runs:
                    self._observer.ran(*run)
                answer = self._waiting.pop(number, None)
                if answer is not None and error is None:
                    answer.set_result(found)
                elif answer is not None:
                    answer.set_exception(error)
        self._process.join(5)
        with self._changing:
            self.is_alive = False
            left, self._waiting = list(self._waiting.values()), {}
        for answer in left:
            answer.set_exception(self._gone())

    def _gone(self) -> NotReady:
        names = sorted({name for name in self._about.values() if name})
        which = f" while {', '.join(map(repr, names))} ran" if names else ""
        how = f" (status {self._process.exitcode})" if self._process.exitcode else ""
        return NotReady(
            f"the process that runs the models has ended{how}{which}; it is started again with the next call",
            reason=Reason.PROCESS_ENDED, models=", ".join(names),
        )  # fmt: skip


# --- in the child


class _Runs:
    """Counts runs until the next answer takes them along."""

    def __init__(self) -> None:
        self._runs: deque[tuple[int, int, float]] = deque()

    def ran(self, rows: int, requests: int, seconds: float) -> None:
        self._runs.append((rows, requests, seconds))

    def taken(self) -> list[tuple[int, int, float]]:
        """Those since the last time."""
        return [self._runs.popleft() for _ in range(len(self._runs))]


@dataclass
class _Call:
    """What the child knows of a call."""

    interrupt: Interrupt = field(default_factory=Interrupt)
    events: Iterator[Event] | None = None
    wish: StopReason | Literal["cancelled"] | None = None


def serve(
    pipe: Connection,
    options: Mapping[str, Any],
    models: Mapping[tuple[str, int], Path],
    prepare: Callable[[], None] | None = None,
) -> None:
    """The child: does what the pipe says until its other end is closed."""
    if prepare is not None:
        prepare()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which ends this
    sending, calls, runs = threading.Lock(), dict[int, _Call](), _Runs()

    def answer(number: int, work: Callable[[_Call], Any], call: _Call) -> None:
        found, error = None, None
        try:
            with call.interrupt.here():
                found = work(call)
        except Exception as raised:
            error = raised if isinstance(raised, AttributionError) else RuntimeError(repr(raised))
        if call.events is None:
            calls.pop(number, None)
        with suppress(OSError), sending:
            pipe.send((number, found, error, runs.taken()))

    with Engine(**options, observer=runs) as engine, ThreadPoolExecutor(64) as pool:
        for (name, version), path in models.items():
            engine.add(name, path, version=version)
        with suppress(EOFError, OSError):
            while True:
                kind, number, *rest = pipe.recv()
                if kind in ("call", "open"):
                    calls[number] = _Call()
                if (call := calls.get(number)) is None:
                    continue  # it has ended meanwhile
                match kind:
                    case "call":
                        name, args, named = rest
                        pool.submit(answer, number, _method(engine, name, args, named), call)
                    case "open":
                        call.events = engine.stream(rest[0], stop=_wish(call), revisions=rest[1])
                    case "next":
                        pool.submit(answer, number, _next, call)
                    case "stop":
                        call.wish = rest[0]
                    case "interrupt":
                        call.interrupt.fire(rest[0])
                    case "close":
                        calls.pop(number).interrupt.fire(Cancelled("the stream is closed"))
        for call in calls.values():
            call.interrupt.fire(Cancelled("the server has ended"))


def _method(
    engine: Engine, name: str, args: Sequence[Any], named: Mapping[str, Any]
) -> Callable[[_Call], Any]:
    def run(_: _Call) -> Any:
        found = getattr(engine, name)
        return found(*args, **named) if callable(found) else found

    return run


def _next(call: _Call) -> Event | None:
    assert call.events is not None
    return next(call.events, None)


def _wish(call: _Call) -> Stop:
    return lambda: call.wish
