"""A data set in shards: whoever computes them, and whatever dies meanwhile, the files are the same."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_attribution.client.audit.data import Dataset
from onnx_attribution.errors import InvalidArgument, ModelError, NotReady
from onnx_attribution.server.scale import Folder, Job, plan_shards, run_batch
from onnx_attribution.server.scale.local import Local
from onnx_attribution.server.scale.served import Served
from onnx_attribution.values import AttributionRequest, ModelInfo
from tests.server.scale.places import INFO, Doubling, Rows, opened

parquet = pytest.importorskip("pyarrow.parquet")
ROWS = Rows(10)
SHARDS = plan_shards(10, 3)
JOB = Job(ROWS, AttributionRequest("", {}, "gradient"))
PLAN = {"data": ROWS.digest()}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    found = tmp_path / "notes"
    found.mkdir()
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in sorted(folder.glob("part-*"))}


def runs(notes: Path) -> list[tuple[int, int]]:
    """The first sample and the number of samples of each request."""
    return sorted((int(a), int(b)) for a, b, _ in (one.name.split("-") for one in notes.iterdir()))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [line for file in sorted(folder.glob("part-*")) for line in parquet.read_table(file).to_pylist()]


@pytest.fixture
def plain(tmp_path: Path, notes: Path) -> Path:
    """Returns the folder of a batch that ran in this process without any trouble."""
    folder = Folder(tmp_path / "plain", PLAN)
    run_batch(Local(partial(opened, Doubling(notes)), 1), JOB, folder, SHARDS)
    return folder.place


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


def test_the_manifest_has_a_line_for_each_file_with_its_digest(plain: Path) -> None:
    import hashlib

    said = [json.loads(line) for line in (plain / "manifest.jsonl").read_text().splitlines()]
    assert {one["file"]: one["sha256"] for one in said} == {
        name: hashlib.sha256(data).hexdigest() for name, data in files(plain).items()
    }


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


def test_a_line_that_was_cut_off_is_a_shard_to_do_once_more(tmp_path: Path, notes: Path, plain: Path) -> None:
    manifest = plain / "manifest.jsonl"
    before = files(plain)
    manifest.write_bytes(manifest.read_bytes()[:-20])
    for one in notes.iterdir():
        one.unlink()
    run_batch(Local(partial(opened, Doubling(notes)), 1), JOB, Folder(plain, PLAN), SHARDS)
    assert runs(notes) == [(9, 1)]
    assert files(plain) == before
    assert sorted(Folder(plain, PLAN).committed()) == [0, 1, 2, 3]


def test_a_shard_that_two_commit_counts_once(plain: Path) -> None:
    folder = Folder(plain, PLAN)
    table = parquet.read_table(plain / SHARDS[1].file)
    assert folder.commit(SHARDS[1], table) == folder.committed()[1]
    assert len((plain / "manifest.jsonl").read_text().splitlines()) == 4


def test_the_folder_of_another_plan_is_refused(plain: Path) -> None:
    with pytest.raises(InvalidArgument, match="another data"):
        Folder(plain, {"data": "others"})


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


def test_what_every_sample_fails_by_ends_the_batch_before_anything_is_committed(
    tmp_path: Path, notes: Path
) -> None:
    class Refusing(Doubling):
        def answers(self, request: Any, inputs: Sequence[Any]) -> Iterator[Any]:
            return iter([InvalidArgument("no layer 'conv9'") for _ in inputs])

    folder = Folder(tmp_path / "none", PLAN)
    with pytest.raises(InvalidArgument, match="conv9"):
        run_batch(Local(partial(opened, Refusing(notes)), 1), JOB, folder, SHARDS)
    assert not folder.committed()


def test_samples_that_do_not_join_are_asked_about_one_by_one(tmp_path: Path, notes: Path) -> None:
    class Ragged(Rows):
        def read(self, info: ModelInfo, rows: slice) -> Dataset:
            found = super().read(info, rows)
            items = [replace(one, inputs={"x": np.ones((1, 2 + int(one.id[1:]) % 2))}) for one in found.items]
            return replace(found, items=items)

    folder = Folder(tmp_path / "ragged", PLAN)
    run_batch(Local(partial(opened, Doubling(notes)), 1), replace(JOB, source=Ragged(10)), folder, SHARDS)
    assert [line["shape"] for line in lines(folder.place)] == [[2 + k % 2] for k in range(10)]


def test_a_sample_that_cannot_be_read_has_a_line_with_its_error(
    tmp_path: Path, notes: Path, plain: Path
) -> None:
    class Torn(Rows):
        def read(self, info: ModelInfo, rows: slice) -> Dataset:
            if 4 in range(self.samples)[rows]:
                raise InvalidArgument("no value")
            return super().read(info, rows)

    folder = Folder(tmp_path / "torn", PLAN)
    run_batch(Local(partial(opened, Doubling(notes)), 1), replace(JOB, source=Torn(10)), folder, SHARDS)
    found = lines(folder.place)
    assert (found[4]["id"], found[4]["error"]) == (None, "INVALID_ARGUMENT PARAMETER_INVALID: no value")
    others = [(line["id"], line["values"]) for line in lines(plain) if line["row"] != 4]
    assert [(line["id"], line["values"]) for line in found[:4] + found[5:]] == others


def test_a_source_that_reads_fewer_samples_than_it_counts_is_an_error(tmp_path: Path, notes: Path) -> None:
    class Short(Rows):
        def read(self, info: ModelInfo, rows: slice) -> Dataset:
            return Dataset("rows", [])

    folder = Folder(tmp_path / "short", PLAN)
    said = run_batch(
        Local(partial(opened, Doubling(notes)), 1), replace(JOB, source=Short(10)), folder, SHARDS
    )
    assert [one["errors"] for one in said] == [3, 3, 3, 1]


def test_a_plan_of_which_nothing_was_done_is_no_obstacle(tmp_path: Path) -> None:
    Folder(tmp_path, {"data": "others"})
    assert not Folder(tmp_path, PLAN).committed()


def test_a_batch_does_not_write_into_the_folder_that_another_took_meanwhile(plain: Path) -> None:
    table = parquet.read_table(plain / SHARDS[1].file)
    first = Folder(plain, PLAN)
    second = Folder(plain, {"data": "others"}, anew=True)
    with pytest.raises(InvalidArgument, match="another data"):
        first.commit(SHARDS[1], table)
    assert not files(plain)
    assert not second.committed()


def test_what_others_wrote_is_not_taken_away(tmp_path: Path) -> None:
    theirs = tmp_path / "part-00000-of-others.parquet"
    theirs.touch()
    (tmp_path / "part-000000.parquet").touch()
    Folder(tmp_path, PLAN, anew=True)  # no batch was there
    assert len(files(tmp_path)) == 2
    Folder(tmp_path, PLAN, anew=True)
    assert list(files(tmp_path)) == [theirs.name]


@pytest.mark.parametrize("anew", [False, True])
def test_a_file_is_no_folder(tmp_path: Path, anew: bool) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InvalidArgument, match="cannot be written"):
        Folder(tmp_path / "out", PLAN, anew=anew)


DRIVER = """
import sys
from functools import partial
from pathlib import Path
from onnx_attribution.server.scale import Folder, run_batch
from onnx_attribution.server.scale.local import Local
from tests.server.scale.places import Doubling, opened
from tests.server.scale.test_batch import JOB, PLAN, SHARDS
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


def test_a_server_that_is_away_gives_its_shards_to_the_others(
    tmp_path: Path, notes: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_attribution.server.scale.served.WAIT", 0.01)
    folder = Folder(tmp_path / "servers", PLAN)
    opens = [partial(opened, Doubling(notes, gone=True)), partial(opened, Doubling(notes))]
    run_batch(Served(opens, INFO.digest), JOB, folder, SHARDS)
    assert files(folder.place) == files(plain)


def test_without_a_server_that_answers_the_batch_ends(
    tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_attribution.server.scale.served.WAIT", 0.01)
    opens = [partial(opened, Doubling(notes, gone=True))] * 2
    with pytest.raises(NotReady, match="away"):
        run_batch(Served(opens, INFO.digest), JOB, Folder(tmp_path / "none", PLAN), SHARDS)


def test_a_server_that_still_computes_is_not_waited_for_when_the_batch_is_given_up(
    tmp_path: Path, notes: Path
) -> None:
    opens = [partial(opened, Doubling(notes, seconds=5)), partial(opened, Doubling(notes))]
    begun = time.monotonic()
    said = Served(opens, INFO.digest).run(JOB, Folder(tmp_path / "out", PLAN), SHARDS)
    assert next(said)["samples"] > 0
    said.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 3


def test_a_server_with_another_model_ends_the_batch(tmp_path: Path, notes: Path) -> None:
    with pytest.raises(ModelError, match="another model"):
        run_batch(
            Served([partial(opened, Doubling(notes))], "other"), JOB, Folder(tmp_path / "none", PLAN), SHARDS
        )
