"""What files hold, read again when they change, so that certificates and tokens are replaced without a restart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import structlog

__all__ = ["Followed"]

Value = TypeVar("Value")

log = structlog.get_logger(__name__)


class Followed(Generic[Value]):
    """What `read` makes of the files. Files that cannot be read change nothing: what they held before goes on.

    Raises, when it is made: what `read` raises.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[], Value]) -> None:
        self._files, self._read = tuple(files), read
        self._lock = Lock()
        self._state = self._now()
        self._value = read()

    def __call__(self) -> Value:
        return self.look()[0]

    def look(self) -> tuple[Value, bool]:
        """What the files hold, and whether that is new since the last look."""
        with self._lock:
            state = self._now()
            if state == self._state:
                return self._value, False
            try:
                value = self._read()
            except Exception as error:
                log.error("not replaced", files=[file.name for file in self._files], why=str(error))
                self._state = state  # told once; looked at again when the files change again
                return self._value, False
            if self._now() != state:
                return self._value, False  # in the middle of a change: the next look reads them again
            self._state, self._value = state, value
            log.info("replaced", files=[file.name for file in self._files])
            return value, True

    def _now(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What tells files from others in their place."""

        def state(file: Path) -> tuple[int, int, int] | None:
            try:
                found = file.stat()
            except OSError:
                return None
            return found.st_mtime_ns, found.st_ino, found.st_size

        return tuple(map(state, self._files))
