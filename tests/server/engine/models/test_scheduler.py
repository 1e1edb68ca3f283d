"""Rows of several requests in one run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import Cancelled, ModelError, Overloaded
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.server.engine.models.scheduler import Scheduler, Work
from onnx_attribution.values import Array, AttributionRequest
from tests.methods.toys import model

ROWS = RowAxis(0)


class Doubling:
    """Stands for a session: doubles x and adds what all rows share; holds its first run until it is let go."""

    def __init__(self, refuse: Callable[[Array], Exception | None] = lambda x: None) -> None:
        self.rows: list[int] = []
        self.began, self.go = threading.Event(), threading.Event()
        self.refuse = refuse

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        self.rows.append(len(inputs["x"]))
        if len(self.rows) == 1:
            self.began.set()
            assert self.go.wait(20)
        if (error := self.refuse(inputs["x"])) is not None:
            raise error
        return {"y": np.add(inputs["x"], inputs["x"]) + np.asarray(inputs["shared"], np.float64)}


def work(*values: float, limit: int = 100, shared: float = 0.0) -> Work:
    feeds = {"x": np.array(values), "shared": np.array(shared)}
    return Work(feeds, {"x": ROWS, "y": ROWS}, len(values), limit)


def crowd(session: Doubling, first: Work, *others: Work) -> list[dict[str, Array] | BaseException]:
    """What becomes of pieces of work that arrive one after the other while the first one runs."""
    scheduler = Scheduler()

    def asked(one: Work) -> dict[str, Array] | BaseException:
        try:
            return scheduler.run(session, one)  # type: ignore[arg-type]
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(others) + 1) as pool:
        found = [pool.submit(asked, first)]
        assert session.began.wait(20)
        for one in others:
            found.append(pool.submit(asked, one))
            time.sleep(0.02)  # they queue in this order
        session.go.set()
        return [one.result(20) for one in found]


def test_what_waits_shares_a_run_and_everybody_gets_their_own_rows() -> None:
    session = Doubling()
    found = crowd(session, work(1), work(2, 3), work(4), work(5, 6, 7))
    assert session.rows == [1, 6]
    assert [one["y"].tolist() for one in found] == [[2], [4, 6], [8], [10, 12, 14]]  # type: ignore[index]


def test_no_run_has_more_rows_than_any_of_its_parts_may_have() -> None:
    session = Doubling()
    crowd(session, work(1), work(2, 3, limit=3), work(4), work(5), work(6, 7, limit=2))
    assert session.rows == [1, 3, 1, 2]


def test_work_whose_shared_inputs_differ_has_runs_of_its_own() -> None:
    session = Doubling()
    found = crowd(session, work(1), work(2, shared=1), work(3, shared=2), work(4, shared=1))
    assert [one["y"].tolist() for one in found] == [[2], [5], [8], [9]]  # type: ignore[index]
    assert session.rows == [1, 2, 1]


def test_a_failure_meets_only_the_work_that_fails() -> None:
    session = Doubling(lambda x: ModelError("no 3") if 3 in x else None)
    found = crowd(session, work(1), work(2), work(3), work(4))
    assert [type(one) for one in found] == [dict, dict, ModelError, dict]


def test_where_memory_is_short_each_piece_runs_alone() -> None:
    session = Doubling(lambda x: Overloaded("no memory") if len(x) > 2 else None)
    found = crowd(session, work(1), work(2, 3), work(4))
    assert [one["y"].tolist() for one in found] == [[2], [4, 6], [8]]  # type: ignore[index]


def test_a_request_that_is_cancelled_leaves_the_queue() -> None:
    session, scheduler = Doubling(), Scheduler()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(scheduler.run, session, work(1))  # type: ignore[arg-type]
        assert session.began.wait(20)
        second = pool.submit(scheduler.run, session, work(2), lambda: "cancelled")  # type: ignore[arg-type]
        with pytest.raises(Cancelled):
            second.result(20)  # while the first one still runs
        session.go.set()
        assert first.result(20)["y"].tolist() == [2]
    assert session.rows == [1]


def test_few_rows_do_not_wait_for_many() -> None:
    """100 pieces of one request, one after the other, and one small request: it is answered after the run at hand."""
    session, scheduler = Doubling(), Scheduler()
    session.go.set()
    done: list[str] = []

    def many() -> None:
        for _ in range(100):
            time.sleep(0.001)
            scheduler.run(session, work(*range(10), limit=10))  # type: ignore[arg-type]
            done.append("many")

    def few() -> None:
        scheduler.run(session, work(1, limit=10))  # type: ignore[arg-type]
        done.append("few")

    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(many)
        assert session.began.wait(20)
        pool.submit(few).result(20)
        long.result(20)
    assert done.index("few") < 50


# --- Through the engine

NET = "(float[N,4] x) => (float[N,3] y) { h = MatMul(x, A) t = Tanh(h) y = MatMul(t, B) }"


@pytest.fixture
def engine(rng: np.random.Generator) -> Iterator[Engine]:
    with Engine(provider="cpu") as made:
        weights = {
            "A": rng.normal(size=(4, 8)).astype(np.float32),
            "B": rng.normal(size=(8, 3)).astype(np.float32),
        }
        made.add("net", model(NET, **weights))
        yield made


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gradient", {}),
        ("neuron_ig", {}),
        ("integrated_gradients", {"steps": 20}),
        ("neuron_ig", {"steps": 33}),
    ],
)
def test_requests_at_once_are_answered_as_alone(
    engine: Engine,
    rng: np.random.Generator,
    method: str,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = [
        AttributionRequest(
            "net", {"x": rng.normal(size=(1 + k % 3, 4)).astype(np.float32)}, method, ["t"] * (method == "neuron_ig"),
            target=k % 3, **options,
        )
        for k in range(12)
    ]  # fmt: skip
    run, rows = Session.run, []

    def slow(self: Session, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        rows.append(len(inputs["x"]))
        time.sleep(0.01)  # the others arrive
        return run(self, inputs, outputs)

    monkeypatch.setattr(Session, "run", slow)
    alone = [engine.attribute(one) for one in requests]
    rows_alone, rows[:] = list(rows), []
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(engine.attribute, requests))
    assert max(rows) > max(rows_alone)
    assert len(rows) < len(rows_alone)
    for one, other in zip(alone, together, strict=True):
        (mine,), (theirs,) = one.layers.values(), other.layers.values()
        first, second = (one.values.astype(np.float64) for one in (mine, theirs))
        assert np.abs(first - second).sum() <= 1e-6 * np.abs(first).sum()
        assert one.evaluations == other.evaluations
