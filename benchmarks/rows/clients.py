"""Many clients at once, and what gRPC adds: requests through `Client` over loopback, or to the engine of this process.
The throughput of 8 threads is compared with the same requests one after the other; the server has its defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import numpy as np

from benchmarks.bench import FIXED, NO_DATA, Bench
from benchmarks.table import Figure, least, most
from onnx_attribution.client import Client
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Array, AttributionRequest

TITLE = "Clients"
MODEL, STEPS, CLIENTS, EACH = "mnist-cnn-pytorch", 32, 8, 4
METHOD = "integrated_gradients"
Ask = Callable[[int], object]


def figures(bench: Bench) -> Iterator[Figure]:
    name = f"{MODEL}, {STEPS} steps"
    what = f"{CLIENTS} clients / one at a time, {{}}"
    file = bench.models / MODEL / "model.onnx" if bench.models else None
    if file is None or not file.exists():
        yield Figure(name, what.format("gRPC"), None, least(3), NO_DATA)
    else:
        with Engine(provider="cpu", threads=bench.threads) as engine:
            engine.add("model", file)
            found = np.load(file.parent / "examples_mnist.npz")["x"].astype(np.float32)
            x = ((found / 255 - 0.1307) / 0.3081).astype(np.float32)
            (source,) = (info.name for info in engine.info("model").inputs)
            embedded = [partial(_embedded, engine, source, x)] * CLIENTS
            yield _throughput(bench, name, what.format("embedded"), embedded)
            with app.background(engine, Settings(port=0)) as (address, _), ExitStack() as stack:
                remote = [
                    partial(_remote, stack.enter_context(Client(address)), source, x) for _ in range(CLIENTS)
                ]
                yield _throughput(bench, name, what.format("gRPC"), remote)
    yield _wire(bench)


def _row(x: Array, k: int) -> Array:
    found: Array = x[k % len(x)][None]
    return found


def _embedded(engine: Engine, source: str, x: Array, k: int) -> object:
    inputs = {source: _row(x, k)}
    return engine.attribute(AttributionRequest("model", inputs, METHOD, steps=STEPS, **FIXED))


def _remote(client: Client, source: str, x: Array, k: int) -> object:
    return client.attribute("model", {source: _row(x, k)}, method=METHOD, steps=STEPS, **FIXED)


def _throughput(bench: Bench, name: str, what: str, clients: Sequence[Ask]) -> Figure:
    """The same requests by one client, and by all of them on threads."""
    with ThreadPoolExecutor(CLIENTS) as pool:

        def work(client: int) -> None:
            for k in range(EACH):
                clients[client](client * EACH + k)

        times = bench.alternating(
            {
                "one at a time": lambda: [clients[0](k) for k in range(CLIENTS * EACH)],
                f"{CLIENTS} clients": lambda: list(pool.map(work, range(CLIENTS))),
            },
            rounds=7,
        )
    how = f"{CLIENTS * EACH} requests: {times.words()}"
    return Figure(name, what, times.ratio("one at a time", f"{CLIENTS} clients"), least(3), how)


def _wire(bench: Bench) -> Figure:
    """A request for a gradient over loopback beside the same embedded."""
    ready = bench.network("resnet50")
    inputs = ready.inputs()
    with Engine(provider="cpu", threads=bench.threads) as engine:
        engine.add("model", ready.file)
        request = AttributionRequest("model", inputs, "gradient", target=1)
        with app.background(engine, Settings(port=0)) as (address, _), Client(address) as client:
            times = bench.alternating(
                {
                    "embedded": lambda: engine.attribute(request),
                    "gRPC": lambda: client.attribute("model", inputs, method="gradient", target=1),
                },
                rounds=9,
            )
    name = f"{ready.name} ({ready.size.batch})"
    return Figure(
        name, "gradient: gRPC / embedded", times.ratio("gRPC", "embedded"), most(1.05), times.words()
    )
