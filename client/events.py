"""The events of a stream: put together from messages, asked for again where the stream breaks, told to the caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from onnx_attribution.errors import InvalidArgument, NotReady, Reason, ServerBug
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import events, tensors
from onnx_attribution.values import (
    Accepted,
    Attribution,
    Completed,
    Event,
    Progress,
    Revision,
)

Report = Callable[[Progress | Revision], None]
ATTEMPTS = 4
"""How often in a row a broken stream is asked for, without an event in between."""
FINAL = (Reason.CLIENT_CLOSED, Reason.CONCURRENT_OPERATION)
"""Reasons with which waiting a moment is no help."""


class Assembler:
    """Events from the messages of one stream: a revision is complete with its last chunk."""

    def __init__(self) -> None:
        self._summary = pb.Revision()
        self._buffers: list[tensors.Buffer] = []
        self._open = 0

    def feed(self, message: pb.StreamAttributeResponse) -> Event | None:
        """The event that the message completes. Raises: ServerBug for chunks that do not fit."""
        try:
            match message.WhichOneof("event"):
                case "revision":
                    self._summary = message.revision
                    layers = message.revision.summary.layers
                    self._buffers = [
                        tensors.Buffer(layer.name, layer.datatype, layer.shape) for layer in layers
                    ]
                    self._open = len(layers)
                    return None if layers else self._revision()
                case "chunk":
                    return self._chunk(message.chunk)
                case _:
                    return events.from_event(message)
        except InvalidArgument as error:
            raise ServerBug(f"the server's stream is broken: {error.message}") from error

    def _chunk(self, chunk: pb.Chunk) -> Revision | None:
        if chunk.revision != self._summary.number or not 0 <= chunk.layer < len(self._buffers):
            raise InvalidArgument(
                f"a chunk of revision {chunk.revision}, layer {chunk.layer} is out of place"
            )
        self._buffers[chunk.layer].add(chunk.offset, chunk.data)
        self._open -= chunk.last
        return None if self._open else self._revision()

    def _revision(self) -> Revision:
        values = [buffer.array() for buffer in self._buffers]
        self._buffers = []
        return Revision(self._summary.number, events.from_summary(self._summary.summary, values))


class Retrying:
    """Whether what broke is tried once more, and when."""

    def __init__(self) -> None:
        self._attempts, self._gone = 0, 0.0

    def delay(self, error: NotReady, at_least: float = 0.0) -> float:
        """Seconds to wait before the next attempt; attempts go on for `at_least` so many seconds.

        Raises: NotReady, the given one, if there is to be none.
        """
        now = time.monotonic()
        self._gone = self._gone if self._attempts else now
        self._attempts += 1
        tried_enough = self._attempts >= ATTEMPTS and now - self._gone >= at_least
        if error.reason in FINAL or tried_enough:
            raise error
        return float(min(0.1 * 2**self._attempts, 1.0))

    def heard(self) -> None:
        """There was an answer: attempts are counted anew."""
        self._attempts = 0


class Resuming:
    """Whether a stream that broke is asked for once more, and which of its events are told again."""

    def __init__(self) -> None:
        self._retrying = Retrying()
        self._is_accepted = self._is_closed = self._has_resumed = False

    def delay(self, error: NotReady) -> float:
        """Seconds to wait before the next attempt. Raises: NotReady, the given one, if there is to be none."""
        if self._is_closed:
            raise error
        seconds = self._retrying.delay(error)
        self._has_resumed = True
        return seconds

    def told(self, event: Event) -> Event:
        """The event; the end says whether the stream was asked for again."""
        return replace(event, resumed=self._has_resumed) if isinstance(event, Completed) else event

    def is_new(self, event: Event) -> bool:
        """Whether an event is one for the caller: what was accepted once is not told again."""
        if isinstance(event, Accepted):
            known, self._is_accepted = self._is_accepted, True
            return not known
        self._retrying.heard()
        return True

    def close(self) -> None:
        """No further attempt is made."""
        self._is_closed = True


class Collected:
    """What the events of one stream come to; `report` is called with progress and revisions."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._revisions: dict[int, Attribution] = {}
        self._completed: Completed | None = None

    def add(self, event: Event) -> None:
        """Takes the next event."""
        match event:
            case Revision():
                self._revisions[event.number] = event.attribution
                self._report(event)
            case Progress():
                self._report(event)
            case Completed():
                self._completed = event

    def best(self) -> Attribution:
        """The revision that the server calls best. Raises: ServerBug for a stream that lacks it."""
        if self._completed is None or self._completed.best_revision not in self._revisions:
            raise ServerBug("the server's stream ended without a result")
        return replace(self._revisions[self._completed.best_revision], resumed=self._completed.resumed)


@contextmanager
def reporting(progress: Report | bool | None) -> Iterator[Report]:
    """What to call with each progress and revision: the callback, a tqdm bar for True, or nothing."""
    if not isinstance(progress, bool) and progress is not None:
        yield progress
        return
    if not progress:
        yield lambda event: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise InvalidArgument("progress=True needs tqdm: pip install 'onnx-attribution[progress]'") from None
    with tqdm(unit=" evaluations") as bar:

        def report(event: Progress | Revision) -> None:
            if isinstance(event, Progress):
                bar.total = event.planned or None
                bar.update(event.done - bar.n)
            else:
                bar.set_postfix(revision=event.number, steps=event.attribution.steps)

        yield report
