"""Both clients against a real server on a loopback socket, around an engine that computes next to nothing."""

from __future__ import annotations

import ast
import asyncio
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

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
        client.attribute("linear", {"x": X * 1j}, steps=0, target="seven")
    assert set(caught.value.violations) == {"steps", "inputs.x", "target"}


def test_array_without_a_name_needs_a_model_with_one_input() -> None:
    two = tuple(TensorInfo(name, "float32", None, 0) for name in ("a", "b"))
    with pytest.raises(errors.InvalidArgument, match=r"2 inputs \(a, b\)"):
        only_input(ModelInfo("m", 1, "READY", inputs=two))


def test_absent_server_is_not_ready_and_the_message_says_what_to_look_at() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(errors.NotReady, match="is it running") as caught:
        client.models(timeout=5)
    assert caught.value.code == "UNAVAILABLE"


SILENT = """
import asyncio, sys, time, structlog
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine

class Silent(FakeEngine):
    def stream(self, request, *, stop=None):
        print("asked", file=sys.stderr, flush=True)
        time.sleep(60)
        yield

renderer = structlog.processors.JSONRenderer()
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr), processors=[renderer])
asyncio.run(app._serve(Silent(), Settings(port=0)))
"""

KILLED = """
import sys, time, numpy
from onnx_attribution.client import Client
from onnx_attribution.errors import AttributionError
with Client(sys.argv[1]) as client:
    begin = time.monotonic()
    try:
        next(client.stream("linear", {"x": numpy.ones((1, 3), "f")}, timeout=8))
    except AttributionError as error:
        print(type(error).__name__, time.monotonic() - begin)
"""


def test_stream_ends_when_its_server_is_killed_before_the_first_message() -> None:
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": f"{root / 'src'}:{root}"}
    start = [sys.executable, "-c", SILENT]
    with subprocess.Popen(start, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stderr is not None
            port = re.search(r'"port": (\d+)', server.stderr.readline())
            assert port is not None
            # The client has a process of its own: a call that hangs cannot be ended from inside.
            ask = [sys.executable, "-c", KILLED, f"127.0.0.1:{port[1]}"]
            with subprocess.Popen(ask, stdout=subprocess.PIPE, text=True, env=environment) as asking:
                try:
                    assert "asked" in server.stderr.readline()
                    server.kill()
                    name, took = asking.communicate(timeout=20)[0].split()
                finally:
                    asking.kill()
        finally:
            server.kill()
    assert name in ("NotReady", "DeadlineExceeded")
    assert float(took) < 9


def test_no_time_is_no_time(client: Client) -> None:
    for call in (
        lambda: client.models(timeout=0),
        lambda: client.health(timeout=0),
        lambda: client.attribute("linear", X, timeout=0),
    ):
        with pytest.raises(errors.DeadlineExceeded):
            call()
    assert client.models(timeout=float("inf"))
    for wrong in ("5", float("nan"), True):
        with pytest.raises(errors.InvalidArgument, match="timeout"):
            client.models(timeout=wrong)  # type: ignore[arg-type]


async def test_async_no_time_is_no_time(async_client: AsyncClient) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        await async_client.models(timeout=0)
    with pytest.raises(errors.DeadlineExceeded):
        await async_client.attribute("linear", {"x": X}, timeout=0)


def test_closed_client_is_not_ready(client: Client) -> None:
    client.close()
    client.close()
    for call in (
        client.models,
        client.health,
        lambda: client.layers("linear"),
        lambda: client.predict("linear", {"x": X}),
        lambda: client.attribute("linear", {"x": X}),
        lambda: client.stream("linear", X),
    ):
        with pytest.raises(errors.NotReady, match="closed"):
            call()


async def test_async_closed_client_is_not_ready(async_client: AsyncClient) -> None:
    await async_client.aclose()
    for call in (
        async_client.models,
        async_client.health,
        lambda: async_client.predict("linear", {"x": X}),
        lambda: async_client.attribute("linear", {"x": X}),
    ):
        with pytest.raises(errors.NotReady, match="closed"):
            await call()


def test_closed_stream_is_cancelled(client: Client) -> None:
    stream = client.stream("stuck", X)
    next(stream)
    stream.close()
    with pytest.raises(errors.Cancelled):
        list(stream)


async def test_async_closed_stream_is_cancelled(async_client: AsyncClient) -> None:
    unread, read, waiting = (async_client.stream("stuck", X) for _ in range(3))
    await unread.aclose()
    await anext(read)
    await read.aclose()

    async def wait() -> None:
        while True:
            await anext(waiting)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0.3)
    await waiting.aclose()
    for stream in (unread, read):
        with pytest.raises(errors.Cancelled):
            await anext(stream)
    with pytest.raises(errors.Cancelled):
        await asyncio.wait_for(task, 5)


async def test_async_cancelled_task_stays_cancelled(async_client: AsyncClient) -> None:
    async with async_client.stream("stuck", X) as stream:
        for _ in range(3):
            await anext(stream)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), 0.2)


async def test_async_stream_that_has_ended_stays_ended(async_client: AsyncClient) -> None:
    stream = async_client.stream("linear", X)
    assert len([event async for event in stream]) == 6
    await stream.aclose()
    assert [event async for event in stream] == []


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("inputs.x", {"inputs": {"x": [[1, 2, 3], [4]]}}),
        ("baselines.x", {"baselines": {"x": [[1, 2, 3], [4]]}}),
        ("inputs.1", {"inputs": {1: X}}),
        ("steps", {"steps": 2.5}),
        ("steps", {"steps": "64"}),
        ("steps", {"steps": True}),
        ("max_steps", {"max_steps": 1 << 40}),
        ("tolerance", {"tolerance": "tight"}),
        ("tolerance", {"tolerance": 10**400}),
        ("tolerance", {"tolerance": [0.1]}),
        ("layers", {"layers": 5}),
        ("windows", {"method": "occlusion", "windows": (8, 8)}),
        ("strides", {"method": "occlusion", "strides": {"x": 8}}),
        ("groups", {"method": "occlusion", "groups": {"x": [[0, 1], [2]]}}),
        ("source", {"source": [5]}),
        ("multiply_by_inputs", {"method": "deeplift_rescale", "multiply_by_inputs": "no"}),
        ("request_id", {"request_id": 5}),
    ],
)
def test_wrong_arguments_are_named(client: Client, field: str, options: dict[str, Any]) -> None:
    inputs = options.pop("inputs", {"x": X})
    with pytest.raises(errors.InvalidArgument) as caught:
        client.attribute("linear", inputs, **options)
    assert set(caught.value.violations) == {field}


def test_an_unknown_option_is_named_with_the_known_ones(client: Client) -> None:
    with pytest.raises(
        errors.InvalidArgument, match="neuron_ig has no parameter 'metod'; there are: max_steps, quadrature"
    ):
        client.attribute("linear", X, metod="gradient")


def test_array_for_a_model_with_several_inputs_is_refused(client: Client, engine: FakeEngine) -> None:
    two = tuple(TensorInfo(name, "float32", None, 0) for name in ("a", "b"))
    engine._info = lambda name: ModelInfo(name, 1, "READY", inputs=two)  # type: ignore[method-assign]
    for given in (X, [X, X], [[1, 2], [3]], 5):
        for call in (client.attribute, client.predict):
            with pytest.raises(errors.InvalidArgument, match=r"2 inputs \(a, b\)"):
                call("linear", given)


def test_one_layer_or_output_may_be_named_without_a_list(client: Client) -> None:
    assert list(client.attribute("linear", X, layers="conv2").layers) == ["conv2"]
    assert list(client.predict("linear", X, "y")) == ["y"]
    with pytest.raises(errors.InvalidArgument):
        client.predict("linear", X, [5])  # type: ignore[list-item]


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
