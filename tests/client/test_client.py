"""Both clients against a real server on a loopback socket, around an engine that computes next to nothing."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from onnx_attribution import errors
from onnx_attribution.client import AsyncClient, Client, Target
from onnx_attribution.client.messages import Assembler, only_input
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import (
    Accepted,
    Attribution,
    Completed,
    ModelInfo,
    Progress,
    Revision,
    TensorInfo,
)
from tests.server.fake_engine import FakeEngine, W, X

SETTINGS = Settings(port=0, grace_seconds=2)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[Client]:
    with app.background(engine, SETTINGS) as (address, _), Client(address) as client:
        yield client


@pytest.fixture
async def async_client(engine: FakeEngine) -> AsyncIterator[AsyncClient]:
    server = app.build(engine, SETTINGS)
    port = await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        yield client
    await server.drain()


def check(result: Attribution) -> None:
    layer = result.layers["x"]
    np.testing.assert_array_equal(layer.values, X * W[:, 1])
    np.testing.assert_array_equal(layer.sum, (X * W[:, 1]).sum(1))
    assert layer.values.flags.writeable
    assert layer.values.dtype == np.float32
    assert layer.cut
    assert np.isnan(layer.error_estimate).all()
    assert result.target.index == ("1", "1")
    assert (result.method, result.batch, result.provider) == ("neuron_ig", "dynamic", "cpu")
    assert result.steps == 64
    assert result.warnings == ("fake",)


def test_attribution_arrives_as_the_engine_made_it(client: Client) -> None:
    check(client.attribute("linear", {"x": X}, target=1))


async def test_async_attribution_arrives_as_the_engine_made_it(async_client: AsyncClient) -> None:
    check(await async_client.attribute("linear", {"x": X}, target=1))


def test_array_without_a_name_goes_to_the_only_input(client: Client) -> None:
    check(client.attribute("linear", X, target=Target(index=1)))
    np.testing.assert_array_equal(client.predict("linear", X)["y"], X @ W)


async def test_async_array_without_a_name_goes_to_the_only_input(async_client: AsyncClient) -> None:
    check(await async_client.attribute("linear", X, target=1))
    np.testing.assert_array_equal((await async_client.predict("linear", X))["y"], X @ W)


def test_events_arrive_in_order(client: Client) -> None:
    with client.stream("linear", X, layers="x") as stream:
        kinds = [type(event) for event in stream]
    assert kinds == [Accepted, Revision, Progress, Revision, Progress, Completed]


async def test_async_events_arrive_in_order(async_client: AsyncClient) -> None:
    async with async_client.stream("linear", X, layers="x") as stream:
        kinds = [type(event) async for event in stream]
    assert kinds == [Accepted, Revision, Progress, Revision, Progress, Completed]


def test_result_over_four_mebibytes_is_reassembled(client: Client) -> None:
    result = client.attribute("big", X, layers=["a", "b"])
    for layer in result.layers.values():
        assert layer.values.nbytes > 8 << 20
        np.testing.assert_array_equal(layer.values, np.tile(np.arange(1_500_000, dtype=np.float32), (2, 1)))


async def test_async_result_over_four_mebibytes_is_reassembled(async_client: AsyncClient) -> None:
    result = await async_client.attribute("big", X, layers=["a", "b"])
    assert result.layers["b"].values.shape == (2, 1_500_000)


def test_progress_callback_sees_progress_and_revisions(client: Client) -> None:
    seen: list[Progress | Revision] = []
    client.attribute("linear", X, progress=seen.append)
    assert [type(event) for event in seen] == [Revision, Progress, Revision, Progress]


def test_progress_bar_is_drawn_by_tqdm(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.attribute("linear", X, progress=True)
    assert "64/64" in capsys.readouterr().err


def test_closed_stream_stops_the_engine(client: Client, engine: FakeEngine) -> None:
    with client.stream("slow", X) as stream:
        next(stream)
        next(stream)
    assert engine.ended.wait(2)
    assert engine.stopped in (["cancelled"], [])  # not asked if it was closed between two events


def test_forgotten_stream_stops_the_engine(client: Client, engine: FakeEngine) -> None:
    stream = client.stream("stuck", X)
    for _ in range(3):
        next(stream)
    time.sleep(0.05)
    del stream
    assert engine.ended.wait(2)
    assert engine.stopped == ["cancelled"]


async def test_async_forgotten_stream_stops_the_engine(async_client: AsyncClient, engine: FakeEngine) -> None:
    stream = async_client.stream("stuck", X)
    for _ in range(3):
        await anext(stream)
    del stream
    assert await async_client.health()
    for _ in range(200):
        if engine.ended.is_set():
            break
        await asyncio.sleep(0.01)
    assert engine.ended.is_set()


def test_time_running_out_gives_the_best_revision(client: Client, engine: FakeEngine) -> None:
    with client.stream("slow", X, timeout=1.0) as stream:
        *_, last = stream
    assert last == Completed("deadline_near", 2)


def test_time_running_out_before_a_revision_is_an_error(client: Client) -> None:
    with pytest.raises(errors.DeadlineExceeded) as caught:
        client.attribute("stuck", X, timeout=0.5)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert caught.value.reason == "DEADLINE_TOO_SHORT"


def test_unknown_model_is_not_found(client: Client) -> None:
    with pytest.raises(errors.NotFound, match="no model 'nothing'; there is linear") as caught:
        client.model("nothing")
    assert (caught.value.code, caught.value.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert caught.value.metadata == {"model": "nothing"}


async def test_async_unknown_model_is_not_found(async_client: AsyncClient) -> None:
    with pytest.raises(errors.NotFound) as caught:
        await async_client.attribute("nothing", {"x": X})
    assert caught.value.reason == "MODEL_NOT_FOUND"


def test_every_wrong_argument_is_named_before_anything_is_sent(client: Client) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        client.attribute("linear", {"x": X * 1j}, method="nonsense", target="seven")  # type: ignore[arg-type]
    assert set(caught.value.violations) == {"method", "inputs.x", "target"}


def test_array_without_a_name_needs_a_model_with_one_input() -> None:
    two = tuple(TensorInfo(name, "float32", None, 0) for name in ("a", "b"))
    with pytest.raises(errors.InvalidArgument, match=r"2 inputs \(a, b\)"):
        only_input(ModelInfo("m", 1, "READY", inputs=two))


def test_absent_server_is_not_ready_and_the_message_says_what_to_look_at() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(errors.NotReady, match="is it running") as caught:
        client.models(timeout=5)
    assert caught.value.code == "UNAVAILABLE"


def test_models_and_layers_are_listed_over_several_pages(client: Client, engine: FakeEngine) -> None:
    assert [info.name for info in client.models()] == ["big", "linear", "slow", "stuck"]
    assert client.layers("linear") == engine.layers("linear")
    assert client.layers("linear", "layer17") == engine.layers("linear", "layer17")
    assert client.model("linear") == engine.info("linear")


async def test_async_models_and_layers_are_listed(async_client: AsyncClient, engine: FakeEngine) -> None:
    assert len(await async_client.models()) == 4
    assert await async_client.layers("linear") == engine.layers("linear")
    assert await async_client.model("linear") == engine.info("linear")


def test_health_of_server_and_model_is_known(client: Client) -> None:
    assert client.health()
    assert client.health("models/linear")
    with pytest.raises(errors.NotFound):
        client.health("models/nothing")


def test_chunk_out_of_place_breaks_the_stream() -> None:
    layer = pb.LayerSummary(name="x", datatype="FP32", shape=[2])
    revision = pb.Revision(number=1, summary=pb.AttributionSummary(layers=[layer]))
    for chunk in (
        pb.Chunk(revision=2, data=b"1234"),
        pb.Chunk(revision=1, layer=1, data=b"1234"),
        pb.Chunk(revision=1, offset=4, data=b"1234"),
        pb.Chunk(revision=1, data=b"123456789"),
        pb.Chunk(revision=1, data=b"1234", last=True),
    ):
        assembler = Assembler()
        assembler.feed(pb.StreamAttributeResponse(revision=revision))
        with pytest.raises(errors.ServerBug, match="stream is broken"):
            assembler.feed(pb.StreamAttributeResponse(chunk=chunk))


def test_importing_the_client_needs_no_onnx_and_no_server() -> None:
    code = "import sys, onnx_attribution.client; print(sorted(sys.modules))"
    source = str(Path(__file__).parents[2] / "src")
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": source}
    )
    modules = set(ast.literal_eval(result.stdout))
    assert not modules & {"onnx", "onnxruntime", "onnx_graphsurgeon", "pydantic", "structlog"}
    assert "onnx_attribution.server" not in modules


def test_public_is_what_the_package_lists() -> None:
    import onnx_attribution.client as package

    assert package.__all__ == sorted(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)
