"""What an engine tells whoever counts: nothing here knows of metrics."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Observer", "Silent"]


class Observer(Protocol):
    """Told from the threads that compute; returns at once and raises nothing."""

    def ran(self, rows: int, requests: int, seconds: float) -> None:
        """So many rows of so many requests were in one run of the scheduler."""


class Silent:
    """An observer that does nothing."""

    def ran(self, rows: int, requests: int, seconds: float) -> None:
        """Nothing."""
