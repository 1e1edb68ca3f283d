"""OpenTelemetry spans, where the package is installed and asked for: one a call, with what it was doing as children.

The spans are ours, since grpc's instrumentation for asyncio records no code for failures and breaks calls that write
to their context.
"""

from __future__ import annotations

import os
import time
from typing import Any

import grpc
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from onnx_attribution import __version__
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server.service.calls import Call

__all__ = ["Traces", "exporting"]

OURS = f"{pb.DESCRIPTOR.package}."
FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
"""The codes that are the server's failures in OpenTelemetry's conventions."""


class Traces:
    """A listener that makes spans of the calls to our services."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = trace.get_tracer("onnx_attribution", __version__, provider)
        self._spans: dict[Call, Span] = {}
        # Calls are timed by a clock that cannot be set, spans by the wall clock.
        self._offset = time.time() - time.monotonic()

    def began(self, call: Call) -> None:
        """Begins the span, below the caller's own where the metadata names one."""
        if not call.service.startswith(OURS):
            return
        carrier = {key: value for key, value in call.metadata if isinstance(value, str)}
        self._spans[call] = self._tracer.start_span(
            f"{call.service}/{call.name}",
            propagate.extract(carrier),
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": call.service, "rpc.method": call.name},
            start_time=self._at(call.began),
        )

    def received(self, call: Call, message: Any) -> None:
        """Nothing: what is asked for is known at the end."""

    def sent(self, call: Call, message: Any) -> None:
        """Nothing."""

    def ended(self, call: Call) -> None:
        """Ends the span with its code, and what it consisted of."""
        span = self._spans.pop(call, None)
        if span is None:
            return
        known = {
            "attribution.model": call.model,
            "attribution.method": call.method,
            "attribution.reason": call.reason,
            "attribution.request_id": call.request_id,
        }
        span.set_attributes({name: value for name, value in known.items() if value})
        span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[call.code].value[0])
        if call.code in FAULTS:
            span.set_status(Status(StatusCode.ERROR, call.reason or call.code))
        if call.accepted is not None:
            self._part(span, "resolve", call.began, call.accepted)
            self._part(span, "runs", call.accepted, call.ended)
        span.end(self._at(call.ended))

    def close(self) -> None:
        """Sends what has not been sent, which may take seconds."""
        flush = getattr(self._provider, "force_flush", None)
        if flush is not None:
            flush(2000)

    def _part(self, span: Span, name: str, begin: float, end: float) -> None:
        part = self._tracer.start_span(name, trace.set_span_in_context(span), start_time=self._at(begin))
        part.end(self._at(end))

    def _at(self, seconds: float) -> int:
        return int((seconds + self._offset) * 1e9)


def exporting() -> TracerProvider:
    """Sends spans as the OTEL_* variables say; the process's own provider where it has one."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk import trace as sdk
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    present = trace.get_tracer_provider()
    if isinstance(present, sdk.TracerProvider):
        return present
    name = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "onnx-attribution"}
    made = sdk.TracerProvider(resource=Resource.create(name))
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made
