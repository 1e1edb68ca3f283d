"""What runs for a request that nobody waits for any more is ended, however long it would take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx.parser import parse_model

from onnx_attribution import errors
from onnx_attribution.client import Client
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.interrupt import Interrupt, current, for_all
from onnx_attribution.server.engine.models.cache import Cache
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import AttributionRequest

X = np.ones((1, 2), np.float32)
ENDLESS = parse_model(
    """
    <ir_version: 8, opset_import: ["" : 17]> net (float[N,2] x) => (float[N,2] y) {
        whole = ReduceMax<keepdims = 0>(x)
        zero = Constant<value = float {0}>()
        at_baseline = Equal(whole, zero)
        few = Constant<value = int64 {2}>()
        many = Constant<value = int64 {9223372036854775807}>()
        trip = Where(at_baseline, many, few)
        on = Constant<value = bool {1}>()
        y = Loop(trip, on, x) <body = b (int64 i, bool c, float[N,2] a) => (bool d, float[N,2] e) {
            d = Identity(c)
            e = Sin(a)
        }>
    }
    """
)
"""A network that ends quickly at x and never at a baseline of zeros."""


NEVER_LOADED = parse_model(
    """
    <ir_version: 8, opset_import: ["" : 17]> net (float[N,2] x) => (float[N,2] y) {
        many = Constant<value = int64 {9223372036854775807}>()
        on = Constant<value = bool {1}>()
        y = Loop(many, on, x) <body = b (int64 i, bool c, float[N,2] a) => (bool d, float[N,2] e) {
            d = Identity(c)
            e = Sin(a)
        }>
    }
    """
)
"""Loading it runs it once."""
QUICK = parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> net (float[N,2] x) => (float[N,2] y) { y = Sin(x) }'
)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu") as engine:
        engine.add("endless", ENDLESS)
        engine.add("quick", QUICK)
        yield engine


def wait_until(done: Callable[[], bool]) -> None:
    for _ in range(2000):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def busy() -> float:
    """The least share of one core that this process takes in several whiles: an endless loop takes one in each."""
    shares = []
    for _ in range(6):
        spent, began = time.process_time(), time.monotonic()
        time.sleep(0.1)
        shares.append((time.process_time() - spent) / (time.monotonic() - began))
    return min(shares)


def test_the_deadline_ends_a_loop_that_never_would(engine: Engine) -> None:
    with (
        app.background(engine, Settings(port=0, heartbeat_seconds=0.2)) as (address, _),
        Client(address) as client,
    ):
        began = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            client.attribute("endless", {"x": X}, method="deeplift_rescale", target=0, timeout=1)
        assert time.monotonic() - began < 3
        assert busy() < 0.5
        client.predict("quick", {"x": X})


def test_a_client_that_goes_ends_what_runs_for_it(engine: Engine) -> None:
    with (
        app.background(engine, Settings(port=0, heartbeat_seconds=0.2)) as (address, _),
        Client(address) as client,
    ):
        with client.stream("endless", {"x": X}, method="deeplift_rescale", target=0) as stream:
            next(stream)
            time.sleep(0.3)
        time.sleep(0.3)
        assert busy() < 0.5


def test_a_server_ends_while_a_loop_runs_that_never_would(engine: Engine) -> None:
    with (
        app.background(engine, Settings(port=0, heartbeat_seconds=0.2, grace_seconds=0.2)) as (address, _),
        Client(address) as client,
    ):
        stream = client.stream("endless", {"x": X}, method="deeplift_rescale", target=0)
        next(stream)
        time.sleep(0.2)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert busy() < 0.5


def test_who_waits_for_another_to_load_a_model_is_ended_by_the_own_deadline(engine: Engine) -> None:
    engine.add("loading", NEVER_LOADED)
    with (
        app.background(engine, Settings(port=0, workers=2, heartbeat_seconds=0.1)) as (address, _),
        Client(address) as client,
        client.stream("loading", {"x": X}, method="gradient", target=0) as first,
    ):
        wait_until(lambda: engine._models._entries["loading"][1].lock.locked())
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(errors.DeadlineExceeded):
                client.attribute("loading", {"x": X}, target=0, timeout=0.7)
            with client.stream("loading", {"x": X}, method="gradient", target=0):
                time.sleep(0.2)
            client.predict("quick", {"x": X}, timeout=5)  # the thread is there again
        assert time.monotonic() - began < 8
        first.close()
        client.predict("quick", {"x": X}, timeout=5)
    assert busy() < 0.5


def test_who_waits_for_what_another_builds_is_ended_alone() -> None:
    cache, interrupt, built = Cache(2), Interrupt(), threading.Event()

    def ask() -> object:
        with interrupt.here():
            return cache.get("key", lambda: 2)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, "key", lambda: built.wait(10) and 1)
        time.sleep(0.1)
        second = pool.submit(ask)
        time.sleep(0.1)
        assert not second.done()
        interrupt.fire(errors.Cancelled("nobody waits"))
        with pytest.raises(errors.Cancelled, match="nobody waits"):
            second.result(5)
        built.set()
        assert first.result(5) == 1
    assert cache.get("key", lambda: 3) == 1


def test_an_interrupt_ends_calls_of_its_own_thread_only(engine: Engine) -> None:
    interrupt = Interrupt()
    request = AttributionRequest("endless", {"x": X}, "deeplift_rescale", target=0)

    def ask() -> None:
        with interrupt.here():
            engine.attribute(request)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask)
        time.sleep(0.5)
        engine.predict("quick", {"x": X})
        assert not running.done()
        interrupt.fire(errors.Cancelled("nobody waits"))
        with pytest.raises(errors.Cancelled, match="nobody waits"):
            running.result(5)


def test_who_shares_a_run_does_not_end_it_for_others() -> None:
    one, other, ended = Interrupt(), Interrupt(), threading.Event()
    with for_all([one, other]):
        joint = current()
        assert joint is not None
        with joint.watching(ended.set):
            one.fire(errors.Cancelled("gone"))
            assert not ended.is_set()
            other.fire(errors.Cancelled("gone, too"))
            assert ended.is_set()
