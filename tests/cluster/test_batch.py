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
from onnx_attribution.errors import NotReady
from onnx_attribution.server.scale import Folder, Job, plan_shards, run_batch
from onnx_attribution.server.scale.local import Local
from onnx_attribution.server.scale.on_ray import OnRay
from onnx_attribution.values import AttributionRequest
from tests.cluster.conftest import ROOT
from tests.server.scale.places import Doubling, OnGpu, Rows, Unpickled, files, lines, opened

ROWS = Rows(24)
SHARDS = plan_shards(24, 3)
JOB = Job(ROWS, AttributionRequest("", {}, "gradient"))
PLAN: dict[str, Any] = {"data": ROWS.digest()}


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
    return [json.loads(line)["shard"] for line in Folder(folder, PLAN).manifest.read_text().splitlines()]


def test_actors_write_the_same_bytes(tmp_path: Path, notes: Path, cluster: Any, plain: Any) -> None:
    folder = Folder(tmp_path / "actors", PLAN)
    run_batch(OnRay(partial(opened, Doubling(notes, processes=2))), JOB, folder, SHARDS)
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


def test_what_an_actor_raises_reaches_the_caller_as_it_is(tmp_path: Path, notes: Path, cluster: Any) -> None:
    with pytest.raises(NotReady, match="the server is away") as caught:
        run_batch(
            OnRay(partial(opened, Doubling(notes, gone=True))), JOB, Folder(tmp_path / "none", PLAN), SHARDS
        )
    assert caught.value.message == "the server is away"  # no traceback, no address


def test_actors_that_cannot_begin_end_the_batch_at_once(tmp_path: Path, notes: Path, cluster: Any) -> None:
    begun = time.monotonic()
    with pytest.raises(NotReady, match=r"an actor cannot begin: .*nothing of that name here") as caught:
        run_batch(OnRay(Unpickled()), JOB, Folder(tmp_path / "none", PLAN), SHARDS)
    assert "Traceback" not in caught.value.message
    assert "\n" not in caught.value.message
    assert time.monotonic() - begun < 20


def test_a_sample_that_cannot_be_explained_has_the_same_line_as_of_one_process(
    tmp_path: Path, notes: Path, cluster: Any
) -> None:
    place = partial(opened, Doubling(notes, poisoned=(4,)))
    local, actors = Folder(tmp_path / "local", PLAN), Folder(tmp_path / "actors", PLAN)
    run_batch(Local(place, 1), JOB, local, SHARDS)
    run_batch(OnRay(place), JOB, actors, SHARDS)
    assert files(actors.place) == files(local.place)
    found = lines(actors.place)
    assert [line["row"] for line in found if line["error"] is not None] == [4]
    assert found[4]["error"] == "INVALID_ARGUMENT PARAMETER_INVALID: 4 cannot be explained"


def test_two_actors_share_the_only_gpu(tmp_path: Path, notes: Path, cluster: Any, plain: Any) -> None:
    folder = Folder(tmp_path / "shared", PLAN)
    place = partial(opened, OnGpu(notes, seconds=0.3))
    run_batch(OnRay(place, cpus=0.5, gpus=0.5), JOB, folder, SHARDS)
    assert files(folder.place) == plain
    assert [one.name.split("-")[1] for one in tmp_path.glob("gpu-*")] == ["0", "0"]


def test_actors_that_have_no_room_hold_no_shard(
    tmp_path: Path, notes: Path, cluster: Any, plain: Any
) -> None:
    folder = Folder(tmp_path / "room", PLAN)
    run_batch(OnRay(partial(opened, Doubling(notes)), 3, cpus=1, gpus=0.5), JOB, folder, SHARDS)
    assert files(folder.place) == plain  # the node of the GPU has one CPU


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
    while not (out / "_batch" / "manifest.jsonl").is_file() and time.monotonic() < end:
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
