"""One client of two servers, as of a name that resolves to several pods: both are asked, and one may be lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from onnx_attribution.client import Client
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine, W, X

ROOT = Path(__file__).parents[2]
SERVER = """
import time
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine
with app.background(FakeEngine(), Settings(port=0, http=False)) as (address, _):
    print(address, flush=True)
    time.sleep(60)
"""


@contextmanager
def process() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a server in a process of its own, and the process."""
    with subprocess.Popen([sys.executable, "-c", SERVER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        try:
            yield one.stdout.readline().strip(), one
        finally:
            one.kill()


def test_calls_go_round_both_and_none_fails_when_one_is_killed() -> None:
    here = FakeEngine()
    with (
        process() as (there, lost),
        app.background(here, Settings(port=0, http=False)) as (address, _),
        Client(f"ipv4:{address},{there}") as client,
    ):

        def ask(calls: int) -> int:
            """How many of them arrive here."""
            before = len(here.methods_asked)
            for _ in range(calls):
                found = client.attribute("linear", X, target=1)
                np.testing.assert_array_equal(found.layers["x"].values, X * W[:, 1])
            return len(here.methods_asked) - before

        ask(4)  # until both are connected to
        assert 8 <= ask(20) <= 12
        lost.kill()
        assert ask(20) >= 18  # what was lost on its way is asked again
        assert ask(5) == 5
