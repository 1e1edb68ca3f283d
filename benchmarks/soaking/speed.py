"""Scenarios: what a call over the loopback costs, how fast a server starts and ends what nobody waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import numpy as np

from benchmarks.soaking import echo
from benchmarks.soaking.attacks import STREAM
from benchmarks.soaking.world import MIB, World, quantile
from benchmarks.table import Figure, least, most
from onnx_attribution.client import Client, messages
from onnx_attribution.client.channel import CHANNEL_OPTIONS
from onnx_attribution.errors import DeadlineExceeded
from onnx_attribution.proto import attribution_pb2_grpc as rpc
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Array, Attribution, AttributionRequest

IMAGE = np.ones((1, 1, 16, 16), np.float32)
THREADS = 4
ONES = np.ones((1, 2), np.float32)
SIZES = {"1 KiB": (1 << 10, 1.0), "64 KiB": (1 << 16, 1.5), "1 MiB": (1 << 20, 3.0)}


def start(world: World) -> Iterator[Figure]:
    """Cold start and idle memory."""
    began = time.monotonic()
    with world.server() as server:
        yield Figure("server", "seconds to SERVING", time.monotonic() - began, most(3))
        yield Figure("server", "idle MiB", server.mebibytes, most(200))


def overhead(world: World) -> Iterator[Figure]:
    """A call over the loopback beside the same call of an engine in this process, and beside the same bytes sent to a
    server of grpc.aio that only sends them back; in turn."""
    with (
        world.server() as server,
        world.echo() as address,
        grpc.insecure_channel(address, CHANNEL_OPTIONS) as channel,
        Client(server.address) as client,
        Engine(provider="cpu", threads=1) as engine,
    ):
        for model in ("echo", "cnn"):
            engine.add(model, world.folder / f"{model}.onnx")
        bare, rounds = channel.unary_unary(echo.METHOD), world.count(600, 20)
        yield Figure("empty call", "p50 ms", _medians(rounds, [client.health])[0], None, "health")
        for name, (size, target) in SIZES.items():
            inputs = {"x": np.ones((1, size // 4), np.float32)}
            data = messages.to_predict("echo", inputs, ())
            here, there, sent = _medians(
                rounds,
                [
                    partial(engine.predict, "echo", inputs),
                    partial(client.predict, "echo", inputs),
                    partial(bare, data, timeout=10),
                ],
            )
            how = f"{there:.3g} beside {here:.3g}; gRPC alone takes {sent:.3g}"
            yield Figure(f"Predict {name}", "p50 ms over the embedded", there - here, most(target), how)
        for steps in (8, 200):
            given: dict[str, Any] = {
                "inputs": {"x": IMAGE},
                "method": "integrated_gradients",
                "target": 1,
                "steps": steps,
            }
            here, there = _medians(
                max(rounds // 6, 10),
                [partial(_attributed, engine, **given), partial(client.attribute, "cnn", **given)],
            )
            how = f"{there:.3g} beside {here:.3g}"
            yield Figure(f"Attribute, {steps} steps", "p50 ms over the embedded", there - here, None, how)


def _attributed(engine: Engine, inputs: dict[str, Array], **options: Any) -> Attribution:
    return engine.attribute(AttributionRequest("cnn", inputs, **options))


def milliseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def _medians(rounds: int, calls: Sequence[Callable[[], object]]) -> list[float]:
    """The median milliseconds of calls that take turns."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, found, strict=True):
            times.append(milliseconds(call))
    return [quantile(times, 0.5) for times in found]


def throughput(world: World) -> Iterator[Figure]:
    """The chunks of a large revision, from the first to the last."""
    values = np.ones((1, 4 * MIB), np.float32)
    request = messages.to_request("square", {"x": values}, method="gradient", target=0)
    with world.server() as server, grpc.insecure_channel(server.address, CHANNEL_OPTIONS) as channel:
        found = []
        for _ in range(world.count(10, 2)):
            began, size = 0.0, 0
            for event in rpc.AttributionServiceStub(channel).StreamAttribute(request, timeout=60):
                if event.HasField("chunk"):
                    size += len(event.chunk.data) if began else 0
                    began = began or time.perf_counter()
                    ended = time.perf_counter()
            found.append(size / MIB / (ended - began))
        yield Figure("stream", "MiB/s", quantile(found, 0.5), least(500), "chunks of a revision of 16 MiB")


def cancellation(world: World) -> Iterator[Figure]:
    """A call of the only computing thread is cancelled; the next one waits for it."""
    with world.server(workers=1, heartbeat_seconds=0.05) as server, Client(server.address) as client:
        client.predict("sine", {"x": ONES})
        found, clock = list[float](), world.clock(0.12)
        while len(found) < world.count(100, 5) and clock():
            with client.stream("endless", {"x": ONES}, method="deeplift_rescale", target=0) as stream:
                next(stream)
                time.sleep(0.01 + 0.05 * world.random.random())
            found.append(milliseconds(lambda: client.predict("sine", {"x": ONES}, timeout=20)))
        yield Figure(
            "cancelled",
            "p99 ms until the core is free",
            quantile(found, 0.99),
            most(500),
            f"{len(found)} of a Loop without end",
        )


def endless(world: World) -> Iterator[Figure]:
    """A Loop that never ends, under a deadline and under SIGTERM."""
    with world.server(grace_seconds=1, heartbeat_seconds=0.05) as server, Client(server.address) as client:
        began = time.monotonic()
        try:
            client.attribute("endless", {"x": ONES}, method="deeplift_rescale", target=0, timeout=1)
            answered = float("nan")
        except DeadlineExceeded:
            answered = time.monotonic() - began
        yield Figure("endless", "s until a deadline of 1 s is answered", answered, most(2))
        time.sleep(0.5)
        yield Figure("endless", "cores busy after it", server.busy(), most(0.3))
        with client.stream("endless", {"x": ONES}, method="deeplift_rescale", target=0) as stream:
            next(stream)
            time.sleep(0.2)
            server.terminate()
            yield Figure("endless", "s from SIGTERM to the end, grace 1 s", server.ended(), most(5))


def cancelled(world: World) -> Iterator[Figure]:
    """Streams that are cancelled after their first event, from several threads: what stays of them."""
    given = {"x": world.random.random() * np.ones((1, 1, 16, 16), np.float32)}
    data = messages.to_request("cnn", given, method="integrated_gradients", target=1).SerializeToString()
    refused: list[grpc.RpcError] = []

    def one(_: int) -> bool:
        """Whether it had begun when it was cancelled."""
        call = stream(data, timeout=60)
        try:
            next(call)
        except grpc.RpcError as error:  # those before may not have left their places yet
            refused.append(error)
            return False
        finally:
            call.cancel()
        return True

    with (
        world.server() as server,
        grpc.insecure_channel(server.address, CHANNEL_OPTIONS) as channel,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        stream = channel.unary_stream(STREAM)
        world.settle(server, lambda: sum(pool.map(one, range(100))))
        time.sleep(0.5)
        refused.clear()
        before, count, wanted = server.mebibytes, 0, world.count(12_000, 100)
        end = time.monotonic() + max(world.seconds, 60)
        while count < wanted and time.monotonic() < end:
            count += sum(pool.map(one, range(min(wanted - count, 100))))
        time.sleep(0.5)
        pool.submit(next, stream(data, timeout=10)).result(10)
        yield Figure("cancelled", "streams", count, least(wanted), f"{len(refused)} more were refused")
        grown = server.mebibytes - before
        yield Figure("cancelled", "MiB that stay", grown, most(1), f"{before:.0f} MiB before")
