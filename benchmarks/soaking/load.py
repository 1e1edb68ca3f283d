"""Scenarios: more calls than there is room for, and servers that end, restart and change their models under them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2

from benchmarks.soaking.attacks import ATTRIBUTE, PREDICT
from benchmarks.soaking.child import SENT, TIMES
from benchmarks.soaking.world import MIB, World, free_port, quantile
from benchmarks.table import Figure, least, most
from onnx_attribution.client import Client, messages
from onnx_attribution.client.channel import CHANNEL_OPTIONS
from onnx_attribution.errors import AttributionError, NotFound, NotReady
from onnx_attribution.proto import attribution_pb2_grpc as rpc

ONES = np.ones((1, 2), np.float32)
IMAGE = np.ones((1, 1, 16, 16), np.float32)
QUEUE = 8


def overload(world: World) -> Iterator[Figure]:
    """Ten times as many calls at once as the queue holds, over connections that stand."""
    request = messages.to_request(
        "cnn", {"x": IMAGE}, method="integrated_gradients", target=1, steps=200
    ).SerializeToString()
    with world.server(max_unary=QUEUE) as server:
        channels = [
            grpc.insecure_channel(
                server.address, (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
            )
            for _ in range(4)
        ]
        for channel in channels:
            grpc.channel_ready_future(channel).result(10)
        calls = [channel.unary_unary(ATTRIBUTE) for channel in channels]
        alone = list[float]()
        for _ in range(10):
            began = time.monotonic()
            calls[0](request, timeout=60)
            alone.append(time.monotonic() - began)
        codes, slow, advised, accepted = Counter[str](), list[float](), 0, list[float]()
        logged = len(server.log)
        for burst in range(world.count(10, 2)):
            used = calls[:1] if burst % 2 else calls
            for seconds, error in _at_once(used, request, 10 * QUEUE):
                codes[error.code().name if error else "OK"] += 1
                if error is None:
                    accepted.append(seconds)
                elif error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                    slow.append(seconds * 1000)
                    advised += _has_retry_info(error)
        for channel in channels:
            channel.close()
        unlike = sum(codes.values()) - codes["OK"] - codes["RESOURCE_EXHAUSTED"]
        yield Figure("overload", "neither answered nor refused", unlike, most(0), str(dict(codes)))
        yield Figure(
            "overload",
            "slowest refusal ms",
            max(slow, default=float("nan")),
            most(50),
            f"as the caller sees it, who shares the cores; p50 {quantile(slow, 0.5):.3g}",
        )
        way, there = _refused_after(server.log[logged:])
        how = "from the caller's sending to the handler"
        yield Figure("overload", "of that at most on the way ms", max(way, default=0), None, how)
        yield Figure(
            "overload",
            "slowest refusal of the handler ms",
            max(there, default=0),
            most(50),
            "by the server's clock",
        )
        yield Figure("overload", "refusals without RetryInfo", len(slow) - advised, most(0))
        bound = 2 * quantile(alone, 0.5) * QUEUE
        yield Figure(
            "overload",
            "p99 s of what is accepted",
            quantile(accepted, 0.99),
            most(round(bound, 2)),
            "twice the queue's time",
        )
        with Client(server.address) as client:
            client.predict("sine", {"x": ONES}, timeout=10)


def connections(world: World) -> Iterator[Figure]:
    """As many new connections at once, each with a call."""
    request, failed, count = messages.to_predict("sine", {"x": ONES}, ()), Counter[str](), 300

    def one(_: int) -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        with grpc.insecure_channel(server.address, options) as channel:
            try:
                channel.unary_unary(PREDICT)(request, timeout=30)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    failed[f"{error.code().name}: {error.details()}"[:100]] += 1

    with world.server(max_unary=QUEUE) as server, ThreadPoolExecutor(count) as pool:
        list(pool.map(one, range(count)))
        yield Figure("300 connections", "failed", sum(failed.values()), most(0), str(dict(failed)))


def _at_once(calls: list[Any], request: bytes, count: int) -> list[tuple[float, grpc.RpcError | None]]:
    """Seconds and error of calls that begin together; each ends within its deadline."""
    found, over = list[tuple[float, grpc.RpcError | None]](), threading.Semaphore(0)

    def done(began: float) -> Callable[[grpc.Future], None]:
        def note(call: grpc.Future) -> None:
            found.append((time.monotonic() - began, call.exception()))
            over.release()

        return note

    for number in range(count):
        began = time.monotonic()
        metadata = ((SENT, str(time.monotonic_ns())),)
        call = calls[number % len(calls)].future(request, timeout=60, metadata=metadata)
        call.add_done_callback(done(began))
    for _ in range(count):
        over.acquire(timeout=70)
    return found


def _refused_after(log: str) -> tuple[list[float], list[float]]:
    """Of each refusal, as the server tells it: milliseconds until its handler began, and from then until its answer."""
    lines = [line.split()[-2:] for line in log.splitlines() if line.startswith(TIMES)]
    return [float(way) for way, _ in lines], [float(there) for _, there in lines]


def _has_retry_info(error: grpc.RpcError) -> bool:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            details = status_pb2.Status.FromString(value).details
            return any(one.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for one in details)
    return False


def drain(world: World) -> Iterator[Figure]:
    """SIGTERM while calls run: they are answered, and streams end with what they have."""
    with world.server(heartbeat_seconds=0.1) as server:
        with Client(server.address) as client, ThreadPoolExecutor(16) as pool:
            client.attribute("cnn", IMAGE, method="integrated_gradients", target=1)

            def unary(_: int) -> str:
                client.attribute("cnn", IMAGE, method="integrated_gradients", target=1, steps=3000)
                return "OK"

            def stream(_: int) -> str:
                options = {"method": "integrated_gradients", "target": 1, "tolerance": 1e-12}
                client.attribute("cnn", IMAGE, **options)  # type: ignore[arg-type]
                return "OK"

            running = [pool.submit(unary, one) for one in range(8)] + [
                pool.submit(stream, one) for one in range(8)
            ]
            time.sleep(0.3)
            open_calls = sum(not one.done() for one in running)
            server.terminate()
            failed = Counter(str(one.exception())[:80] for one in running if one.exception(60))
        yield Figure(
            "drain",
            "failed of those that ran",
            sum(failed.values()),
            most(0),
            f"{open_calls} ran; {dict(failed) or ''}",
        )
        yield Figure("drain", "s until the end", server.ended(), most(35))


def loading(world: World) -> Iterator[Figure]:
    """A model is loaded and unloaded from eight threads while it is asked."""
    unlike = Counter[str]()

    def one(number: int) -> None:
        try:
            if number % 3 == 0:
                client.load("sine", timeout=60)
            elif number % 3 == 1:
                client.unload("sine", timeout=60)
            else:
                client.predict("sine", {"x": ONES}, timeout=60)
        except (NotFound, NotReady):
            pass
        except AttributionError as error:
            unlike[f"{type(error).__name__}: {error}"[:100]] += 1

    with world.server() as server, Client(server.address) as client, ThreadPoolExecutor(8) as pool:
        count = world.count(200, 40)
        list(pool.map(one, range(count * 3)))
        client.load("sine")
        right = np.allclose(client.predict("sine", {"x": ONES})["y"], np.sin(ONES), atol=1e-6)
        yield Figure(
            "load, unload, Predict",
            "unexpected errors",
            sum(unlike.values()),
            most(0),
            f"{count} each; {dict(unlike) or ''}",
        )
        yield Figure("load, unload, Predict", "right afterwards", right, least(1))


def together(world: World) -> Iterator[Figure]:
    """Two models at once: each answers as it does alone."""
    options = {"method": "integrated_gradients", "steps": 32, "target": 1}
    given = {"cnn": IMAGE, "sine": ONES}
    with world.server() as server, Client(server.address) as client, ThreadPoolExecutor(4) as pool:

        def values(model: str) -> np.ndarray:
            result = client.attribute(model, given[model], timeout=60, **options)  # type: ignore[arg-type]
            return next(iter(result.layers.values())).values

        alone = {model: values(model) for model in given}
        models = [world.random.choice(list(given)) for _ in range(world.count(300, 20))]
        apart = [
            float(np.abs(found - alone[model]).max())
            for model, found in zip(models, pool.map(values, models), strict=True)
        ]
        yield Figure(
            "two models at once",
            "largest difference from alone",
            max(apart),
            most(1e-6),
            f"{len(models)} calls of 4 threads",
        )


def slow_reader(world: World) -> Iterator[Figure]:
    """A stream of revisions of 16 MiB that is not read."""
    values = np.ones((1, 4 * MIB), np.float32)
    request = messages.to_request(
        "square", {"x": values}, method="integrated_gradients", target=0, tolerance=1e-12
    )
    with world.server() as server, grpc.insecure_channel(server.address, CHANNEL_OPTIONS) as channel:
        call = rpc.AttributionServiceStub(channel).StreamAttribute(request, timeout=120)
        for event in call:
            if event.HasField("chunk"):
                break
        time.sleep(1)
        before, most_used = server.mebibytes, 0.0
        for _ in range(max(int(world.seconds / 4), 4)):
            time.sleep(0.1)
            most_used = max(most_used, server.mebibytes)
        yield Figure(
            "slow reader",
            "MiB more while nothing is read",
            most_used - before,
            most(16),
            f"{before:.0f} MiB with the first revision",
        )
        yield Figure("slow reader", "cores busy", server.busy(), most(0.2))
        call.cancel()


def restart(world: World) -> Iterator[Figure]:
    """The server is killed and started again under a client that tries again, and under an audit."""
    port, over = free_port(), threading.Event()
    errors = Counter[str]()
    answers = 0

    def ask() -> None:
        nonlocal answers
        with Client(f"127.0.0.1:{port}") as client:
            while not over.is_set():
                try:
                    client.predict("sine", {"x": ONES}, timeout=10)
                    answers += 1
                except NotReady:
                    time.sleep(0.05)
                except AttributionError as error:
                    errors[f"{type(error).__name__}: {error}"[:100]] += 1
                    time.sleep(0.05)

    def audit() -> list[int]:
        rng = np.random.default_rng(0)
        items = ({"x": rng.random((1, 1, 16, 16), np.float32)} for _ in range(count))
        with Client(f"127.0.0.1:{port}") as client:
            found = []
            for one in client.audit("cnn", items, method="integrated_gradients", target=1, steps=500):
                found.append(one.sequence)
                audited.release()
            return found

    count, audited = world.count(120, 30), threading.Semaphore(0)
    with world.server(port) as first, ThreadPoolExecutor(2) as pool:
        try:
            asking, auditing = pool.submit(ask), pool.submit(audit)
            for _ in range(count // 4):
                audited.acquire(timeout=30)
            first.kill()
            before = answers
            with world.server(port):
                found = auditing.result(120)
                time.sleep(0.5)
                over.set()
                asking.result(30)
        finally:
            over.set()
        after = answers - before
    yield Figure(
        "killed, restarted",
        "errors other than NotReady",
        sum(errors.values()),
        most(0),
        str(dict(errors) or ""),
    )
    yield Figure("killed, restarted", "answers after it", after, least(1))
    lost = len(set(range(count)) ^ set(found)) + len(found) - len(set(found))
    yield Figure(
        "killed, restarted", "items of an audit lost or twice", lost, most(0), f"{len(found)} of {count}"
    )
