"""A small cache that builds each value once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import TypeVar

Value = TypeVar("Value")


class Cache:
    """The most recently used values; two threads that ask for the same one build it once."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = Lock()
        self._entries: OrderedDict[Hashable, object] = OrderedDict()
        self._building: dict[Hashable, Lock] = {}

    def get(self, key: Hashable, build: Callable[[], Value]) -> Value:
        """The value of `key`, built if it is not there; a failure to build is not kept."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]  # type: ignore[return-value]
            turn = self._building.setdefault(key, Lock())
        with turn:
            with self._lock:
                if key in self._entries:
                    return self._entries[key]  # type: ignore[return-value]
            try:
                value = build()
                with self._lock:
                    self._entries[key] = value
                    while len(self._entries) > self._capacity:
                        self._entries.popitem(last=False)
            finally:
                with self._lock:
                    self._building.pop(key, None)
        return value

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._entries.clear()
