"""SIGTERM of `serve`: what runs is answered or ended, whatever the server does; a second one ends it at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from onnx_attribution.client import Client
from onnx_attribution.errors import AttributionError, NotReady
from tests.server.operate.ports import until

ROOT = Path(__file__).parents[3]
X = np.ones((1, 2), np.float32)
NET = """<ir_version: 8, opset_import: ["" : 17]> net (float[N,2] x) => (float[N,2] y) {
    whole = ReduceMax<keepdims = 0>(x)
    stuck = Constant<value = float {STUCK}>()
    is_stuck = Equal(whole, stuck)
    few = Constant<value = int64 {2}>()
    many = Constant<value = int64 {9223372036854775807}>()
    trip = Where(is_stuck, many, few)
    on = Constant<value = bool {1}>()
    y = Loop(trip, on, x) <body = b (int64 i, bool c, float[N,2] a) => (bool d, float[N,2] e) {
        d = Identity(c)
        e = Sin(a)
    }>
}"""


class Process:
    """`serve` in a process of its own, of a network that never ends where the largest number is `stuck`."""

    def __init__(self, folder: Path, *options: str, stuck: float = 7.25) -> None:
        onnx.save(onnx.parser.parse_model(NET.replace("STUCK", str(stuck))), folder / "net.onnx")
        serve = ["serve", str(folder), "--port", "0", "--provider", "cpu", "--json", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "onnx_attribution.server.cli", *serve],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )
        self.address, self.http = "", ""
        self.failure: AttributionError | None = None

    def started(self) -> Process:
        """Once it says where it listens."""
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        self.address, self.http = str(told["address"]), str(told["http"])
        return self

    def ready(self) -> int:
        """The status of /readyz."""
        try:
            with urllib.request.urlopen(f"{self.http}/readyz", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def ask_without_end(self) -> threading.Thread:
        """A request whose run never ends, on a thread; returns once it runs."""

        def ask() -> None:
            try:
                with Client(self.address) as client:
                    client.attribute("net", {"x": X}, target=0, baselines={"x": 7.25 * X}, timeout=20)
            except AttributionError as error:
                self.failure = error

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()

        def is_running() -> bool:
            with urllib.request.urlopen(f"{self.http}/metrics", timeout=5) as answer:
                return b"attribution_inflight 1.0" in answer.read()

        until(is_running)
        return thread


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    found: list[Process] = []
    yield found
    for one in found:
        one.process.kill()
        one.process.communicate()


def test_a_server_that_ends_is_unready_answers_for_a_while_and_ends_what_does_not_end(
    processes: list[Process], tmp_path: Path
) -> None:
    server = Process(tmp_path, "--lame-duck-seconds", "0.7", "--grace-seconds", "0.5")
    processes.append(server)
    thread = server.started().ask_without_end()
    assert server.ready() == 200
    with Client(server.address) as client:
        assert client.predict("net", {"x": X})
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.ready() == 503)
        assert client.predict("net", {"x": X})
        assert server.process.wait(15) == 0
    assert 1.2 <= time.monotonic() - begun < 10
    thread.join(5)
    assert isinstance(server.failure, NotReady)


def test_a_second_signal_ends_a_server_at_once(processes: list[Process], tmp_path: Path) -> None:
    server = Process(tmp_path)
    processes.append(server)
    thread = server.started().ask_without_end()
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.ready() == 503)
    begun = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(5) == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 2
    thread.join(5)
    assert server.failure is not None


def test_a_server_that_is_still_loading_ends_at_the_first_signal(
    processes: list[Process], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Process(tmp_path, "--preload", "*", "--http-port", str(port), stuck=0)  # where it is tried
    processes.append(server)
    server.http = f"http://127.0.0.1:{port}"

    def is_loading() -> bool:
        try:
            return server.ready() == 503
        except urllib.error.URLError:
            return False

    until(is_loading, 30)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 0
