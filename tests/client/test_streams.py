"""Streams of both clients: what arrives and in which order, how they end, and what that stops."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from onnx_attribution import errors
from onnx_attribution.client import AsyncClient, Client
from onnx_attribution.client.events import Assembler
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import (
    Accepted,
    Completed,
    Progress,
    Revision,
)
from tests.server.fake_engine import FakeEngine, X


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


SILENT = """
import asyncio, sys, time, structlog
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine

class Silent(FakeEngine):
    def stream(self, request, *, stop=None, revisions=True):
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


def test_a_stream_that_breaks_is_asked_for_once_more() -> None:
    engine = FakeEngine()
    with app.background(engine, Settings(port=0, grace_seconds=0.1)) as (address, _):
        client = Client(address)
        stream = client.stream("stuck", X, request_id="same")
        assert isinstance(next(stream), Accepted)
        port = int(address.rsplit(":", 1)[1])
    with app.background(FakeEngine(), Settings(port=port, stream_seconds=0.5)), client, stream:
        assert isinstance(next(stream), Progress)  # what was accepted is not told again


def test_a_server_that_is_not_there_is_given_up_soon() -> None:
    began = time.monotonic()
    with Client("127.0.0.1:1") as client, pytest.raises(errors.NotReady, match="no server answers"):
        client.attribute("linear", X)
    assert time.monotonic() - began < 5


def test_a_closed_stream_is_not_asked_for_again(client: Client) -> None:
    stream = client.stream("slow", X)
    next(stream)
    stream.close()
    with pytest.raises(errors.Cancelled):
        list(stream)
