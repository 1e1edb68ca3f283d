"""The server's log on standard error: one line a call, as text or as JSON; never an input."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, TextIO, cast

import structlog

from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server.service.access import current_caller
from onnx_attribution.server.service.calls import Call

__all__ = ["CallLog", "configure"]

OURS = f"{pb.DESCRIPTOR.package}."
LINES_SECONDS, LINES_AT_ONCE = 0.1, 8
FAILURES = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}

log = structlog.get_logger(__name__)


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info", form: Literal["text", "json"] = "text"
) -> None:
    """Sends the server's log to standard error."""
    # Plain tracebacks: the rich ones print local variables, and inputs must never be logged.
    render: Any = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    if form == "json":
        processors += [structlog.processors.format_exc_info]
        render = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*processors, render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stderr())),
    )


class CallLog:
    """Logs each call when it ends; those to health and reflection only in detail.

    A line takes as long to write as a small call to answer. So in a running event loop, all but failures are written a
    moment later, and a few at a time, lest calls that come in a burst wait for the lines of those before them.
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[Callable[..., Any], dict[str, Any]]] = deque()
        self._is_awaited = False

    def began(self, call: Call) -> None:
        """Nothing yet."""

    def received(self, call: Call, message: Any) -> None:
        """Never logged."""

    def sent(self, call: Call, message: Any) -> None:
        """Never logged."""

    def ended(self, call: Call) -> None:
        """One line."""
        caller = current_caller()
        known = {
            "caller": caller.name if caller is not None else "",
            "model": call.model,
            "method": call.method,
            "reason": call.reason,
            "request_id": call.request_id,
        }
        line = {
            "call": f"{call.service.removeprefix(OURS)}/{call.name}",
            "code": call.code,
            "seconds": round(call.seconds, 4),
            **{name: value for name, value in known.items() if value},
        }
        if call.code in FAILURES:
            log.error("call", **line)
            return
        self._lines.append((log.debug if not call.service.startswith(OURS) else log.info, line))
        if not _is_in_loop():
            self.close()
        elif not self._is_awaited:
            self._write_later(LINES_SECONDS)

    def close(self) -> None:
        """All that is left is written."""
        self._write(len(self._lines))

    def _write_later(self, seconds: float) -> None:
        self._is_awaited = True
        asyncio.get_running_loop().call_later(seconds, self._write_some)

    def _write_some(self) -> None:
        """More at a time, the more there are."""
        self._is_awaited = False
        self._write(max(LINES_AT_ONCE, len(self._lines) // LINES_AT_ONCE))
        if self._lines:
            self._write_later(0.001)

    def _write(self, most: int) -> None:
        for _ in range(min(most, len(self._lines))):
            tell, line = self._lines.popleft()
            tell("call", **line)


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Stderr:
    """Standard error as it is at each write: tests and embedding programs replace it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()
