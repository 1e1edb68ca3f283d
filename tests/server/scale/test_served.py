"""Servers have the shards of those that are lost, and those get new ones when they are back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from onnx_attribution.errors import ModelError, NotFound, NotReady
from onnx_attribution.server.scale import Folder, plan_shards, run_batch
from onnx_attribution.server.scale.job import Answer
from onnx_attribution.server.scale.served import Served, Server
from onnx_attribution.values import Array, AttributionRequest, ModelInfo
from tests.server.scale.places import INFO, JOB, PLAN, SHARDS, Doubling, files, opened, runs

pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_attribution.server.scale.served.WAIT", 0.01)
    monkeypatch.setattr("onnx_attribution.server.scale.served.LONGEST", 0.05)


def servers(*places: Doubling) -> list[Server]:
    return [Server(f"server-{k}", partial(opened, place)) for k, place in enumerate(places)]


@dataclass(frozen=True)
class Dying(Doubling):
    """Is lost by whatever it is asked of the sample `at`, as often as there are files in `deaths`."""

    deaths: Path = Path()

    def answers(self, request: AttributionRequest, inputs: Sequence[Mapping[str, Array]]) -> Iterator[Answer]:
        for one in inputs:
            if self.at in one["x"][:, 0] and (left := next(self.deaths.iterdir(), None)):
                left.unlink()
                raise NotReady("the connection broke")
            yield from super().answers(request, [one])


def dying(folder: Path, notes: Path, deaths: int) -> Dying:
    found = folder / "deaths"
    found.mkdir()
    for k in range(deaths):
        (found / str(k)).touch()
    return Dying(notes, at=4, deaths=found)


def test_a_server_that_is_away_gives_its_shards_to_the_others(
    tmp_path: Path, notes: Path, plain: Path
) -> None:
    folder, told = Folder(tmp_path / "servers", PLAN), list[str]()
    asked = servers(Doubling(notes, gone=True), Doubling(notes))
    run_batch(Served(asked, INFO.digest, told.append), JOB, folder, SHARDS)
    assert files(folder.place) == files(plain)
    assert told == ["server-0 is asked again later: the server is away"]


def test_a_server_that_is_back_gets_shards_again_however_often_it_failed(tmp_path: Path, notes: Path) -> None:
    @dataclass(frozen=True)
    class Away(Doubling):
        """Comes back after ten failures, which are more than all servers together may have."""

        def info(self) -> ModelInfo:
            if (count := len(list(tmp_path.glob("away-*")))) < 10:
                (tmp_path / f"away-{count}").touch()
                raise NotReady("away")
            return INFO

    own = tmp_path / "own"
    own.mkdir()
    shards = plan_shards(10, 1)
    asked = servers(Away(own), Doubling(notes, seconds=0.15))
    folder = Folder(tmp_path / "servers", PLAN)
    run_batch(Served(asked, INFO.digest), JOB, folder, shards)
    assert sorted(runs(notes) + runs(own)) == [(k, 1) for k in range(10)]
    assert runs(own)


def test_a_shard_whose_server_was_lost_is_computed_by_one_that_answers(
    tmp_path: Path, notes: Path, plain: Path
) -> None:
    folder = Folder(tmp_path / "broken", PLAN)
    asked = servers(dying(tmp_path, notes, deaths=2), Doubling(notes))
    run_batch(Served(asked, INFO.digest), JOB, folder, SHARDS)
    assert files(folder.place) == files(plain)


def test_when_all_servers_are_lost_the_batch_ends_and_goes_on_later(
    tmp_path: Path, notes: Path, plain: Path
) -> None:
    folder = Folder(tmp_path / "lost", PLAN)
    run_batch(Served(servers(Doubling(notes)), INFO.digest), JOB, folder, SHARDS[:2])
    gone = servers(Doubling(notes, gone=True), Doubling(notes, gone=True))
    with pytest.raises(
        NotReady, match=r"no server answers any more \(server-0, server-1\): the server is away"
    ):
        run_batch(Served(gone, INFO.digest), JOB, folder, SHARDS)
    assert sorted(folder.committed()) == [0, 1]
    for one in notes.iterdir():
        one.unlink()
    run_batch(Served(servers(Doubling(notes)), INFO.digest), JOB, folder, SHARDS)
    assert runs(notes) == [(6, 3), (9, 1)]
    assert files(folder.place) == files(plain)


def test_a_shard_that_no_server_lives_through_is_given_up_by_its_number(tmp_path: Path, notes: Path) -> None:
    folder = Folder(tmp_path / "deadly", PLAN)
    with pytest.raises(NotReady, match="shard 1 was given up: its servers were lost 4 times"):
        run_batch(Served(servers(dying(tmp_path, notes, deaths=99)), INFO.digest), JOB, folder, SHARDS)
    assert set(folder.committed()) == {0, 2, 3}


def test_a_server_that_still_computes_is_not_waited_for_when_the_batch_is_given_up(
    tmp_path: Path, notes: Path
) -> None:
    asked = servers(Doubling(notes, seconds=5), Doubling(notes))
    begun = time.monotonic()
    said = Served(asked, INFO.digest).run(JOB, Folder(tmp_path / "out", PLAN), SHARDS)
    assert next(said)["samples"] > 0
    said.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 3


def test_a_server_with_another_model_ends_the_batch_by_its_name(tmp_path: Path, notes: Path) -> None:
    folder = Folder(tmp_path / "none", PLAN)
    with pytest.raises(ModelError, match="server-0 has another model"):
        run_batch(Served(servers(Doubling(notes)), "other"), JOB, folder, SHARDS)


def test_a_server_without_the_model_ends_the_batch_by_its_name(tmp_path: Path, notes: Path) -> None:
    class Without(Doubling):
        def info(self) -> ModelInfo:
            raise NotFound("no model 'm'")

    folder = Folder(tmp_path / "none", PLAN)
    with pytest.raises(NotFound, match="server-1: no model 'm'"):
        run_batch(
            Served(servers(Doubling(notes, seconds=0.1), Without(notes)), INFO.digest), JOB, folder, SHARDS
        )
