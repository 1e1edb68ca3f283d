"""What is counted: every call, however it ends, and what the engine does for it."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from onnx import parser

from onnx_attribution.client import Client
from onnx_attribution.errors import AttributionError, InvalidArgument, ModelError, NotFound, Overloaded
from onnx_attribution.methods import IntegratedGradients
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.operate.metrics import Metrics
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine, X
from tests.server.operate.ports import get, until

SERVICE = "onnx_attribution.v1.AttributionService"


class Served:
    """A server around the fake engine, its client and what was counted."""

    def __init__(self, client: Client, engine: FakeEngine, metrics: Metrics, address: str) -> None:
        self.client, self.engine, self._metrics, self.address = client, engine, metrics, address

    def value(self, name: str, **labels: str) -> float:
        return self._metrics.registry.get_sample_value(name, labels) or 0.0

    def handled(self, method: str, kind: str, code: str) -> float:
        labels = {"grpc_service": SERVICE, "grpc_method": method, "grpc_type": kind, "grpc_code": code}
        return self.value("grpc_server_handled_total", **labels)

    def requests(self, model: str, method: str, outcome: str) -> float:
        return self.value("attribution_requests_total", model=model, method=method, outcome=outcome)


@pytest.fixture
def served() -> Iterator[Served]:
    metrics = Metrics()
    engine = FakeEngine({"failed": ModelError("no")})
    with (
        app.background(engine, Settings(port=0, max_streams=1), metrics=metrics) as (address, _),
        Client(address) as client,
    ):
        yield Served(client, engine, metrics, address)


def test_calls_that_are_answered_are_counted_with_their_messages(served: Served) -> None:
    served.client.predict("linear", {"x": X})
    with served.client.stream("linear", X, method="gradient") as stream:
        sent = len(list(stream))
    until(lambda: served.handled("StreamAttribute", "server_stream", "OK") == 1)
    assert served.handled("Predict", "unary", "OK") == 1
    assert served.requests("linear", "predict", "ok") == 1
    assert served.requests("linear", "gradient", "ok") == 1
    labels = {"grpc_service": SERVICE, "grpc_method": "StreamAttribute", "grpc_type": "server_stream"}
    assert served.value("grpc_server_started_total", **labels) == 1
    assert served.value("grpc_server_msg_received_total", **labels) == 1
    assert served.value("grpc_server_msg_sent_total", **labels) >= sent
    assert served.value("grpc_server_handling_seconds_count", **labels) == 1
    assert served.value("attribution_first_revision_seconds_count", model="linear") == 1
    assert served.value("attribution_queue_seconds_count", model="linear") == 2
    assert served.value("attribution_steps_used_sum") == 64  # the fake engine's last revision
    assert served.value("attribution_streams_open") == 0


@pytest.mark.parametrize(
    ("model", "inputs", "error", "code", "label"),
    [("linear", {"x": np.zeros((300, 3), "f")}, InvalidArgument, "InvalidArgument", "linear"),
     ("no-such-model", {"x": X}, NotFound, "NotFound", "other"),
     ("failed", {"x": X}, ModelError, "FailedPrecondition", "failed")],
)  # fmt: skip
def test_failures_are_counted_and_names_that_callers_make_up_are_no_labels(
    served: Served,
    model: str,
    inputs: dict[str, np.ndarray],
    error: type[AttributionError],
    code: str,
    label: str,
) -> None:
    with pytest.raises(error):
        served.client.predict(model, inputs)
    until(lambda: served.handled("Predict", "unary", code) == 1)
    assert served.requests(label, "predict", "invalid") == 1


def test_a_stream_that_its_client_leaves_is_counted_as_cancelled(served: Served) -> None:
    with served.client.stream("slow", X, method="gradient") as stream:
        next(stream)
        until(lambda: served.value("attribution_streams_open") == 1)
        assert served.value("attribution_inflight") == 1
        with pytest.raises(Overloaded):
            list(served.client.stream("slow", X, method="gradient"))
    until(lambda: served.handled("StreamAttribute", "server_stream", "Canceled") == 1)
    assert served.requests("slow", "gradient", "cancelled") == 1
    assert served.requests("slow", "gradient", "rejected") == 1
    assert served.value("attribution_rejected_total", reason="TOO_MANY_STREAMS") == 1
    until(lambda: not served.value("attribution_inflight"))
    assert served.value("attribution_streams_open") == 0


def test_the_time_from_the_end_of_a_request_to_that_of_its_run_is_counted(served: Served) -> None:
    with served.client.stream("stuck", X, method="gradient") as stream:
        next(stream)
        until(lambda: served.engine.asked)  # it computes
    until(lambda: served.value("attribution_cancel_latency_seconds_count") >= 1)
    assert served.value("attribution_cancel_latency_seconds_sum") < 1


def test_a_deadline_is_counted_and_a_stream_cut_short_has_not_converged(served: Served) -> None:
    with pytest.raises(AttributionError):
        served.client.attribute("stuck", X, method="gradient", timeout=0.4)
    until(lambda: served.requests("stuck", "gradient", "deadline") == 1)
    with served.client.stream("slow", X, method="gradient", timeout=0.6) as stream:
        assert len(list(stream)) > 2
    until(lambda: served.requests("slow", "gradient", "not_converged") == 1)


def test_a_large_message_for_which_there_is_no_room_is_refused_unread_and_counted(served: Served) -> None:
    with served.client.stream("slow", X, method="gradient") as stream:
        next(stream)
        with grpc.insecure_channel(served.address) as channel:
            call = channel.unary_stream(f"/{SERVICE}/StreamAttribute")
            for data, code in {
                b"\xff" * 100_000: grpc.StatusCode.RESOURCE_EXHAUSTED,
                b"\xff" * 100: grpc.StatusCode.INVALID_ARGUMENT,
            }.items():
                with pytest.raises(grpc.RpcError) as caught:
                    list(call(data, timeout=10))
                assert caught.value.code() == code
    until(lambda: served.requests("other", "other", "rejected") == 1)
    assert served.value("attribution_rejected_total", reason="TOO_MANY_STREAMS") == 1


def test_every_call_is_counted_when_the_server_has_ended() -> None:
    metrics = Metrics()
    with (
        app.background(FakeEngine(), Settings(port=0), metrics=metrics) as (address, _),
        Client(address) as client,
    ):
        for _ in range(20):
            client.predict("linear", {"x": X})
    asked = {"model": "linear", "method": "predict", "outcome": "ok"}
    assert metrics.registry.get_sample_value("attribution_requests_total", asked) == 20


NET = """<ir_version: 8, opset_import: ["" : 17]> net (float[N, 3] x) => (float[N, 3] y)
{ a = Exp(x) y = Mul(a, x) }"""


def test_the_runs_of_the_engine_are_counted() -> None:
    metrics = Metrics()
    with Engine(provider="cpu", observer=metrics) as engine:
        engine.add("net", parser.parse_model(NET))
        settings = Settings(port=0)
        with (
            app.background(engine, settings, metrics=metrics) as (address, server),
            Client(address) as client,
        ):
            method = IntegratedGradients(steps=32, quadrature="trapezoid")
            given = np.full((2, 3), 0.5, np.float32)
            client.attribute("net", {"x": given}, method=method, target=(1,))
            body = get(server, "/metrics")[1]
    found = metrics.registry.get_sample_value
    runs = found("attribution_slice_seconds_count")
    assert runs is not None
    assert runs >= 1
    assert runs == found("attribution_batch_points_count") == found("attribution_batch_requests_sum")
    assert (found("attribution_path_points_total") or 0) >= 32
    assert found("attribution_relative_delta_count") == 1
    assert 'attribution_model_state{model="net",state="READY",version="1"} 1.0' in body
    assert 'attribution_model_load_seconds{model="net",version="1"}' in body
