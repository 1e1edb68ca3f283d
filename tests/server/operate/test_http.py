"""The HTTP port: alive always, ready only while more calls are welcome."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Mapping, Sequence

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from onnx_attribution.client import AsyncClient, Client
from onnx_attribution.errors import DeadlineExceeded, InvalidArgument, ModelError
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Array, ModelInfo
from tests.server.fake_engine import FakeEngine, X
from tests.server.operate.ports import get, ready, until
from tests.server.stubs import INPUT, Stubs

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Slow(FakeEngine):
    """Loads and predicts when it is let; heeds no cancellation."""

    def __init__(self) -> None:
        super().__init__({"broken": ModelError("no")})
        self.let = threading.Event()

    def warm_up(self, model: str) -> ModelInfo:
        self.let.wait(10)
        return super().warm_up(model)

    def predict(
        self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        self.let.wait(10)
        return super().predict(model, inputs, outputs)


def test_a_server_is_alive_ready_and_measured() -> None:
    with app.background(FakeEngine(), Settings(port=0)) as (_, server):
        assert get(server, "/livez") == (200, "ok\n")
        assert ready(server) == (200, {"ready": True})
        status, body = get(server, "/metrics")
        assert status == 200
        assert "attribution_build_info{" in body
        assert get(server, "/other")[0] == 404


def test_the_port_can_be_left_out() -> None:
    with app.background(FakeEngine(), Settings(port=0, http=False)) as (address, server):
        assert server.http_port is None
        with Client(address) as client:
            assert client.health()


def test_a_port_in_use_is_said_with_what_else_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(port=0, http_port=taken.getsockname()[1])
        with (
            pytest.raises(InvalidArgument, match=r"for HTTP.*--no-http"),
            app.background(FakeEngine(), settings),
        ):
            pass


def test_a_server_is_ready_when_what_is_preloaded_is_loaded_or_has_failed() -> None:
    engine = Slow()
    settings = Settings(port=0, preload=("lin*", "broken"))
    with app.background(engine, settings) as (address, server), grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def state(service: str) -> int:
            return int(health.Check(health_pb2.HealthCheckRequest(service=service)).status)

        assert ready(server) == (503, {"ready": False, "reason": "models are being loaded"})
        assert get(server, "/livez")[0] == 200
        assert state("") == NOT_SERVING
        engine.let.set()
        until(lambda: ready(server)[0] == 200)
        until(lambda: state("") == SERVING)
        assert state("models/broken") == NOT_SERVING
        assert engine.warmed == ["linear", "broken"]


def test_a_name_to_preload_that_no_model_has_is_refused() -> None:
    with (
        pytest.raises(InvalidArgument, match=r"no model 'linar'.*linear"),
        app.background(FakeEngine(), Settings(port=0, preload=("linar",))),
    ):
        pass


def test_a_run_that_does_not_return_makes_the_server_unready() -> None:
    engine = Slow()
    settings = Settings(port=0, hung_seconds=0.2)
    with app.background(engine, settings) as (address, server), Client(address) as client:
        with pytest.raises(DeadlineExceeded):
            client.predict("linear", {"x": X}, timeout=0.2)
        until(lambda: ready(server)[0] == 503)
        assert "has not returned" in ready(server)[1]["reason"]
        assert get(server, "/livez")[0] == 200
        engine.let.set()
        until(lambda: ready(server)[0] == 200)


async def test_a_server_that_ends_is_unready_first_and_takes_calls_for_a_while() -> None:
    engine = FakeEngine()
    server = app.build(engine, Settings(port=0, lame_duck_seconds=1, grace_seconds=5))
    address = f"127.0.0.1:{await server.start()}"
    async with AsyncClient(address) as client, client.stream("slow", X) as stream:
        await anext(stream)
        ending = asyncio.create_task(server.drain())
        await asyncio.sleep(0.1)
        status, told = await asyncio.to_thread(ready, server)
        assert (status, told["reason"]) == (503, "the server is shutting down")
        assert (await asyncio.to_thread(get, server, "/livez"))[0] == 200
        assert not await client.health()
        assert await client.predict("linear", {"x": X})  # the lame duck
        events = [event async for event in stream]
        assert events[-1].stop_reason == "draining"  # type: ignore[union-attr]
        await ending


def test_a_refusal_while_draining_says_when_to_try_again() -> None:
    with app.background(FakeEngine(), Settings(port=0)) as (address, server):
        server.work.draining.set()
        stubs = Stubs(address)
        with stubs.channel, pytest.raises(grpc.RpcError) as caught:
            stubs.attributions.Predict(pb.PredictRequest(model="linear", inputs=[INPUT]))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert ("grpc-retry-pushback-ms", "250") in [tuple(one) for one in caught.value.trailing_metadata()]
