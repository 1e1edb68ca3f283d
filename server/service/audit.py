"""A data set over one stream: items are read as far as there is room, computed side by side, and answered one by one.

Room is counted in items that are not answered yet, and an item is answered when the client has taken its answer: a slow
reader holds up the reading, not the memory. What is wrong with an item is its own answer, and the stream goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import numpy as np

from onnx_attribution.errors import DeadlineExceeded, InvalidArgument, NotReady, Reason
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import events, requests, tensors, words
from onnx_attribution.server.service.status import Scrub, to_status
from onnx_attribution.server.service.threads import Stop, Work
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Attribution, StopReason

Answer = Callable[[pb.AttributeRequest, Stop], tuple[Attribution, StopReason]]
TICK = 0.25  # seconds between looks at whether the server drains, or nothing comes any more


@dataclass
class _Tally:
    """What was asked and answered so far."""

    began: float = field(default_factory=time.monotonic)
    last: int = -1
    open: set[int] = field(default_factory=set)
    results: int = 0
    errors: int = 0
    residuals: list[float] = field(default_factory=list)

    def progress(self) -> pb.AuditProgress:
        watermark = min(self.open) - 1 if self.open else self.last
        answered = self.results + self.errors
        return pb.AuditProgress(answered=answered, seconds=self._seconds, watermark=watermark)

    def summary(self) -> pb.AuditSummary:
        found = self.residuals or [float("nan")]
        return pb.AuditSummary(
            results=self.results,
            errors=self.errors,
            seconds=self._seconds,
            worst_residual=max(found),
            median_residual=float(np.median(found)),
        )

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self.began


class Audit:
    """One stream. `answer` computes an item, blocking; `digest` is that of a model by name, which it may load."""

    def __init__(
        self, work: Work, settings: Settings, answer: Answer, digest: Callable[[str], str], scrub: Scrub
    ) -> None:
        self._work, self._settings = work, settings
        self._answer, self._digest, self._scrub = answer, digest, scrub
        self._tally = _Tally()
        self._done: asyncio.Queue[pb.AuditResponse | Exception | None] = asyncio.Queue()
        self._computing: set[asyncio.Task[None]] = set()

    async def answers(self, messages: AsyncIterator[pb.AuditRequest]) -> AsyncIterator[pb.AuditResponse]:
        """Everything that is sent back, the summary last.

        Raises: AttributionError for what ends the stream: a message out of place, an unknown model, no item for too
        long, a server that shuts down.
        """
        opening = await self._opening(messages)
        model = opening.request.model
        digest = await self._work.run(
            lambda: self._digest(model), self._settings.unary_seconds, compute=False
        )
        limit = self._settings.audit_window
        window = min(opening.window or limit, limit)
        room = asyncio.Semaphore(window)
        yield pb.AuditResponse(opened=pb.AuditOpened(window=window, digest=digest))
        reading = asyncio.create_task(self._read(messages, opening, room))
        heard = told = time.monotonic()
        try:
            while True:
                try:
                    answer = await asyncio.wait_for(self._done.get(), TICK)
                except TimeoutError:
                    now = time.monotonic()
                    heard = now if self._tally.open else heard
                    self._check_end(now - heard)
                    if now - told >= self._settings.heartbeat_seconds:
                        told = now
                        yield pb.AuditResponse(progress=self._tally.progress())
                    continue
                heard = told = time.monotonic()
                if answer is None:
                    yield pb.AuditResponse(summary=self._tally.summary())
                    return
                if isinstance(answer, Exception):
                    raise answer
                yield answer
                room.release()
        finally:
            for task in (reading, *self._computing):
                task.cancel()

    async def _opening(self, messages: AsyncIterator[pb.AuditRequest]) -> pb.AuditOpen:
        idle = self._settings.audit_idle_seconds
        try:
            first = await asyncio.wait_for(anext(messages, None), idle)
        except TimeoutError:
            raise DeadlineExceeded(f"`open` did not come within {idle:g} s") from None
        if first is None or first.WhichOneof("message") != "open":
            raise _misplaced("the first message is `open`")
        if first.open.request.inputs:
            raise _misplaced("the request of `open` holds no inputs: each item has its own")
        if first.open.window < 0:
            raise InvalidArgument(f"window must be at least 0, not {first.open.window}")
        requests.from_request(first.open.request)
        self._tally.last = first.open.resume_from - 1
        return first.open

    async def _read(
        self, messages: AsyncIterator[pb.AuditRequest], opening: pb.AuditOpen, room: asyncio.Semaphore
    ) -> None:
        """Takes items while there is room; None follows the last answer."""
        try:
            last: int | None = None
            while True:
                await room.acquire()
                message = await anext(messages, None)
                if message is None:
                    break
                if message.WhichOneof("message") != "item":
                    raise _misplaced("`open` is followed by items only")
                item = message.item
                if last is not None and item.sequence <= last:
                    raise _misplaced(f"item {item.sequence} follows item {last}: sequence numbers rise")
                last = item.sequence
                if item.sequence < opening.resume_from:
                    room.release()
                    continue
                self._tally.last = item.sequence
                self._tally.open.add(item.sequence)
                task = asyncio.create_task(self._compute(opening.request, item))
                self._computing.add(task)
                task.add_done_callback(self._computing.discard)
            while self._computing:
                await asyncio.wait(self._computing)
            self._done.put_nowait(None)
        except Exception as error:
            self._done.put_nowait(error)

    async def _compute(self, template: pb.AttributeRequest, item: pb.AuditItem) -> None:
        """Computes an item, and lays its answer ready."""
        message = pb.AttributeRequest()
        message.CopyFrom(template)
        message.inputs.extend(item.inputs)
        if item.HasField("target"):
            message.ClearField("targets")
            message.target.CopyFrom(item.target)
        seconds = self._settings.stream_seconds
        stop = Stop(seconds, self._work.draining)

        def result() -> tuple[pb.AuditResult, float]:
            stop.resume()
            found, reason = self._answer(message, stop)
            return _to_result(item.sequence, found, reason), _residual(found)

        try:
            found, residual = await self._work.run(result, seconds, interrupt=stop.interrupt)
        except Exception as error:
            self._tally.errors += 1
            status = to_status(error, self._scrub)
            answer = pb.AuditResponse(error=pb.AuditError(sequence=item.sequence, status=status))
        else:
            self._tally.results += 1
            self._tally.residuals += [residual] * bool(np.isfinite(residual))
            answer = pb.AuditResponse(result=found)
        self._tally.open.discard(item.sequence)
        self._done.put_nowait(answer)

    def _check_end(self, idle: float) -> None:
        if self._tally.open:
            return
        if self._work.draining.is_set():
            raise NotReady("the server is shutting down", reason=Reason.DRAINING)
        if idle > self._settings.audit_idle_seconds:
            raise DeadlineExceeded(f"no item came within {self._settings.audit_idle_seconds:g} s")


def _misplaced(text: str) -> InvalidArgument:
    return InvalidArgument(text, reason=Reason.AUDIT_PROTOCOL)


def _to_result(sequence: int, found: Attribution, reason: StopReason) -> pb.AuditResult:
    return pb.AuditResult(
        sequence=sequence,
        summary=events.to_summary(found),
        attributions=[tensors.encode(layer.name, layer.values) for layer in found.layers.values()],
        stop_reason=words.STOP_REASONS.number(reason),
    )


def _residual(found: Attribution) -> float:
    """The largest |residual| of a cut, by the change of the target; NaN where there is none."""
    worst = float("nan")
    for target in found.targets:
        change = np.abs(np.asarray(target.value) - np.asarray(target.baseline_value))
        for layer in found.layers.values():
            if layer.cut and change.shape == np.shape(layer.residual):
                with np.errstate(divide="ignore", invalid="ignore"):
                    worst = float(np.fmax(worst, np.nanmax(np.abs(layer.residual) / change, initial=0)))
    return worst
