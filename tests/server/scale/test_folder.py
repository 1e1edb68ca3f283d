"""The folder of a batch: what is in it is whole, of one plan, and read at once."""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.scale import Folder, plan_shards, run_batch
from onnx_attribution.server.scale.batch import compute
from onnx_attribution.server.scale.local import Local
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
    with_layers,
)

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
OTHERS = {"data set": "others"}


def manifest(folder: Path) -> Path:
    return folder / "_batch" / "manifest.jsonl"


def part(folder: Path, shard: int) -> Path:
    return folder / "parts" / SHARDS[shard].file


def batches(folder: Path, shard: int) -> list[Any]:
    found: list[Any] = parquet.read_table(part(folder, shard)).to_batches()
    return found


def go_on(folder: Path, notes: Path) -> list[str]:
    """Starts the batch again; what it warned of."""
    for one in notes.iterdir():
        one.unlink()
    told: list[str] = []
    run_batch(Local(partial(opened, Doubling(notes)), 1), JOB, Folder(folder, PLAN), SHARDS, warn=told.append)
    return told


@pytest.mark.parametrize("place", ["", "parts"])
def test_one_call_reads_the_whole_result(plain: Path, place: str) -> None:
    found = parquet.read_table(plain / place)
    assert found["row"].to_pylist() == list(range(10))
    dataset = pytest.importorskip("pyarrow.dataset").dataset(plain / place, format="parquet")
    assert dataset.count_rows() == 10


def test_the_folder_of_parts_holds_nothing_else_so_that_any_program_reads_it(plain: Path) -> None:
    assert list(files(plain)) == [shard.file for shard in SHARDS]
    assert sorted(one.name for one in plain.iterdir()) == ["_batch", "parts"]  # readers pass over _ and .


def test_the_manifest_has_a_line_for_each_file_with_its_digest(plain: Path) -> None:
    said = [json.loads(line) for line in manifest(plain).read_text().splitlines()]
    assert {one["file"]: (one["bytes"], one["sha256"]) for one in said} == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in files(plain).items()
    }


def test_a_line_that_was_cut_off_is_a_shard_to_do_once_more(notes: Path, plain: Path) -> None:
    before = files(plain)
    manifest(plain).write_bytes(manifest(plain).read_bytes()[:-20])
    go_on(plain, notes)
    assert runs(notes) == [(9, 1)]
    assert files(plain) == before
    assert sorted(Folder(plain, PLAN).committed()) == [0, 1, 2, 3]


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def altered(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "words"),
    [(truncated, "bytes and not"), (altered, "has other bytes than were written"), (Path.unlink, "is gone")],
)
def test_a_damaged_file_is_told_of_by_its_name_and_computed_once_more(
    notes: Path, plain: Path, harm: Any, words: str
) -> None:
    before = files(plain)
    harm(part(plain, 1))
    told = go_on(plain, notes)
    assert runs(notes) == [(3, 3)]
    assert files(plain) == before
    assert [one for one in told if "'part-000001.parquet'" in one and words in one] == told
    assert len(told) == 1
    assert not go_on(plain, notes)
    assert not runs(notes)


def test_a_shard_that_two_commit_counts_once(plain: Path) -> None:
    folder = Folder(plain, PLAN)
    assert folder.commit(SHARDS[1], batches(plain, 1)) == folder.committed()[1]
    assert len(manifest(plain).read_text().splitlines()) == 4


def test_what_killed_processes_had_begun_is_swept_and_what_runs_is_not(plain: Path) -> None:
    left = plain / "_batch" / "part-0123.part"
    left.touch()
    folder = Folder(plain, PLAN)
    assert not left.exists()

    def while_written() -> Iterator[Any]:
        Folder(plain, PLAN)  # another one sweeps
        yield from batches(plain, 1)

    part(plain, 0).unlink()
    folder.commit(SHARDS[0], while_written())
    assert part(plain, 0).is_file()
    assert not list((plain / "_batch").glob("*.part"))


def test_what_fails_while_it_is_written_leaves_nothing(plain: Path) -> None:
    def failing() -> Iterator[Any]:
        yield from batches(plain, 1)
        raise InvalidArgument("no more")

    part(plain, 0).unlink()
    with pytest.raises(InvalidArgument, match="no more"):
        Folder(plain, PLAN).commit(SHARDS[0], failing())
    assert not part(plain, 0).exists()
    assert not list((plain / "_batch").glob("*.part"))


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond a size, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_ends_the_batch_which_goes_on_when_there_is_some(
    tmp_path: Path, notes: Path, plain: Path
) -> None:
    folder = Folder(tmp_path / "full", PLAN)
    local = Local(partial(opened, Doubling(notes)), 1)
    run_batch(local, JOB, folder, SHARDS[:1])
    with (
        pytest.raises(InvalidArgument, match=r"part-000001\.parquet' cannot be written: File too large"),
        room_for(1000),
    ):
        run_batch(local, JOB, folder, SHARDS)
    assert list(files(folder.place)) == [SHARDS[0].file]
    assert not list(folder.state.glob("*.part"))
    go_on(folder.place, notes)
    assert runs(notes) == [(3, 3), (6, 3), (9, 1)]
    assert files(folder.place) == files(plain)


def test_the_folder_of_another_plan_is_refused(plain: Path) -> None:
    with pytest.raises(InvalidArgument, match="another data set"):
        Folder(plain, OTHERS)


def test_a_plan_of_which_nothing_was_done_is_no_obstacle(tmp_path: Path) -> None:
    Folder(tmp_path, OTHERS)
    assert not Folder(tmp_path, PLAN).committed()


def test_a_batch_does_not_write_into_the_folder_that_another_took_meanwhile(plain: Path) -> None:
    held = batches(plain, 1)
    first = Folder(plain, PLAN)
    second = Folder(plain, OTHERS, anew=True)
    with pytest.raises(InvalidArgument, match="another data set"):
        first.commit(SHARDS[1], held)
    assert not files(plain)
    assert not second.committed()


def test_what_others_wrote_is_not_taken_away(tmp_path: Path) -> None:
    theirs = tmp_path / "parts" / "part-00000-of-others.parquet"
    theirs.parent.mkdir()
    theirs.touch()
    (theirs.parent / SHARDS[0].file).touch()
    Folder(tmp_path, PLAN, anew=True)  # no batch was there
    assert len(files(tmp_path)) == 2
    Folder(tmp_path, PLAN, anew=True)
    assert list(files(tmp_path)) == [theirs.name]


def test_the_folder_of_an_earlier_version_is_told_of_and_cleared_only_when_asked(tmp_path: Path) -> None:
    own = [tmp_path / name for name in (SHARDS[0].file, "manifest.jsonl", "manifest.jsonl.lock", "plan.json")]
    for one in (*own, tmp_path / "theirs.txt"):
        one.write_text("{}")
    with pytest.raises(InvalidArgument, match="of an earlier version, beside their manifest"):
        Folder(tmp_path, PLAN)
    assert all(one.is_file() for one in own)
    Folder(tmp_path, PLAN, anew=True)
    assert not any(one.exists() for one in own)
    assert (tmp_path / "theirs.txt").is_file()


def test_an_earlier_version_that_had_done_nothing_is_no_obstacle(tmp_path: Path) -> None:
    own = [tmp_path / name for name in ("manifest.jsonl.lock", "plan.json")]
    for one in own:
        one.write_text("{}")
    Folder(tmp_path, PLAN)
    assert not any(one.exists() for one in own)


@pytest.mark.parametrize("anew", [False, True])
def test_a_file_is_no_folder(tmp_path: Path, anew: bool) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InvalidArgument, match="cannot be written"):
        Folder(tmp_path / "out", PLAN, anew=anew)


def test_a_large_shard_is_written_in_groups_of_rows_that_say_the_same(
    tmp_path: Path, notes: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_attribution.server.scale.job.BATCH", 16)  # two samples
    folder = Folder(tmp_path / "groups", PLAN)
    run_batch(Local(partial(opened, Doubling(notes)), 1), JOB, folder, SHARDS)
    assert parquet.read_metadata(part(folder.place, 0)).num_row_groups == 2
    assert lines(folder.place) == lines(plain)


def test_what_is_committed_is_not_held_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, layers = 10_000, 5

    class Large(Doubling):
        def answers(self, request: Any, inputs: Any) -> Iterator[Any]:
            values = np.random.default_rng(0).random((64, size), np.float32)
            yield with_layers(np.zeros(64), {str(k): values for k in range(layers)})

    monkeypatch.setattr("onnx_attribution.server.scale.job.BATCH", 1 << 20)
    pool, before = pyarrow.proxy_memory_pool(pyarrow.default_memory_pool()), pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(pool)
    try:
        job = replace(JOB, source=Rows(64))
        compute(Large(tmp_path), job, Folder(tmp_path / "out", PLAN), plan_shards(64, 64)[0])
        peak = pool.max_memory()
    finally:
        pyarrow.set_memory_pool(before)
    assert 0 < peak < 64 * size * layers * 4 / 2  # as a table it would be more than twice that
