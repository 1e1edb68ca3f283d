"""Scenarios: what a call over the loopback costs, how fast a server starts and ends what nobody waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import grpc
import numpy as np

from benchmarks.soaking.world import MIB, World, quantile
from benchmarks.table import Figure, least, most
from onnx_attribution.client import Client, messages
from onnx_attribution.errors import AttributionError, DeadlineExceeded
from onnx_attribution.proto import attribution_pb2_grpc as rpc
from onnx_attribution.server.engine import Engine

ONES = np.ones((1, 2), np.float32)
SIZES = {"1 KiB": (1 << 10, 1.0), "64 KiB": (1 << 16, 1.5), "1 MiB": (1 << 20, 3.0)}


def start(world: World) -> Iterator[Figure]:
    """Cold start and idle memory."""
    began = time.monotonic()
    with world.server() as server:
        yield Figure("server", "seconds to SERVING", time.monotonic() - began, most(3))
        yield Figure("server", "idle MiB", server.mebibytes, most(200))


def overhead(world: World) -> Iterator[Figure]:
    """A call over the loopback beside the same call of an engine in this process, in turn."""
    with (
        world.server() as server,
        Client(server.address) as client,
        Engine(provider="cpu", threads=1) as engine,
    ):
        engine.add("echo", world.folder / "echo.onnx")
        rounds = world.count(600, 20)
        yield Figure("empty call", "p50 ms", _median(client.health, rounds), None, "health")
        for name, (size, target) in SIZES.items():
            inputs = {"x": np.ones((1, size // 4), np.float32)}
            there, here = list[float](), list[float]()
            for _ in range(rounds):
                here.append(_milliseconds(partial(engine.predict, "echo", inputs)))
                there.append(_milliseconds(partial(client.predict, "echo", inputs)))
            over = quantile(there, 0.5) - quantile(here, 0.5)
            how = f"{quantile(there, 0.5):.3g} beside {quantile(here, 0.5):.3g}"
            yield Figure(f"Predict {name}", "p50 ms over the embedded", over, most(target), how)


def _milliseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def _median(call: Callable[[], object], rounds: int) -> float:
    return quantile([_milliseconds(call) for _ in range(rounds)], 0.5)


def throughput(world: World) -> Iterator[Figure]:
    """The chunks of a large revision, from the first to the last."""
    values = np.ones((1, 4 * MIB), np.float32)
    request = messages.to_request("square", {"x": values}, method="gradient", target=0)
    with world.server() as server, grpc.insecure_channel(server.address, messages.CHANNEL_OPTIONS) as channel:
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
            found.append(_milliseconds(lambda: client.predict("sine", {"x": ONES}, timeout=20)))
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
    """Streams that are cancelled after their first event: what stays of them."""
    image = world.random.random() * np.ones((1, 1, 16, 16), np.float32)

    def one() -> None:
        with client.stream("cnn", {"x": image}, method="integrated_gradients", target=1) as stream:
            try:
                next(stream)
            except AttributionError as error:  # cancelled ones may not have left their place yet
                refused.append(error)

    refused: list[AttributionError] = []
    with world.server() as server, Client(server.address) as client:
        for _ in range(world.count(1000, 100)):
            one()
        time.sleep(0.5)
        before, count, clock = server.mebibytes, 0, world.clock(0.3)
        while count < 12_000 and clock():
            one()
            count += 1
        time.sleep(0.5)
        client.predict("cnn", {"x": image})
        how = f"{count} streams, of which {len(refused)} refused; {before:.0f} MiB before"
        yield Figure("cancelled", "MiB that stay", server.mebibytes - before, most(1), how)
