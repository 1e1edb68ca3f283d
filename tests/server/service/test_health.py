"""grpc.health.v1: a state for the server, each service and each model; all can be listed, and any be watched."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc

from onnx_attribution.errors import ModelError
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine

State = health_pb2.HealthCheckResponse


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine({"failed": ModelError("no")})


@pytest.fixture
def channel(engine: FakeEngine) -> Iterator[grpc.Channel]:
    with (
        app.background(engine, Settings(port=0)) as (address, _),
        grpc.insecure_channel(address) as channel,
    ):
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


def list_response() -> Any:
    """HealthListResponse as grpc's health.proto has it: map<string, HealthCheckResponse> statuses = 1."""
    file = descriptor_pb2.FileDescriptorProto(
        name="list.proto", package="listed", syntax="proto3", dependency=[health_pb2.DESCRIPTOR.name]
    )
    message = file.message_type.add(name="HealthListResponse")
    entry = message.nested_type.add(name="StatusesEntry")
    entry.options.map_entry = True
    field = descriptor_pb2.FieldDescriptorProto
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    state = ".grpc.health.v1.HealthCheckResponse"
    entry.field.add(
        name="value", number=2, type=field.TYPE_MESSAGE, label=field.LABEL_OPTIONAL, type_name=state
    )
    message.field.add(
        name="statuses",
        number=1,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_REPEATED,
        type_name=".listed.HealthListResponse.StatusesEntry",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("listed.HealthListResponse"))()


def asked(service: str) -> Any:
    return health_pb2.HealthCheckRequest(service=service)


def test_all_states_are_listed(channel: grpc.Channel, engine: FakeEngine) -> None:
    long = "m" * 200  # its length takes two bytes
    engine.failures[long] = ModelError("no")
    listing = channel.unary_unary("/grpc.health.v1.Health/List")
    found: dict[str, int] = {}
    for _ in range(100):
        response = list_response()
        response.ParseFromString(listing(b""))
        found = {name: one.status for name, one in response.statuses.items()}
        if f"models/{long}" in found:
            break
        time.sleep(0.05)
    assert found.pop("models/failed") == found.pop(f"models/{long}") == State.NOT_SERVING
    assert set(found.values()) == {State.SERVING}
    assert {"", "models/linear", *app.SERVICES} <= found.keys()


def test_what_is_not_known_is_not_found(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(asked("models/none"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_watcher_that_leaves_does_not_end_the_others(stub: Any, engine: FakeEngine) -> None:
    first, second = (stub.Watch(asked("models/late"), timeout=20) for _ in range(2))
    seen: queue.Queue[int] = queue.Queue()
    assert next(first).status == State.SERVICE_UNKNOWN

    def read() -> None:
        try:
            for one in second:
                seen.put(one.status)
        except grpc.RpcError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    assert seen.get(timeout=5) == State.SERVICE_UNKNOWN
    first.cancel()
    engine.failures["late"] = ModelError("no")  # and so it is a model from now on
    assert seen.get(timeout=5) == State.NOT_SERVING
    del engine.failures["late"]
    assert seen.get(timeout=5) == State.SERVICE_UNKNOWN
    second.cancel()
    reader.join(5)
