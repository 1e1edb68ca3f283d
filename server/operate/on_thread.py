"""What lives on an event loop, on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import TypeVar

Value = TypeVar("Value")


@contextmanager
def on_thread(place: Callable[[], AbstractAsyncContextManager[Value]], name: str) -> Iterator[Value]:
    """Enters what `place` makes on a loop of its own thread, whose name this is; the end leaves it and waits for that.

    Raises:
        BaseException: what entering it raises; or leaving it, where nothing else failed.
    """
    entered: Future[tuple[Value, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    left: Future[None] = Future()

    async def run() -> None:
        async with place() as value:
            ended = asyncio.Event()
            entered.set_result((value, asyncio.get_running_loop(), ended))
            await ended.wait()

    def main() -> None:
        try:
            asyncio.run(run())
            left.set_result(None)
        except BaseException as error:
            (left if entered.done() else entered).set_exception(error)

    thread = threading.Thread(target=main, name=name, daemon=True)
    thread.start()
    value, loop, ended = entered.result()
    try:
        yield value
    finally:
        with suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(ended.set)
        thread.join()
    left.result()
