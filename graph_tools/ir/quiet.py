"""Keeps onnx-graphsurgeon, which logs to standard output, from warning of what is meant or does not matter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from onnx_graphsurgeon.logger import G_LOGGER


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing below an error is printed."""
    before = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.ERROR
    try:
        yield
    finally:
        G_LOGGER.severity = before
