"""Shards on a Ray cluster: what is written is what one process writes, whatever is lost meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed: make scale installs it")
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.scale import Folder, Job, plan_shards, run_batch
from onnx_attribution.server.scale.local import Local
from onnx_attribution.server.scale.on_ray import OnRay
from onnx_attribution.values import AttributionRequest
from tests.cluster.conftest import ROOT
from tests.server.scale.places import Doubling, Rows, opened

ROWS = Rows(24)
SHARDS = plan_shards(24, 3)
JOB = Job(ROWS, AttributionRequest("", {}, "gradient"))
PLAN: dict[str, Any] = {"data": ROWS.digest()}


def files(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in sorted(folder.glob("part-*"))}


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, bytes]:
    """Returns the files that one process writes."""
    notes = tmp_path / "of-plain"
    notes.mkdir()
    folder = Folder(tmp_path / "plain", PLAN)
    run_batch(Local(partial(opened, Doubling(notes)), 1), JOB, folder, SHARDS)
    return files(folder.place)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    found = tmp_path / "notes"
    found.mkdir()
    return found


def asked(notes: Path) -> list[int]:
    """The first samples of the requests that were computed."""
    return sorted(int(one.name.split("-")[0]) for one in notes.iterdir())


def committed(folder: Path) -> list[int]:
    return [json.loads(line)["shard"] for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_actors_write_the_same_bytes(tmp_path: Path, notes: Path, cluster: Any, plain: Any) -> None:
    folder = Folder(tmp_path / "actors", PLAN)
    run_batch(OnRay(partial(opened, Doubling(notes))), JOB, folder, SHARDS)
    assert files(folder.place) == plain
    assert len({one.name.split("-")[2] for one in notes.iterdir()}) == 2  # both actors had some


def test_an_actor_that_is_killed_is_replaced(tmp_path: Path, notes: Path, cluster: Any, plain: Any) -> None:
    dies = tmp_path / "dies"
    dies.touch()
    folder = Folder(tmp_path / "killed", PLAN)
    run_batch(OnRay(partial(opened, Doubling(notes, dies, at=7))), JOB, folder, SHARDS)
    assert not dies.exists()
    assert files(folder.place) == plain
    assert sorted(committed(folder.place)) == list(range(8))


def test_errors_of_the_question_reach_the_caller_as_they_are(
    tmp_path: Path, notes: Path, cluster: Any
) -> None:
    everything = tuple(range(24))

    with pytest.raises(InvalidArgument, match="cannot be explained") as caught:
        run_batch(
            OnRay(partial(opened, Doubling(notes, poisoned=everything, words="it cannot be explained"))),
            JOB, Folder(tmp_path / "none", PLAN), SHARDS,
        )  # fmt: skip
    assert "Traceback" not in str(caught.value)


def test_a_node_that_is_lost_takes_no_shard_with_it(
    tmp_path: Path, notes: Path, cluster: Any, plain: Any
) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    folder = Folder(tmp_path / "node", PLAN)
    begun: list[int] = []

    def lose(said: dict[str, Any]) -> None:
        begun.append(said["shard"])
        if len(begun) == 2:
            cluster.remove_node(node)

    run_batch(OnRay(partial(opened, Doubling(notes, seconds=0.5)), 3), JOB, folder, SHARDS, lose)
    assert files(folder.place) == plain
    assert sorted(committed(folder.place)) == list(range(8))


DRIVER = """
import sys
from functools import partial
from pathlib import Path
from onnx_attribution.server.scale import Folder, run_batch
from onnx_attribution.server.scale.on_ray import OnRay
from tests.cluster.test_batch import JOB, PLAN, SHARDS
from tests.server.scale.places import Doubling, opened
out, notes, address = sys.argv[1:]
executor = OnRay(partial(opened, Doubling(Path(notes), seconds=1)), address=address)
run_batch(executor, JOB, Folder(Path(out), PLAN), SHARDS)
"""


def test_a_driver_that_is_killed_goes_on_when_it_is_started_again(
    tmp_path: Path, notes: Path, cluster: Any, plain: Any
) -> None:
    out = tmp_path / "driven"
    command = [sys.executable, "-c", DRIVER, str(out), str(notes), cluster.address]
    first = subprocess.Popen(command, cwd=ROOT, env=os.environ)
    end = time.monotonic() + 60
    while not (out / "manifest.jsonl").is_file() and time.monotonic() < end:
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(2)  # its actors end, and may commit what they had begun
    done = committed(out)
    assert 0 < len(done) < 8
    for one in notes.iterdir():
        one.unlink()
    subprocess.run(command, cwd=ROOT, env=os.environ, check=True, timeout=60)
    assert files(out) == plain
    assert sorted(committed(out)) == list(range(8))
    assert not {3 * shard for shard in done} & set(asked(notes))
