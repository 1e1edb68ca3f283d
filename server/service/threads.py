"""Engine calls on threads, for an event loop that must never wait: how many, how long, and how they are stopped.

A stream's iterator is advanced in short turns, when the client has taken what the turn before brought: no thread waits
for a slow client, little is queued, and streams take turns. So one iterator may be advanced by different threads.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Literal, Protocol, TypeVar

from onnx_attribution.errors import (
    AttributionError,
    Cancelled,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    Reason,
)
from onnx_attribution.server.engine.interrupt import Interrupt
from onnx_attribution.server.service.calls import current
from onnx_attribution.values import Event, Progress, Revision, StopReason

__all__ = ["Stop", "Work"]

MAX_PATIENCE = 30.0  # seconds
MOMENT = 0.03  # seconds for which a run whose request has ended may go on
LOOK = 0.005  # seconds after which the loop looks for events by itself
TURN = 0.02  # seconds after which a computation lets others have its thread
Result = TypeVar("Result")


class Stop:
    """Says why a computation should end; the engine asks between slices, from its thread.

    Near the deadline or while draining that is once there is a result, so that there is always something to send.
    """

    def __init__(self, seconds: float, draining: threading.Event) -> None:
        self.seconds = seconds
        self.has_result = False
        self.interrupt = Interrupt()
        self._end = time.monotonic() + seconds
        self._margin = min(0.25, seconds / 10)
        self._draining = draining
        self._cancelled = threading.Event()
        self._asked = False
        self._slice = 0.0  # between the last two questions
        self._spent = 0.0  # since the last question, without the time in which nobody computed
        self._mark = 0.0

    def __call__(self) -> StopReason | Literal["cancelled"] | None:
        self.pause()
        self._slice = self._spent if self._asked else 0.0  # loading came before the first question
        self._spent, self._asked = 0.0, True
        if self._cancelled.is_set():
            return "cancelled"
        margin = max(self._margin, 2 * self._slice) if self.has_result else self._margin
        if time.monotonic() + margin >= self._end:
            return "deadline_near"
        if self._draining.is_set() and self.has_result:
            return "draining"
        return None

    def cancel(self) -> None:
        """The caller is gone: the next answer is `cancelled`, and what still runs in a moment is ended.

        Most runs are over by then, and a run that is ended costs more than one that comes to its end.
        """
        self._cancelled.set()
        self.interrupt.refuse(Cancelled("the request was cancelled"))
        try:
            asyncio.get_running_loop().call_later(MOMENT, self.interrupt.end)
        except RuntimeError:  # no loop
            self.interrupt.end()

    def expire(self) -> None:
        """The time is over: what runs is ended."""
        self.interrupt.fire(no_result(self))

    @property
    def left(self) -> float:
        """Seconds until what runs has to be ended so that there is still time to answer."""
        return max(self._end - self._margin - time.monotonic(), 0.0)

    def resume(self) -> None:
        """A thread takes the computation up."""
        self._mark = time.monotonic()

    def pause(self) -> None:
        """The thread puts it down."""
        now = time.monotonic()
        self._spent += now - self._mark
        self._mark = now


def no_result(stop: Stop, reason: StopReason = "deadline_near") -> AttributionError:
    """The error of a computation that ended before its first revision."""
    if reason == "draining":
        return NotReady("the server is shutting down", reason=Reason.DRAINING)
    return DeadlineExceeded(
        f"the {stop.seconds:.3g} s ran out before the first revision; allow more, or fewer steps"
    )


class Observer(Protocol):
    """Told from the threads; returns at once."""

    def stopped(self, seconds: float) -> None:
        """A computation has returned so long after its request had ended."""


class Work:
    """The threads of a server: `workers` for computing, two for questions about models; and what is admitted."""

    def __init__(
        self, *, workers: int, max_unary: int, max_streams: int, heartbeat: float, max_audits: int = 8
    ) -> None:
        self.draining = threading.Event()
        self.observer: Observer | None = None
        self._compute = ThreadPoolExecutor(workers, "compute")
        self._questions = ThreadPoolExecutor(2, "questions")
        self._heartbeat = heartbeat
        self._limits = {
            Reason.QUEUE_FULL: max_unary,
            Reason.TOO_MANY_STREAMS: max_streams,
            Reason.TOO_MANY_AUDITS: max_audits,
        }
        self._admitted = dict.fromkeys(self._limits, 0)
        self._waiting: set[object] = set()
        self._computing: dict[object, Interrupt] = {}

    @property
    def pending(self) -> int:
        """How many calls wait for a thread."""
        return len(self._waiting)

    @property
    def overdue(self) -> float:
        """For how many seconds a computation has gone on whose request has ended; 0 if there is none."""
        now = time.monotonic()
        ended = (one.fired_at for one in list(self._computing.values()) if one.error is not None)
        return max((now - at for at in ended), default=0.0)

    @property
    def running(self) -> int:
        """How many calls are admitted and have not ended."""
        return sum(self._admitted.values())

    def refusal(self, full: Reason = Reason.QUEUE_FULL) -> AttributionError | None:
        """What a call would be refused with now, as `admit` does it."""
        if self.draining.is_set():
            return NotReady("the server is shutting down", reason=Reason.DRAINING)
        limit = self._limits[full]
        if self._admitted[full] < limit:
            return None
        return Overloaded(f"{limit} calls of this kind are running, as many as may", reason=full, limit=limit)

    @contextmanager
    def admit(self, full: Reason = Reason.QUEUE_FULL) -> Iterator[None]:
        """Raises: NotReady while draining; Overloaded, for the reason `full`, if there are too many calls."""
        if (refusal := self.refusal(full)) is not None:
            raise refusal
        self._admitted[full] += 1
        try:
            yield
        finally:
            self._admitted[full] -= 1

    async def run(
        self,
        function: Callable[[], Result],
        seconds: float,
        *,
        compute: bool = True,
        interrupt: Interrupt | None = None,
    ) -> Result:
        """What the function returns, from a thread that knows who calls; its calls are ended with the waiting for it.

        Raises: DeadlineExceeded after `seconds`.
        """
        pool = self._compute if compute else self._questions
        interrupt = interrupt or Interrupt()
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Result] = loop.create_future()

        def expire() -> None:
            if not waiting.done():
                waiting.set_exception(
                    DeadlineExceeded(f"no result within {seconds:g} s", seconds=f"{seconds:g}")
                )

        def take(found: Future[Result]) -> None:
            if waiting.done():
                return
            if (error := found.exception()) is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result(found.result())

        def returned(found: Future[Result]) -> None:
            with suppress(RuntimeError):  # the loop is gone at shutdown
                if not found.cancelled():
                    loop.call_soon_threadsafe(take, found)

        future = self._submit(pool, function, interrupt)
        future.add_done_callback(returned)
        timer = loop.call_later(seconds, expire)
        try:
            return await waiting
        finally:
            timer.cancel()
            future.cancel()  # takes what has not begun off the queue
            interrupt.fire(Cancelled("nobody waits for it any more"))

    async def events(
        self,
        start: Callable[[], Iterator[Event]],
        stop: Stop,
        prepare: Callable[[Event], Result | None],
        *,
        ends_turn: Callable[[Event], bool] = lambda _: True,
        quiet: bool = False,
    ) -> AsyncIterator[Result]:
        """What `prepare` makes of each event of the iterator that `start` makes, if anything; on the computing threads.

        A turn ends with an event that `ends_turn`, or after a while; the next one begins when all events of it are
        taken. They are told within some milliseconds, or with `quiet` at the end of the turn: a thread that tells the
        loop something loses the interpreter to it. While one takes long, the last progress is repeated. However the
        iteration ends, the computation is stopped.
        Raises: Overloaded if the first does not get its turn within half of the time, or 30 s.
        """
        loop = asyncio.get_running_loop()
        iterator: Iterator[Event] | None = None
        began = time.monotonic()
        progress = Progress(0, 0, 0.0)
        patience = min(stop.seconds / 2, MAX_PATIENCE)
        brought: deque[tuple[Event, Result | None]] = deque()
        news = asyncio.Event()
        looks_at = 0.0  # when the loop looks what there is, without being told

        def step() -> bool:
            """One turn; whether it was the last."""
            nonlocal iterator
            stop.resume()
            end = time.monotonic() + TURN
            iterator = iterator or start()
            for event in iterator:
                stop.pause()
                stop.has_result |= isinstance(event, Revision)
                prepared = prepare(event)
                brought.append((event, prepared))
                if ends_turn(event) or time.monotonic() >= end:
                    return False
                if prepared is not None and not quiet and time.monotonic() >= looks_at - 0.001:
                    loop.call_soon_threadsafe(news.set)
                stop.resume()
            return True

        def close(_: object) -> None:
            if iterator is not None and hasattr(iterator, "close"):
                with suppress(RuntimeError):  # the threads are gone at shutdown
                    self._compute.submit(iterator.close)

        working: Future[bool] | None = None
        timer = loop.call_later(stop.left, stop.expire)
        try:
            is_over = False
            while not is_over:
                looks_at = time.monotonic() + LOOK
                working = self._submit(self._compute, step, stop.interrupt)
                waiting = asyncio.wrap_future(working)
                waiting.add_done_callback(lambda _: news.set())
                try:
                    while True:
                        news.clear()
                        while brought:
                            event, prepared = brought.popleft()
                            progress = event if isinstance(event, Progress) else progress
                            if prepared is not None:
                                yield prepared
                        if waiting.done():  # after its last event was brought
                            break
                        first = looks_at - time.monotonic()
                        wait = first if first > 0 else min(self._heartbeat, patience)
                        if await _is_set(news, wait) or first > 0:
                            continue
                        now = time.monotonic() - began
                        if iterator is None and not working.running() and now >= patience:
                            raise Overloaded(
                                f"no turn within {patience:g} s: too many computations are running"
                            )
                        repeated = prepare(Progress(progress.done, progress.planned, now))
                        if repeated is not None:
                            yield repeated
                    is_over = waiting.result()
                finally:
                    waiting.cancel()  # takes a turn that has not begun off the queue
        finally:
            timer.cancel()
            stop.cancel()
            if working is not None:
                working.add_done_callback(close)  # not before the running turn has ended

    def _submit(
        self, pool: ThreadPoolExecutor, function: Callable[[], Result], interrupt: Interrupt
    ) -> Future[Result]:
        """The function on a thread, ended by the interrupt; the call knows how long it waited for the thread."""
        call, asked, place = current(), time.monotonic(), object()
        self._waiting.add(place)

        def run() -> Result:
            self._waiting.discard(place)
            if call is not None:
                call.waited += time.monotonic() - asked
            self._computing[place] = interrupt
            try:
                with interrupt.here():
                    return function()
            finally:
                del self._computing[place]
                if interrupt.error is not None and self.observer is not None:
                    self.observer.stopped(time.monotonic() - interrupt.fired_at)

        future = pool.submit(copy_context().run, run)
        future.add_done_callback(lambda _: self._waiting.discard(place))  # it may never have begun
        return future

    def close(self) -> None:
        """Waits for nothing that has not begun, and ends what has."""
        for one in list(self._computing.values()):
            one.fire(Cancelled("the server has ended"))
        self._compute.shutdown(wait=False, cancel_futures=True)
        self._questions.shutdown(wait=False, cancel_futures=True)


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    """Whether it is set within so many seconds."""
    late = False

    def give_up() -> None:
        nonlocal late
        late = not event.is_set()
        event.set()

    timer = asyncio.get_running_loop().call_later(seconds, give_up)
    try:
        await event.wait()
    finally:
        timer.cancel()
    return not late
