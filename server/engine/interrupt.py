"""What ends the onnxruntime calls of a request while they run: its caller has gone, or its time is over.

An onnxruntime call looks at the flag of its options before each node, those in the bodies of loops too. A request has
one `Interrupt`; the thread that works on it names it with `here`, and every call on that thread heeds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Lock, RLock, local

import onnxruntime as ort

from onnx_attribution.errors import AttributionError

POLL = 0.02  # seconds between questions whether a lock is still waited for
_thread = local()


class Interrupt:
    """Ends what runs for a request, from any thread; once it has fired, every further call fails at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ends: dict[int, Callable[[], None]] = {}
        self._count = 0
        self._has_ended = False
        self.error: AttributionError | None = None
        self.fired_at = 0.0  # as of time.monotonic

    def fire(self, error: AttributionError) -> None:
        """Ends all calls that run; these and later ones raise the error. Only the first one counts."""
        self.refuse(error)
        self.end()

    def refuse(self, error: AttributionError) -> None:
        """Later calls raise the error. Those that run go on until `end`."""
        with self._lock:
            if self.error is None:
                self.error, self.fired_at = error, time.monotonic()

    def end(self) -> None:
        """Ends all calls that run."""
        with self._lock:
            ends = [] if self._has_ended else list(self._ends.values())
            self._has_ended = True
        for end in ends:
            end()

    def check(self) -> None:
        """Raises: AttributionError, if it has fired."""
        if self.error is not None:
            raise self.error.reworded(self.error.message)

    @contextmanager
    def here(self) -> Iterator[None]:
        """The calls of this thread heed the interrupt inside of the block, which must not be left by a `yield`."""
        before = current()
        _thread.interrupt = self
        try:
            yield
        finally:
            _thread.interrupt = before

    @contextmanager
    def watching(self, end: Callable[[], None]) -> Iterator[None]:
        """`end` is called if it fires inside of the block, or has fired before."""
        with self._lock:
            self._count += 1
            number, late = self._count, self._has_ended
            self._ends[number] = end
        try:
            if late:
                end()
            yield
        finally:
            with self._lock:
                del self._ends[number]


def current() -> Interrupt | None:
    """What the calls of this thread heed."""
    found: Interrupt | None = getattr(_thread, "interrupt", None)
    return found


@contextmanager
def heeded() -> Iterator[ort.RunOptions | None]:
    """The options of a call, None where this thread heeds nothing; a call that was ended raises the interrupt's error.

    Raises:
        AttributionError: the interrupt fired.
    """
    interrupt = current()
    if interrupt is None:
        yield None
        return
    options = ort.RunOptions()

    def end() -> None:
        options.terminate = True

    interrupt.check()
    with interrupt.watching(end):
        try:
            yield options
        except Exception:
            interrupt.check()
            raise


@contextmanager
def awaited(lock: Lock | RLock) -> Iterator[None]:
    """Holds a lock that others may hold for long: who waits for it is ended as what it runs would be.

    Raises:
        AttributionError: the interrupt fired.
    """
    interrupt = current()
    while not lock.acquire(timeout=-1 if interrupt is None else POLL):
        if interrupt is not None:
            interrupt.check()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def for_all(interrupts: Iterable[Interrupt | None]) -> Iterator[None]:
    """The calls of this thread are ended once all of these have fired: who shares a run does not end it for others."""
    joint, lock = Interrupt(), Lock()
    waiting = set(interrupts)

    def ended(one: Interrupt) -> None:
        with lock:
            waiting.discard(one)
            over = not waiting
        if over and one.error is not None:
            joint.fire(one.error)

    with ExitStack() as stack:
        for one in list(waiting):
            if one is not None:  # what cannot be interrupted stays in the way
                stack.enter_context(one.watching(partial(ended, one)))
        stack.enter_context(joint.here())
        yield
