"""Logs of expected failures stay short: the default rendering of a traceback takes half a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True, scope="session")
def plain_logs() -> Iterator[None]:
    render = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[render])
    yield
    structlog.reset_defaults()
