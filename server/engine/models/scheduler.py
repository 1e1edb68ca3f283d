"""Runs that requests share: rows of one program that wait at the same time go into one run.

A session runs once at a time. Whoever finds it free runs what has waited longest, as much as fits, for all; a request
has one piece of work in the queue at a time, so that nobody waits for more than a run of each of the others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition
from weakref import WeakKeyDictionary

import numpy as np

from onnx_attribution.errors import AttributionError, Cancelled
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.server.engine.interrupt import Interrupt, current, for_all
from onnx_attribution.server.engine.observe import Observer, Silent
from onnx_attribution.values import Array

Places = Mapping[str, RowAxis | None]
POLL = 0.05  # seconds between looks at whether a waiting request is still wanted


@dataclass(eq=False)
class Work:
    """Rows to run: their inputs, where rows lie in inputs and outputs (None: not in them), and how many may share a
    run."""

    feeds: Mapping[str, Array]
    places: Places
    rows: int
    limit: int
    interrupt: Interrupt | None = field(default_factory=current)
    found: dict[str, Array] | None = None
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.found is not None or self.error is not None


@dataclass(eq=False)
class _Queue:
    waiting: deque[Work] = field(default_factory=deque)
    running: bool = False


class Scheduler:
    """The queues of a model's sessions."""

    def __init__(self, observer: Observer | None = None) -> None:
        self._observer = observer or Silent()
        self._queues: WeakKeyDictionary[Session, _Queue] = WeakKeyDictionary()
        self._changed = Condition()

    @contextmanager
    def counted(self, rows: int) -> Iterator[None]:
        """A run of one request that is shared with no other is counted as those of the queues are."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._observer.ran(rows, 1, time.monotonic() - began)

    def run(
        self, session: Session, work: Work, stop: Callable[[], object] = lambda: None
    ) -> dict[str, Array]:
        """The outputs of the program at the rows of the work, alone or among others.

        Raises:
            Cancelled: `stop` said so while the work was waiting. ModelError, Overloaded: as `Session.run`.
        """
        with self._changed:
            queue = self._queues.setdefault(session, _Queue())
            queue.waiting.append(work)
        while True:
            with self._changed:
                while queue.running and not work.is_done:
                    if self._changed.wait(POLL) or work not in queue.waiting:
                        continue
                    over = work.interrupt is not None and work.interrupt.error is not None
                    if over or stop() == "cancelled":
                        queue.waiting.remove(work)
                        if work.interrupt is not None:
                            work.interrupt.check()
                        raise Cancelled("the request was cancelled")
                if work.is_done:
                    break
                queue.running, batch = True, _taken(queue.waiting)
            began = time.monotonic()
            try:
                _run(session, batch)
            finally:
                rows = sum(one.rows for one in batch)
                self._observer.ran(rows, len(batch), time.monotonic() - began)
                with self._changed:
                    queue.running = False
                    self._changed.notify_all()
        if work.error is not None:
            raise work.error
        assert work.found is not None
        return work.found


def _taken(waiting: deque[Work]) -> list[Work]:
    """The work that has waited longest, and what fits into a run with it."""
    first = waiting.popleft()
    batch, rows, limit = [first], first.rows, first.limit
    for work in list(waiting):
        limit = min(limit, work.limit)
        if rows + work.rows > limit:
            break
        if _fits(first, work):
            waiting.remove(work)
            batch.append(work)
            rows += work.rows
    return batch


def _fits(one: Work, other: Work) -> bool:
    """Whether the rows of both can be laid behind each other: all else is the same."""
    if one.feeds.keys() != other.feeds.keys() or not any(one.places.get(n) for n in one.feeds):
        return False
    for name, array in one.feeds.items():
        there, place = other.feeds[name], one.places.get(name)
        if place != other.places.get(name) or array.dtype != there.dtype or array.ndim != there.ndim:
            return False
        if place is None:
            if array is not there and not np.array_equal(array, there):
                return False
        elif any(
            k != place.axis and a != b for k, (a, b) in enumerate(zip(array.shape, there.shape, strict=True))
        ):
            return False
    return True


def _run(session: Session, batch: Sequence[Work]) -> None:
    """Runs the work, and each piece alone where that fails: what is wrong with one is no matter of the others."""
    try:
        if len(batch) == 1:
            (work,) = batch
            with for_all([work.interrupt]):
                work.found = session.run(work.feeds)
            return
        with for_all(work.interrupt for work in batch):
            found = session.run(_joined(batch))
        start = 0
        for work in batch:
            work.found = {n: _part(a, work.places.get(n), start, work.rows) for n, a in found.items()}
            start += work.rows
    except AttributionError as error:
        if len(batch) == 1:
            batch[0].error = error
            return
        for work in batch:
            work.found = None
            _run(session, [work])
    except BaseException as error:
        for work in batch:
            work.error = work.error or error
        raise


def _joined(batch: Sequence[Work]) -> dict[str, Array]:
    first = batch[0]
    return {
        name: array
        if (place := first.places.get(name)) is None
        else np.concatenate([work.feeds[name] for work in batch], axis=place.axis)
        for name, array in first.feeds.items()
    }


def _part(array: Array, place: RowAxis | None, start: int, rows: int) -> Array:
    if place is None:
        return array
    own = slice(start * place.factor, (start + rows) * place.factor)
    return array[(slice(None),) * place.axis + (own,)]
