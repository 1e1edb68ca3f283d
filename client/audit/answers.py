"""The answers of a data set as they come, for threads: grpc's own takes the items."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from threading import Lock, Semaphore
from typing import Any

from numpy.typing import ArrayLike

from onnx_attribution.client.audit.stream import Audited, AuditProgress, Log
from onnx_attribution.client.errors import translated
from onnx_attribution.errors import NotReady, ServerBug
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.values import Target

__all__ = ["Audit"]


class Audit:
    """One audit: the stream that is open now, and the thread of grpc that takes items for it."""

    def __init__(
        self,
        call: Any,
        log: Log,
        items: Iterator[tuple[Mapping[str, ArrayLike], Target | None]],
        progress: Callable[[AuditProgress], None] | None,
    ) -> None:
        self._open, self._log, self._items = call, log, items
        self._progress = progress or (lambda _: None)
        self._failure: BaseException | None = None
        self._taking = Lock()

    def answers(self) -> Iterator[Audited]:
        began = time.monotonic()
        while not self._log.is_over:
            stream = _Sending()
            try:
                with translated():
                    call = self._open(self._messages(stream))
                    try:
                        for message in call:
                            if message.HasField("opened"):
                                stream.room.release(message.opened.window)
                            if (answer := self._log.answer(message)) is not None:
                                stream.room.release()
                                self._progress(self._log.progress(time.monotonic() - began))
                                yield answer
                            if self._failure is not None:
                                break
                    finally:
                        stream.end()
                        call.cancel()
            except NotReady as error:
                if self._failure is not None:
                    raise
                time.sleep(self._log.delay(error))
                continue
            if self._failure is not None:
                raise self._failure
            if not self._log.is_over:
                raise ServerBug("the server ended the audit without its summary")

    def _messages(self, stream: _Sending) -> Iterator[pb.AuditRequest]:
        """What is sent, in grpc's thread: the opening, what is unanswered, then items while there is room."""
        yield self._log.opening()
        with self._taking:
            again = list(self._log.again())
        for message in again:
            if not stream.has_room():
                return
            yield message
        while stream.has_room():
            with self._taking:
                if stream.is_over:
                    return
                try:
                    message = self._log.item(*next(self._items))
                except StopIteration:
                    return
                except BaseException as error:  # the caller's iterable: told to the caller, not to grpc
                    self._failure = error
                    return
            yield message


class _Sending:
    """The room of one stream; once it is over nobody waits for any."""

    def __init__(self) -> None:
        self.room, self.is_over = Semaphore(0), False

    def has_room(self) -> bool:
        """Waits for room; False where the stream has ended."""
        self.room.acquire()
        return not self.is_over

    def end(self) -> None:
        self.is_over = True
        self.room.release(1 << 20)
