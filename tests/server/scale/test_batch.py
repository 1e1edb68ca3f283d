"""A data set in shards: whoever computes them, and whatever dies meanwhile, the files are the same."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_attribution.client.audit.data import Item
from onnx_attribution.errors import InvalidArgument, NotReady
from onnx_attribution.server.scale import Folder, plan_shards, run_batch
from onnx_attribution.server.scale.local import Local
from onnx_attribution.server.scale.on_ray import check_reachable
from onnx_attribution.server.scale.shards import Sample, Unread
from onnx_attribution.values import ModelInfo
from tests.server.scale.places import (
    JOB,
    PLAN,
    SHARDS,
    Doubling,
    Rows,
    files,
    lines,
    opened,
    runs,
)

parquet = pytest.importorskip("pyarrow.parquet")


def test_every_sample_is_in_one_shard() -> None:
    rows = [k for shard in SHARDS for k in range(10)[shard.rows]]
    assert rows == list(range(10))
    assert [shard.count for shard in SHARDS] == [3, 3, 3, 1]


@pytest.mark.parametrize("size", [0, 257])
def test_a_shard_that_no_request_has_room_for_is_refused(size: int) -> None:
    with pytest.raises(InvalidArgument, match="1 to 256"):
        plan_shards(10, size)


def test_a_line_says_what_the_answer_says_of_its_sample(plain: Path) -> None:
    found = lines(plain)
    assert [line["row"] for line in found] == list(range(10))
    assert [line["values"] for line in found] == [[2.0 * k, 2.0] for k in range(10)]
    assert found[4]["id"] == "s4"
    assert found[4]["label"] == "1"
    assert found[4]["sum"] == 10.0
    assert found[4]["shape"] == [2]
    assert {line["error"] for line in found} == {None}


def test_processes_write_the_same_bytes_even_where_one_is_killed(
    tmp_path: Path, notes: Path, plain: Path
) -> None:
    dies = tmp_path / "dies"
    dies.touch()
    folder = Folder(tmp_path / "killed", PLAN)
    said = run_batch(Local(partial(opened, Doubling(notes, dies, at=4)), 2), JOB, folder, SHARDS)
    assert not dies.exists()
    assert files(folder.place) == files(plain)
    assert [one["shard"] for one in said] == [0, 1, 2, 3]


def test_a_batch_that_is_started_again_does_what_is_left(tmp_path: Path, notes: Path, plain: Path) -> None:
    folder = Folder(tmp_path / "again", PLAN)
    run_batch(Local(partial(opened, Doubling(notes)), 1), JOB, folder, SHARDS[:2])
    for one in notes.iterdir():
        one.unlink()
    told: list[int] = []
    run_batch(
        Local(partial(opened, Doubling(notes)), 1),
        JOB,
        folder,
        SHARDS,
        lambda said: told.append(said["shard"]),
    )
    assert runs(notes) == [(6, 3), (9, 1)]
    assert told == [0, 1, 2, 3]
    assert files(folder.place) == files(plain)


def test_a_sample_that_cannot_be_explained_has_a_line_with_its_error(
    tmp_path: Path, notes: Path, plain: Path
) -> None:
    folder = Folder(tmp_path / "poisoned", PLAN)
    said = run_batch(Local(partial(opened, Doubling(notes, poisoned=(4,))), 1), JOB, folder, SHARDS)
    found, right = lines(folder.place), lines(plain)
    assert found[4]["error"] == "INVALID_ARGUMENT PARAMETER_INVALID: 4 cannot be explained"
    assert found[4]["values"] is None
    values = [line["values"] for line in found]
    assert values[:4] + values[5:] == [line["values"] for line in right if line["row"] != 4]
    assert [one["errors"] for one in said] == [0, 1, 0, 0]


def test_samples_that_do_not_join_are_asked_about_one_by_one(tmp_path: Path, notes: Path) -> None:
    class Ragged(Rows):
        def read(self, info: ModelInfo, rows: slice) -> Sequence[Sample]:
            found = [one for one in super().read(info, rows) if isinstance(one, Item)]
            return [replace(one, inputs={"x": np.ones((1, 2 + int(one.id[1:]) % 2))}) for one in found]

    folder = Folder(tmp_path / "ragged", PLAN)
    run_batch(Local(partial(opened, Doubling(notes)), 1), replace(JOB, source=Ragged(10)), folder, SHARDS)
    assert [line["shape"] for line in lines(folder.place)] == [[2 + k % 2] for k in range(10)]


def test_a_sample_that_cannot_be_read_has_a_line_with_its_error(
    tmp_path: Path, notes: Path, plain: Path
) -> None:
    class Torn(Rows):
        def read(self, info: ModelInfo, rows: slice) -> Sequence[Sample]:
            found = super().read(info, rows)
            unread = Unread("torn", 1, InvalidArgument("no value"))
            return [unread if one.id == "s4" else one for one in found]

    folder = Folder(tmp_path / "torn", PLAN)
    run_batch(Local(partial(opened, Doubling(notes)), 1), replace(JOB, source=Torn(10)), folder, SHARDS)
    found = lines(folder.place)
    assert (found[4]["id"], found[4]["error"]) == ("torn", "INVALID_ARGUMENT PARAMETER_INVALID: no value")
    others = [(line["id"], line["values"]) for line in lines(plain) if line["row"] != 4]
    assert [(line["id"], line["values"]) for line in found[:4] + found[5:]] == others


DRIVER = """
import sys
from functools import partial
from pathlib import Path
from typing import Any
from onnx_attribution.server.scale import Folder, run_batch
from onnx_attribution.server.scale.local import Local
from onnx_attribution.server.scale.on_ray import check_reachable
from onnx_attribution.server.scale.shards import Sample, Unread
from tests.server.scale.places import JOB, PLAN, SHARDS, Doubling, opened
if __name__ == "__main__":
    notes = Path(sys.argv[2])
    try:
        local = Local(partial(opened, Doubling(notes, seconds=30)), 2)
        run_batch(local, JOB, Folder(Path(sys.argv[1]), PLAN), SHARDS)
    except KeyboardInterrupt:
        sys.exit(5)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_at_once_with_the_one_that_began_them(
    tmp_path: Path, notes: Path, sent: signal.Signals
) -> None:
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "out"), str(notes)]
    driver = subprocess.Popen(command, cwd=Path(__file__).parents[3], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(list(notes.iterdir())) == 2)
    workers = [int(one.name.split("-")[2]) for one in notes.iterdir()]
    driver.send_signal(sent)
    _, told = driver.communicate(timeout=10)
    assert driver.returncode == (5 if sent == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in told
    wait_until(lambda: not any(is_running(one) for one in workers))
    assert driver.pid not in workers


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "127.0.0.1:70000"])
def test_an_address_where_no_cluster_is_is_told_at_once(address: str) -> None:
    with pytest.raises(NotReady, match="there is no Ray cluster at") as caught:
        check_reachable(address)
    assert address in caught.value.message


@pytest.mark.parametrize("address", [None, "auto", "local"])
def test_what_is_no_address_is_left_to_ray(address: str | None) -> None:
    check_reachable(address)


def test_two_batches_in_one_folder_at_the_same_time_write_what_one_does(
    tmp_path: Path, notes: Path, plain: Path
) -> None:
    places = [Folder(tmp_path / "both", PLAN) for _ in range(2)]

    def work(folder: Folder) -> list[dict[str, Any]]:
        return run_batch(Local(partial(opened, Doubling(notes, seconds=0.02)), 1), JOB, folder, SHARDS)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, places)
    assert first == second
    assert files(places[0].place) == files(plain)
    assert len(places[0].manifest.read_text().splitlines()) == len(SHARDS)
