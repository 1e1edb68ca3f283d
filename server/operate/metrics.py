"""Prometheus metrics. Their labels have few values: models that are known, methods, codes, reasons of a closed list."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnxruntime
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from onnx_attribution import __version__
from onnx_attribution.errors import Reason
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server.service.calls import Call
from onnx_attribution.values import ModelInfo

__all__ = ["Metrics", "outcome_of"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
POWERS = tuple(2**k for k in range(15))
DELTAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1)
OTHER = "other"
"""What stands for a name that a caller made up."""

CALL = ("grpc_service", "grpc_method", "grpc_type")
ATTRIBUTIONS = f"{pb.DESCRIPTOR.package}.AttributionService"
COMPUTING = (ATTRIBUTIONS, "inference.GRPCInferenceService")
COMPUTES = frozenset(("Predict", "Attribute", "StreamAttribute", "Audit", "ModelInfer"))
REASONS = frozenset(map(str, Reason))
NOT_CONVERGED = {pb.STOP_REASON_DEADLINE_NEAR, pb.STOP_REASON_DRAINING}
OUTCOMES = {
    "CANCELLED": "cancelled",
    "DEADLINE_EXCEEDED": "deadline",
    "RESOURCE_EXHAUSTED": "rejected",
    "UNAVAILABLE": "rejected",
    "UNAUTHENTICATED": "rejected",
    "PERMISSION_DENIED": "rejected",
    "INTERNAL": "error",
    "UNKNOWN": "error",
    "DATA_LOSS": "error",
}
"""Of the codes; all others are the caller's fault."""


def outcome_of(call: Call) -> str:
    """ok, not_converged, rejected, cancelled, deadline, invalid or error."""
    if call.code != "OK":
        return OUTCOMES.get(call.code, "invalid")
    unmet = call.has_tolerance and call.stop_reason == pb.STOP_REASON_MAX_STEPS
    return "not_converged" if unmet or call.stop_reason in NOT_CONVERGED else "ok"


class Metrics:
    """What is counted of one server: a listener to its calls, and the observer of its engine and its threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.models: frozenset[str] = frozenset()  # those that are known

        self._started = self._counter("grpc_server_started", "Calls begun.", CALL)
        self._handled = self._counter("grpc_server_handled", "Calls ended.", (*CALL, "grpc_code"))
        self._received = self._counter("grpc_server_msg_received", "Messages of callers.", CALL)
        self._sent = self._counter("grpc_server_msg_sent", "Messages to callers.", CALL)
        self._handling = self._histogram("grpc_server_handling_seconds", "Time of calls.", CALL)

        asked = ("model", "method", "outcome")
        self._requests = self._counter("attribution_requests", "Requests to compute something.", asked)
        self._rejected = self._counter(
            "attribution_rejected", "Requests refused for want of room, time or rights.", ("reason",)
        )
        one = ("model",)
        self._seconds = self._histogram("attribution_request_seconds", "Time of requests.", one)
        self._queue = self._histogram("attribution_queue_seconds", "Time of waiting for a thread.", one)
        self._first = self._histogram("attribution_first_revision_seconds", "Time to the first result.", one)
        self._delta = self._histogram(
            "attribution_relative_delta", "Largest |residual| by |change| at cuts of an answer.", (), DELTAS
        )
        self._steps = self._histogram("attribution_steps_used", "Steps of an answer.", (), POWERS)
        self._open = Gauge("attribution_streams_open", "Streams that run.", registry=self.registry)

        self._slice = self._histogram("attribution_slice_seconds", "Time of runs that requests share.")
        self._points = self._counter("attribution_path_points", "Rows run.")
        self._batch = self._histogram("attribution_batch_points", "Rows of a run.", (), POWERS)
        self._sharing = self._histogram("attribution_batch_requests", "Requests of a run.", (), POWERS[:7])
        self._cancel = self._histogram(
            "attribution_cancel_latency_seconds", "Time from the end of a request to the end of its run."
        )
        build = Info("attribution_build", "Versions.", registry=self.registry)
        build.info(
            {
                "version": __version__,
                "onnxruntime": onnxruntime.__version__,
                "python": platform.python_version(),
            }
        )
        ProcessCollector(registry=self.registry)

    def watch(
        self, pending: Callable[[], int], running: Callable[[], int], models: Callable[[], list[ModelInfo]]
    ) -> None:
        """What is asked for when the metrics are read."""
        waiting = Gauge("attribution_pending", "Requests that wait for a thread.", registry=self.registry)
        waiting.set_function(pending)
        admitted = Gauge("attribution_inflight", "Requests that run or wait.", registry=self.registry)
        admitted.set_function(running)
        self.registry.register(_Models(models))

    def exposed(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics in the form that is accepted, and its type. May wait for a lock of the engine."""
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind

    # --- of the calls

    def began(self, call: Call) -> None:
        """Counts it as started."""
        self._started.labels(*_labels(call)).inc()
        if _is_stream(call):
            self._open.inc()

    def received(self, call: Call, message: Any) -> None:
        """Counts the message."""
        self._received.labels(*_labels(call)).inc()

    def sent(self, call: Call, message: Any) -> None:
        """Counts the message; of an audit, each result is an answer."""
        self._sent.labels(*_labels(call)).inc()
        if call.kind == "bidi_stream" and call.summary is not None:
            self._answered(call.summary)
            call.summary = None

    def ended(self, call: Call) -> None:
        """Counts how it ended."""
        self._handled.labels(*_labels(call), _code(call.code)).inc()
        self._handling.labels(*_labels(call)).observe(call.seconds)
        if _is_stream(call):
            self._open.dec()
        method = call.method or (OTHER if call.name in COMPUTES else "")  # what was refused unread
        if call.service not in COMPUTING or not method:
            return
        outcome = outcome_of(call)
        model = call.model if call.code == "OK" or call.model in self.models else OTHER
        self._requests.labels(model, method, outcome).inc()
        if outcome == "rejected":
            self._rejected.labels(call.reason if call.reason in REASONS else OTHER).inc()
            return
        self._seconds.labels(model).observe(call.seconds)
        self._queue.labels(model).observe(call.waited)
        if call.first_revision is not None:
            self._first.labels(model).observe(call.first_revision - call.began)
        if call.summary is not None:
            self._answered(call.summary)

    def _answered(self, summary: pb.AttributionSummary) -> None:
        self._steps.observe(summary.steps)
        if (delta := _relative_delta(summary)) is not None:
            self._delta.observe(delta)

    # --- of the engine and the threads

    def ran(self, rows: int, requests: int, seconds: float) -> None:
        """Counts a run of the scheduler."""
        self._slice.observe(seconds)
        self._points.inc(rows)
        self._batch.observe(rows)
        self._sharing.observe(requests)

    def stopped(self, seconds: float) -> None:
        """Counts how long a run went on whose request had ended."""
        self._cancel.observe(seconds)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=buckets)


class _Models(Collector):
    """The state of each model when the metrics are read."""

    def __init__(self, models: Callable[[], list[ModelInfo]]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            "attribution_model_state", "1 for the state it is in.", labels=("model", "version", "state")
        )
        seconds = GaugeMetricFamily(
            "attribution_model_load_seconds", "Time that loading took.", labels=("model", "version")
        )
        for info in self._models():
            states.add_metric((info.name, str(info.version), info.state), 1)
            if info.load_seconds:
                seconds.add_metric((info.name, str(info.version)), info.load_seconds)
        yield states
        yield seconds


def _labels(call: Call) -> tuple[str, str, str]:
    return call.service, call.name, call.kind


def _is_stream(call: Call) -> bool:
    return call.service == ATTRIBUTIONS and call.kind not in ("unary", "http")


def _code(name: str) -> str:
    """As the dashboards for Go's servers spell it: OK, InvalidArgument, Canceled."""
    special = {"OK": "OK", "CANCELLED": "Canceled"}
    return special.get(name) or "".join(word.capitalize() for word in name.split("_"))


def _relative_delta(summary: pb.AttributionSummary) -> float | None:
    """The largest |residual| by |change of the target| over the samples of the cuts; None where there is none."""
    targets = summary.targets or ([summary.target] if summary.HasField("target") else [])
    changes = [a - b for one in targets for a, b in zip(one.values, one.baseline_values, strict=False)]
    found = [
        abs(residual / change)
        for layer in summary.layers
        if layer.cut
        for residual, change in zip(layer.residuals, changes, strict=False)
        if change and math.isfinite(residual) and math.isfinite(change)
    ]
    return max(found, default=None)
