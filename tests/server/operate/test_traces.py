"""A span a call: with its code however it ends, below the caller's own, and what it consisted of below it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from onnx_attribution.client import Client
from onnx_attribution.errors import AttributionError
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine, X
from tests.server.operate.ports import until
from tests.server.stubs import INPUT, Stubs

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from onnx_attribution.server.operate.traces import Traces

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Traced:
    """An address, and the spans of what is asked there."""

    def __init__(self, address: str, exporter: InMemorySpanExporter) -> None:
        self.address, self._exporter = address, exporter

    def span(self, name: str) -> Any:
        def found() -> list[Any]:
            return [one for one in self._exporter.get_finished_spans() if one.name.endswith(name)]

        until(found)
        return found()[0]


@pytest.fixture
def traced() -> Iterator[Traced]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    settings = Settings(port=0)
    with app.background(FakeEngine(), settings, listeners=[Traces(provider)]) as (address, _):
        yield Traced(address, exporter)


def test_a_span_is_below_that_of_its_caller_and_has_parts(traced: Traced) -> None:
    request = pb.AttributeRequest(model="linear", inputs=[INPUT], gradient=pb.Gradient())
    stubs = Stubs(traced.address)
    with stubs.channel:
        metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
        assert list(stubs.attributions.StreamAttribute(request, metadata=metadata))
    span = traced.span("AttributionService/StreamAttribute")
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert span.attributes["rpc.grpc.status_code"] == 0
    assert span.attributes["attribution.model"] == "linear"
    resolve, runs = traced.span("resolve"), traced.span("runs")
    assert resolve.parent.span_id == runs.parent.span_id == span.context.span_id
    assert span.start_time <= resolve.end_time <= runs.end_time <= span.end_time


def test_a_span_has_the_code_of_what_was_refused_expired_or_left(traced: Traced) -> None:
    with Client(traced.address) as client:
        with pytest.raises(AttributionError):
            client.predict("nothing", {"x": X})
        span = traced.span("Predict")
        assert span.attributes["rpc.grpc.status_code"] == 5
        assert span.attributes["attribution.reason"] == "MODEL_NOT_FOUND"
        assert span.status.is_unset  # the caller's fault, not the server's
        with client.stream("slow", X) as stream:
            next(stream)
        assert traced.span("StreamAttribute").attributes["rpc.grpc.status_code"] == 1


def test_a_span_of_a_call_whose_time_ran_out_is_a_failure(traced: Traced) -> None:
    with Client(traced.address) as client, pytest.raises(AttributionError):
        client.attribute("stuck", X, method="gradient", timeout=0.3)
    span = traced.span("StreamAttribute")
    assert span.attributes["rpc.grpc.status_code"] == 4
    assert not span.status.is_ok
    assert not span.status.is_unset
