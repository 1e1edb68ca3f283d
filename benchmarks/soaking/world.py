"""What a scenario has: servers in processes of their own, a seed, and a share of the time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import grpc
import numpy as np

from onnx_attribution import errors
from onnx_attribution.client import Client

MIB = 1 << 20
START_SECONDS = 60
END_SECONDS = 40
STILL, MOST_READINGS = 10, 40  # readings of memory


class Server:
    """A server in a child process. Its log is a file."""

    def __init__(
        self,
        folder: Path,
        log: Path,
        control: str,
        settings: dict[str, Any],
        port: int = 0,
        link: Mapping[str, Any] | None = None,
    ) -> None:
        self.port, self._link = port or free_port(), dict(link or {})
        self.address = f"127.0.0.1:{self.port}"
        self._log = log
        variables = {
            f"ONNX_ATTRIBUTION_{key.upper()}": str(value)
            for key, value in {
                "port": self.port,
                "provider": "cpu",
                "threads": 1,
                "max_per_caller": 0,
                "http": False,
                **settings,
            }.items()
        }
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith("ONNX_ATTRIBUTION_")
        }
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.soaking.child", control, str(folder)],
                env={**inherited, **variables}, stdout=output, stderr=output,
            )  # fmt: skip

    def wait(self) -> None:
        """Until it serves. Raises: RuntimeError with the end of its log if it does not."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.is_alive:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            time.sleep(0.01)
        while time.monotonic() < end and self.is_alive:
            try:
                with Client(self.address, **self._link) as client:
                    if client.health(timeout=1):
                        return
            except errors.AttributionError:
                time.sleep(0.05)
        raise RuntimeError(f"the server does not serve: {self._log.read_text()[-500:]}")

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    @property
    def mebibytes(self) -> float:
        """Resident memory."""
        return _mebibytes(self.process.pid)

    def children(self) -> dict[int, float]:
        """The resident memory of the processes that it has started."""
        found = {}
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it may have ended
                if int(file.read_text().rsplit(")", 1)[1].split()[1]) == self.process.pid:
                    found[int(file.parent.name)] = _mebibytes(int(file.parent.name))
        return found

    @property
    def log(self) -> str:
        """What it and those before it in the same file have logged."""
        return self._log.read_text(errors="replace")

    def busy(self, seconds: float = 0.3) -> float:
        """The share of one core that it takes for a while."""

        def spent() -> float:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        before, began = spent(), time.monotonic()
        time.sleep(seconds)
        return (spent() - before) / (time.monotonic() - began)

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ended(self, seconds: float = END_SECONDS) -> float:
        """Seconds until it has ended; infinite if it does not."""
        began = time.monotonic()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return float("inf")
        return time.monotonic() - began


@dataclass
class World:
    """What the scenarios share."""

    folder: Path
    random: Random
    seconds: float
    control: str = "none"

    @property
    def scale(self) -> float:
        """The part of the counts that the promises name which the time allows."""
        return self.seconds / 180

    def count(self, whole: int, least: int = 1) -> int:
        return max(min(whole, round(whole * self.scale)), least)

    def clock(self, share: float) -> Callable[[], bool]:
        """Whether there is time left, of this share of the whole; some seconds there are always."""
        end = time.monotonic() + max(share * self.seconds, 3.0)
        return lambda: time.monotonic() < end

    def settle(self, server: Server, again: Callable[[], object]) -> None:
        """Does something until the server's memory stands still: what is loaded and kept once is there then.

        That is ten readings in a row within 0.1 MiB; after some it is left at that, since a server that leaks never
        comes to stand.
        """
        readings: list[float] = []
        for _ in range(self.count(MOST_READINGS, 4)):
            again()
            readings = [*readings[1 - STILL :], server.mebibytes]
            if len(readings) == STILL and max(readings) - min(readings) <= 0.1:
                return

    @contextmanager
    def server(
        self, port: int = 0, *, link: Mapping[str, Any] | None = None, **settings: Any
    ) -> Iterator[Server]:
        """One that serves; killed at the end if it has not ended. `link`: how a client of it is made."""
        server = Server(self.folder, self.folder / "log", self.control, settings, port, link)
        try:
            server.wait()
            yield server
        finally:
            server.terminate()
            if server.ended(5) == float("inf"):
                server.kill()

    @contextmanager
    def echo(self) -> Iterator[str]:
        """The address of a server of gRPC's own, in a process of its own, that sends back what it gets."""
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.soaking.echo", str(port)]
        process = subprocess.Popen(command)
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(START_SECONDS)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


@contextmanager
def world(seconds: float, seed: int, control: str) -> Iterator[World]:
    """A folder with the models, gone at the end."""
    from benchmarks.soaking import networks

    with tempfile.TemporaryDirectory() as folder:
        networks.write(Path(folder))
        yield World(Path(folder), Random(seed), seconds, control)


def _mebibytes(process: int) -> float:
    pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / MIB


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Seconds until it holds; infinite if it does not within `seconds`."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if condition():
            return time.monotonic() - began
        time.sleep(0.01)
    return float("inf")


def quantile(values: Sequence[float], part: float) -> float:
    return float(np.quantile(values, part)) if len(values) else float("nan")
