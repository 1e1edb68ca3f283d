"""Caches: of values that are built once each, and of arrays within a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from threading import Lock
from typing import TypeVar

from onnx_attribution.server.engine.interrupt import awaited
from onnx_attribution.values import Array

Value = TypeVar("Value")
SEEN = 256
"""Keys of which it is remembered that they were asked for."""


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
        with awaited(turn):
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


class Arrays:
    """The arrays that were used last, as many as fit into the bytes that whoever adds some allows."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._entries: OrderedDict[Hashable, Mapping[str, Array]] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()

    def is_seen(self, key: Hashable) -> bool:
        """Whether a key was asked for lately, or its arrays are there."""
        with self._lock:
            return key in self._seen or key in self._entries

    def seen(self, key: Hashable) -> bool:
        """The same, and remembers that it was asked for."""
        found = self.is_seen(key)
        with self._lock:
            self._seen[key] = None
            while len(self._seen) > SEEN:
                self._seen.popitem(last=False)
        return found

    def get(self, key: Hashable) -> Mapping[str, Array] | None:
        """The arrays of a key, if they are still there."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Hashable, arrays: Mapping[str, Array], most: int) -> None:
        """Keeps arrays, and drops those that were used least lately so that all are at most `most` bytes."""
        with self._lock:
            self._entries[key] = arrays
            sizes = {k: sum(array.nbytes for array in held.values()) for k, held in self._entries.items()}
            while self._entries and sum(sizes.values()) > most:
                dropped, _ = self._entries.popitem(last=False)
                del sizes[dropped]

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._entries.clear()
