"""The events of one attribution as they arrive, for threads and for asyncio; one that breaks is asked for again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import grpc

from onnx_attribution.client import events
from onnx_attribution.client.errors import translated
from onnx_attribution.errors import Cancelled, NotReady
from onnx_attribution.values import Event

__all__ = ["AsyncStream", "Stream"]


class Stream(Iterator[Event]):
    """The events of one call. Closed, left or forgotten, it cancels the call on the server."""

    def __init__(self, begin: Callable[[], Any]) -> None:
        self._begin = begin
        self._resuming = events.Resuming()
        self._assembler = events.Assembler()
        self._call = begin()

    def __next__(self) -> Event:
        while True:
            try:
                with translated():
                    message = next(self._call)
            except NotReady as error:
                time.sleep(self._resuming.delay(error))
                self._assembler, self._call = events.Assembler(), self._begin()
                continue
            event = self._assembler.feed(message)
            if event is not None and self._resuming.is_new(event):
                return self._resuming.told(event)

    def close(self) -> None:
        self._resuming.close()
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter may be ending
            self.close()


class AsyncStream(AsyncIterator[Event]):
    """The events of one call, which begins with the first of them. Closed, left or forgotten, it cancels the call."""

    def __init__(self, begin: Callable[[], Awaitable[Any]]) -> None:
        self._begin = begin
        self._call: Any = None
        self._assembler = events.Assembler()
        self._resuming = events.Resuming()
        self._closed = False
        self._ended = False

    async def __anext__(self) -> Event:
        while not self._ended:
            try:
                message = await self._read()
            except NotReady as error:
                await asyncio.sleep(self._resuming.delay(error))
                self._assembler, self._call = events.Assembler(), None
                continue
            if message is grpc.aio.EOF:
                self._ended = True
                break
            event = self._assembler.feed(message)
            if event is not None and self._resuming.is_new(event):
                return self._resuming.told(event)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._closed = True
        self._resuming.close()
        if self._call is not None:
            self._call.cancel()

    async def _read(self) -> Any:
        """The next message. A call that was cancelled is an error like any other; a cancelled task stays one."""
        if self._call is None and not self._closed:
            self._call = await self._begin()
        if self._closed:
            await self.aclose()  # it may have been closed while it began
            raise Cancelled("the stream is closed")
        try:
            with translated():
                return await self._call.read()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Cancelled("the call was cancelled by the client") from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # grpcio never collects an abandoned call by itself, so the server would compute on.
        with suppress(Exception):
            self._call.cancel()
