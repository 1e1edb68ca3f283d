"""Ctrl-C and SIGTERM of a process that serves. Imports nothing that takes time: it comes before all that does."""

from __future__ import annotations

import os
import signal
from queue import Empty, SimpleQueue


class Signals:
    """What signals do from now on: while the process starts, the first ends it at once; one that is waited for is
    returned; the next ends the process at once.

    At once is without exceptions: libraries that are being imported swallow a KeyboardInterrupt or crash on it, and
    computations that still run would be waited for. The handler runs between any two steps of the main thread, so that
    it takes no lock.
    """

    def __init__(self) -> None:
        self._received: SimpleQueue[int] = SimpleQueue()
        self._wanted = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def expect(self) -> None:
        """From now on there is something to end well: the next signal is for `wait`."""
        self._wanted = True

    @property
    def is_there(self) -> bool:
        """Whether there is one to be waited for."""
        return not self._received.empty()

    def wait(self) -> int:
        """The first signal after `expect`."""
        while True:
            try:
                # A signal that the system gives to another thread does not wake this one.
                return self._received.get(timeout=0.5)
            except Empty:
                pass

    def _on_signal(self, number: int, frame: object) -> None:
        if not self._wanted:
            os.write(2, b"onnx-attribution: ended by a signal\n")
            os._exit(128 + number)
        self._wanted = False
        self._received.put(number)
