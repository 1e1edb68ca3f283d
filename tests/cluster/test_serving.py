"""The server on a Ray cluster: the thin client sees what a plain server says, and loses nothing with a replica."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed: make scale installs it")
from onnx_attribution import errors
from onnx_attribution.client import Client
from onnx_attribution.client.streams import Stream
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.scale.serve_ray import serve_ray
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Completed, Revision

DIGITS = Path(__file__).parents[1] / "data" / "digits"
X = np.random.default_rng(0).random((2, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def replicas(cluster: Any) -> Iterator[str]:
    """Returns the address of two replicas."""
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve_ray(
        {"models": (str(DIGITS),), "provider": "cpu", "threads": 1, "max_streams": 4},
        port=port,
        replicas=2,
        cpus=0.5,
    )
    address = f"127.0.0.1:{port}"
    with Client(address) as client:
        end = time.monotonic() + 60
        while not _answers(client) and time.monotonic() < end:
            time.sleep(0.5)  # Ray's proxies learn a little later where calls go
    yield address
    serve.shutdown()


def _answers(client: Client) -> bool:
    try:
        return client.health()
    except errors.AttributionError:
        return False


@pytest.fixture(scope="module")
def plain() -> Iterator[Client]:
    """Returns a client of a server of the usual kind."""
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("digits", DIGITS / "digits.onnx")
        with app.background(engine, Settings(port=0)) as (address, _), Client(address) as client:
            yield client


@pytest.fixture
def client(replicas: str) -> Iterator[Client]:
    with Client(replicas) as client:
        yield client


def pids() -> list[int]:
    """The processes of the replicas, which descend from this one."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"ray::ServeReplica" in (place / "cmdline").read_bytes() and _is_ours(int(place.name)):
                found.append(int(place.name))
    return found


def _is_ours(pid: int) -> bool:
    while pid > 1 and pid != os.getpid():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == os.getpid()


def wait_for(count: int) -> None:
    end = time.monotonic() + 60
    while len(pids()) < count and time.monotonic() < end:
        time.sleep(0.5)


def test_all_kinds_of_calls_say_what_the_plain_server_says(client: Client, plain: Client) -> None:
    assert client.health()
    asked: dict[str, Any] = {"method": "neuron_ig", "layers": "*", "target": 3}
    found, right = client.attribute("digits", X, **asked), plain.attribute("digits", X, **asked)
    assert found.layers.keys() == right.layers.keys()
    for name, layer in right.layers.items():
        assert np.array_equal(found.layers[name].values, layer.values)
    assert not found.resumed
    (output,) = client.predict("digits", X).values()
    assert np.array_equal(output, next(iter(plain.predict("digits", X).values())))
    audited = list(client.audit("digits", [X, X[:1]], method="gradient", target=1))
    assert [one.error for one in audited] == [None, None]
    assert [one.name for one in client.methods()] == [one.name for one in plain.methods()]
    assert client.server().provider == "cpu"


def test_a_stream_has_the_same_revisions(client: Client, plain: Client) -> None:
    asked: dict[str, Any] = {"method": "integrated_gradients", "target": 3, "tolerance": 1e-4}

    def events(one: Client) -> list[Any]:
        with one.stream("digits", X, **asked) as stream:
            return [
                event.attribution.layers["image"].values.tobytes() if isinstance(event, Revision) else event
                for event in stream
                if isinstance(event, Revision | Completed)
            ]

    assert events(client) == events(plain)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ({"layers": "conv99"}, errors.NotFound),
        ({"target": 99}, errors.InvalidArgument),
        ({"method": "neuron_ig", "steps": 1 << 20}, errors.InvalidArgument),
    ],
)
def test_errors_have_their_kind_reason_and_words(
    client: Client, plain: Client, question: dict[str, Any], kind: type[errors.AttributionError]
) -> None:
    def failure(one: Client) -> errors.AttributionError:
        with pytest.raises(errors.AttributionError) as caught:
            one.attribute("digits", X, **{"method": "gradient", "target": 1, **question})
        return caught.value

    found, right = failure(client), failure(plain)
    assert type(found) is type(right) is kind
    assert (found.message, found.reason, found.metadata) == (right.message, right.reason, right.metadata)


def test_a_deadline_reaches_the_replica(client: Client) -> None:
    many = np.repeat(X, 32, axis=0)
    asked: dict[str, Any] = {"method": "neuron_ig", "layers": "*", "target": 3, "tolerance": 1e-12}
    with client.stream("digits", many, timeout=1.5, max_steps=16384, **asked) as stream:
        *_, last = stream
    assert isinstance(last, Completed)
    assert last.stop_reason == "deadline_near"  # said by the replica, which knew how long it had


def test_streams_that_are_closed_free_their_replicas(client: Client) -> None:
    many = np.repeat(X, 64, axis=0)
    asked: dict[str, Any] = {"method": "neuron_ig", "layers": "*", "target": 3, "tolerance": 1e-12}
    opened: list[Stream] = []

    def fill() -> None:
        for _ in range(20):  # two replicas take four each
            opened.append(client.stream("digits", many, timeout=60, max_steps=16384, **asked))
            next(opened[-1])

    with pytest.raises(errors.Overloaded):
        fill()
    for stream in opened:
        stream.close()
    end, found = time.monotonic() + 20, None
    while found is None:
        try:
            found = client.attribute("digits", X, method="gradient", target=3)
        except errors.Overloaded:
            assert time.monotonic() < end, "closed streams still hold their places"
            time.sleep(0.2)
    assert found.layers["image"].values.shape == X.shape


def test_a_caller_without_a_token_may_not_change_models(client: Client) -> None:
    with pytest.raises(errors.PermissionDenied):
        client.unload("digits")


def test_a_killed_replica_fails_no_unary_call_and_no_stream(client: Client, plain: Client) -> None:
    right = plain.attribute("digits", X, method="neuron_ig", target=3, layers="*", tolerance=1e-3)
    failures: list[BaseException] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                client.predict("digits", X)
            except BaseException as error:
                failures.append(error)

    wait_for(2)
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    os.kill(pids()[0], signal.SIGKILL)
    found = [
        client.attribute("digits", X, method="neuron_ig", target=3, layers="*", tolerance=1e-3)
        for _ in range(5)
    ]
    over.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]
    for one in found:
        for name, layer in right.layers.items():
            assert np.array_equal(one.layers[name].values, layer.values)


def test_a_stream_whose_replicas_are_killed_is_taken_up_again(client: Client, plain: Client) -> None:
    asked: dict[str, Any] = {"method": "smoothgrad", "target": 3, "draws": 16_000, "seed": 1}
    right = plain.attribute("digits", X, **asked)
    wait_for(2)

    def kill() -> None:
        for pid in pids():
            os.kill(pid, signal.SIGKILL)

    killed = threading.Timer(0.5, kill)
    killed.start()
    found = client.attribute("digits", X, timeout=120, **asked)
    killed.join()
    assert found.resumed
    assert np.array_equal(found.layers["image"].values, right.layers["image"].values)
