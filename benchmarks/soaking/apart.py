"""Scenario: what it costs to run the models in a process of its own, and what its end does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from urllib.request import urlopen

import numpy as np

from benchmarks.soaking.speed import SIZES, milliseconds
from benchmarks.soaking.world import Server, World, free_port, quantile
from benchmarks.table import Figure, least, most
from onnx_attribution.client import Client

IMAGE = np.ones((1, 1, 16, 16), np.float32)
LEAST = 40  # MiB; what else multiprocessing starts is smaller
RUNS = "attribution_path_points_total"


def isolated(world: World) -> Iterator[Figure]:
    """The calls of a server with `--isolate` beside those of one without, in turn."""
    port, began = free_port(), time.monotonic()
    with world.server() as usual:
        started = time.monotonic()
        with world.server(isolate=True, http=True, http_port=port) as apart:
            seconds, beside = time.monotonic() - started, started - began
            yield Figure("--isolate", "seconds to SERVING", seconds, None, f"{beside:.3g} without")
            with Client(usual.address) as one, Client(apart.address) as other:
                yield from _costs(world, one, other)
                workers = {number: size for number, size in apart.children().items() if size > LEAST}
                how = f"{apart.mebibytes:.0f} MiB the server itself, {usual.mebibytes:.0f} one without"
                yield Figure("--isolate", "MiB of the worker", sum(workers.values()), None, how)
                rows = _value(port, RUNS)
                yield Figure("--isolate", "rows of the worker in /metrics", rows, least(1))
                yield from _end(apart, other, workers)


def _costs(world: World, one: Client, other: Client) -> Iterator[Figure]:
    """Milliseconds more for each kind of call."""
    calls: dict[str, Callable[[Client], object]] = {}
    for name, (size, _) in SIZES.items():
        values = np.ones((1, size // 4), np.float32)
        calls[f"Predict {name}"] = lambda client, values=values: client.predict("echo", {"x": values})  # type: ignore[misc]
    for steps in (8, 200):
        calls[f"Attribute, {steps} steps"] = lambda client, steps=steps: client.attribute(  # type: ignore[misc]
            "cnn", {"x": IMAGE}, method="integrated_gradients", target=1, steps=steps
        )
    for name, call in calls.items():
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(world.count(200, 10) + 3):
            for client, found in zip((one, other), times, strict=True):
                spent = milliseconds(lambda client=client: call(client))  # type: ignore[misc]  # noqa: B023
                if number >= 3:
                    found.append(spent)
        usual, apart = (quantile(found, 0.5) for found in times)
        yield Figure(
            "--isolate", f"{name}: p50 ms more", apart - usual, None, f"{apart:.3g} beside {usual:.3g}"
        )


def _end(server: Server, client: Client, workers: dict[int, float]) -> Iterator[Figure]:
    """The worker is killed: the server is not, and the next call is answered by another one."""
    for number in workers:
        os.kill(number, signal.SIGKILL)
    began = time.monotonic()
    client.predict("echo", {"x": np.ones((1, 4), np.float32)}, timeout=30)
    yield Figure("--isolate", "s from a killed worker to an answer", time.monotonic() - began, most(5))
    yield Figure("--isolate", "servers that ended with it", not server.is_alive, most(0))


def _value(port: int, name: str) -> float:
    """A number of the metrics."""
    text = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    found = (line.split()[1] for line in text.splitlines() if line.startswith(f"{name} "))
    return float(next(found, "nan"))
