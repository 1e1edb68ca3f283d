"""The server as a process: health, reflection, settings, and its two ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from pydantic import ValidationError

from onnx_attribution.client import Client
from onnx_attribution.errors import InvalidArgument, ModelError, NotReady
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Completed, Event
from tests.server.fake_engine import FakeEngine, X

SETTINGS = Settings(port=0, grace_seconds=5)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with app.background(FakeEngine({"failed": ModelError("no")}), SETTINGS) as (address, _):
        yield address


def test_health_of_server_services_and_models_is_told_apart(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        states = {
            name: stub.Check(health_pb2.HealthCheckRequest(service=name)).status
            for name in ("", *app.SERVICES, "models/linear", "models/failed")
        }
        watched = next(iter(stub.Watch(health_pb2.HealthCheckRequest(service="models/failed"), timeout=5)))
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert states.pop("models/failed") == watched.status == not_serving
    assert set(states.values()) == {serving}
    assert "onnx_attribution.v1.AttributionService" in states


def test_reflection_knows_the_services_and_their_messages(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(app.SERVICES) <= set(database.get_services())
        file = database.FindFileContainingSymbol("onnx_attribution.v1.AttributeRequest")
        assert file.package == "onnx_attribution.v1"


def test_model_that_fails_later_stops_being_healthy() -> None:
    engine = FakeEngine()
    with app.background(engine, SETTINGS) as (address, _), Client(address) as client:
        engine.failures["late"] = ModelError("no")
        for _ in range(100):
            try:
                assert not client.health("models/late")
                break
            except Exception:
                time.sleep(0.05)
        assert not client.health("models/late")
        assert client.health()


def test_draining_ends_a_stream_with_its_best_revision() -> None:
    engine, events = FakeEngine(), list[Event]()

    def read(address: str) -> None:
        with Client(address) as client, client.stream("slow", X) as stream:
            events.extend(stream)

    with app.background(engine, SETTINGS) as (address, _):
        reader = threading.Thread(target=read, args=(address,))
        reader.start()
        while engine.asked < 5:
            time.sleep(0.01)
    reader.join(5)
    assert events[-1] == Completed("draining", 2)


def test_draining_server_refuses_new_calls_with_the_reason() -> None:
    with app.background(FakeEngine(), SETTINGS) as (address, server), Client(address) as client:
        server.work.draining.set()
        with pytest.raises(NotReady) as caught:
            client.predict("linear", {"x": X})
    assert (caught.value.reason, caught.value.code) == ("DRAINING", "UNAVAILABLE")


def test_stream_without_a_result_is_cancelled_when_the_grace_ends() -> None:
    engine = FakeEngine()
    begin = time.monotonic()
    with app.background(engine, Settings(port=0, grace_seconds=0.3)) as (address, _):
        client = Client(address)
        stream = client.stream("stuck", X)
        next(stream)
    assert engine.ended.wait(2)
    assert time.monotonic() - begin < 3
    with pytest.raises(NotReady):
        list(stream)
    client.close()


def test_port_in_use_is_said() -> None:
    with app.background(FakeEngine(), SETTINGS) as (address, _):
        port = int(address.rpartition(":")[2])
        with (
            pytest.raises(InvalidArgument, match="is the port in use"),
            app.background(FakeEngine(), Settings(port=port)),
        ):
            pass


def test_open_plaintext_listener_must_be_allowed() -> None:
    with pytest.raises(ValidationError, match="other machines"):
        Settings(host="0.0.0.0")
    assert Settings(host="0.0.0.0", allow_insecure=True).lame_duck == 3
    assert Settings(host="::1").address == "[::1]:8081"
    assert Settings(host="localhost").lame_duck == 0


def test_settings_come_from_variables_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNX_ATTRIBUTION_PORT", "99")
    monkeypatch.setenv("ONNX_ATTRIBUTION_PROVIDER", "cpu")
    monkeypatch.setenv("ONNX_ATTRIBUTION_MODELS", "/a:/b")
    monkeypatch.setenv("ONNX_ATTRIBUTION_DEVICES", "0,2")
    settings = Settings(port=98)
    assert (settings.port, settings.provider, settings.models) == (98, "cpu", (Path("/a"), Path("/b")))
    assert (settings.devices, settings.tf32) == ((0, 2), False)


FAILING = """
from onnx_attribution.client import Client
from onnx_attribution.errors import ServerBug
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine, X

class Failing(FakeEngine):
    def predict(self, model, inputs, outputs=()):
        confidential = "secret" + "value"
        raise RuntimeError("broken")

with app.background(Failing(), Settings(port=0)) as (address, _), Client(address) as client:
    try:
        client.predict("linear", {"x": X})
    except ServerBug:
        print("failed")
"""


def test_log_of_a_background_server_holds_no_local_variables() -> None:
    environment = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    result = subprocess.run(
        [sys.executable, "-c", FAILING], capture_output=True, text=True, env=environment, timeout=60
    )
    assert result.stdout == "failed\n"
    assert "incident" in result.stderr
    assert "RuntimeError: broken" in result.stderr
    assert "secretvalue" not in result.stderr


SCRIPT = """
import asyncio, sys, structlog
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine
renderer = structlog.processors.JSONRenderer()
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr), processors=[renderer])
asyncio.run(app._serve(FakeEngine(), Settings(port=0, grace_seconds=30)))
"""


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    environment = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        match = re.search(r'"port": (\d+)', process.stderr.readline())
        assert match is not None
        yield process, f"127.0.0.1:{match[1]}"
        process.kill()


def test_first_signal_drains_and_the_process_ends_well(process: tuple[subprocess.Popen[str], str]) -> None:
    server, address = process
    with Client(address) as client, client.stream("slow", X) as stream:
        next(stream)
        server.send_signal(signal.SIGTERM)
        *_, last = stream
    assert last == Completed("draining", 2)
    assert server.wait(5) == 0


def test_second_signal_aborts(process: tuple[subprocess.Popen[str], str]) -> None:
    server, address = process
    with Client(address) as client, client.stream("stuck", X) as stream:
        next(stream)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.poll() is None
        server.send_signal(signal.SIGTERM)
        with pytest.raises(NotReady):
            list(stream)
    assert server.wait(5) == 0
