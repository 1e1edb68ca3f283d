"""Model files made to cost memory or time, or to read what they should not: refused at once, and the server goes on."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onnx_attribution.client import Client
from onnx_attribution.errors import AttributionError, ModelError, Overloaded
from onnx_attribution.server.app import background
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from tests.graph_tools.read.hostile import KINDS, graph, write

PEAK = 32.0
"""MiB that a refusal may take for a moment: parsed, a hundred thousand nodes of two bytes take most of that."""
STAYS = 1.0  # MiB; files that hold more themselves leave the heap larger or smaller by chance
SECONDS = 3.0


def resident(what: str = "VmRSS") -> float:
    """MiB of this process, now or (VmHWM) at most since `forget`."""
    text = Path("/proc/self/status").read_text()
    return int(re.findall(rf"^{what}:\s+(\d+) kB", text, re.MULTILINE)[0]) / 1024


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Engine, Path]]:
    folder = tmp_path_factory.mktemp("hostile")
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("healthy", graph("y = Relu(x)"))
        with (
            background(engine, Settings(port=0, models=(folder,))) as (address, _),
            Client(address) as client,
        ):
            client.model("healthy")
            yield client, engine, folder


def refused(served: tuple[Client, Engine, Path], file: Path) -> AttributionError:
    """What is said of a file, once it is served under a new name, and whether others are served still."""
    client, engine, _ = served
    engine.add("hostile", file)
    with pytest.raises((ModelError, Overloaded)) as caught:
        client.model("hostile", timeout=20)
    x = np.ones((1, 3), np.float32)
    assert client.predict("healthy", {"x": -x})["y"].tolist() == [[0, 0, 0]]
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_file_is_refused_before_it_costs_anything(
    served: tuple[Client, Engine, Path], kind: str
) -> None:
    folder, words = served[2], KINDS[kind][1]
    file = write(folder, kind)
    assert file.stat().st_size < 3 << 20
    forget()
    before, began = resident(), time.monotonic()
    error = refused(served, file)
    assert re.search(words, error.message), error.message
    assert str(folder) not in error.message
    assert "/etc" not in error.message.replace('"/etc/passwd"', "")
    assert len(error.message) <= 1500
    assert time.monotonic() - began < SECONDS
    assert resident("VmHWM") - before < PEAK


def test_nothing_stays_of_a_hundred_refusals(served: tuple[Client, Engine, Path]) -> None:
    files = [file for file in (write(served[2], kind) for kind in KINDS) if file.stat().st_size < 1 << 14]
    rounds = []
    for k in range(500):
        if k % 100 == 0:
            gc.collect()
            rounds.append(resident())
        refused(served, files[k % len(files)])
    grown = np.diff(rounds[1:])  # what a first time costs is behind
    assert grown.min() < STAYS, (
        grown
    )  # a leak is in every round; memory that others of this process take is not
