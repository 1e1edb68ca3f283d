"""The server's log on standard error: one line a call, as text or as JSON; never an input."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal, TextIO, cast

import structlog

from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server.service.access import current_caller
from onnx_attribution.server.service.calls import Call

__all__ = ["CallLog", "configure"]

OURS = f"{pb.DESCRIPTOR.package}."
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
    """Logs each call when it ends; those to health and reflection only in detail."""

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
        tell = log.debug if not call.service.startswith(OURS) else log.info
        if call.code in FAILURES:
            tell = log.error
        tell(
            "call",
            call=f"{call.service.removeprefix(OURS)}/{call.name}",
            code=call.code,
            seconds=round(call.seconds, 4),
            **{name: value for name, value in known.items() if value},
        )


class _Stderr:
    """Standard error as it is at each write: tests and embedding programs replace it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()
