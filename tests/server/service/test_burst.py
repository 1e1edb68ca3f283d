"""A burst of calls: each is answered, or refused by the server's own words."""

from __future__ import annotations

import threading
from collections import Counter

import grpc
from google.rpc import error_details_pb2, status_pb2

from onnx_attribution.client import messages
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine, X

CALLS = 800


def has_retry_info(call: grpc.Future) -> bool:
    metadata = dict(call.trailing_metadata())
    status = status_pb2.Status.FromString(metadata.get("grpc-status-details-bin", b""))
    return any(one.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for one in status.details)


def test_a_burst_on_a_new_connection_is_answered_or_refused_with_a_time_to_wait() -> None:
    request, over = messages.to_predict("linear", {"x": X}, ()), threading.Semaphore(0)
    settings = Settings(port=0, http=False, max_unary=4, max_per_caller=0)
    with (
        app.background(FakeEngine(), settings) as (address, _),
        # without the retries of gRPC, which hide streams that the server breaks
        grpc.insecure_channel(address, (("grpc.enable_retries", 0),)) as channel,
    ):
        predict = channel.unary_unary(f"/{pb.DESCRIPTOR.package}.AttributionService/Predict")
        calls = [predict.future(request, timeout=30) for _ in range(CALLS)]
        for call in calls:
            call.add_done_callback(lambda _: over.release())
        for _ in calls:
            assert over.acquire(timeout=40)
        codes = Counter(call.code().name for call in calls)
        refused = [call for call in calls if call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED"}, codes
        assert codes["OK"] >= 1
        assert all(map(has_retry_info, refused))
