"""Occlusion while it runs: how far it is, how it ends early, and what it does where the memory is short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import Cancelled, Overloaded
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.server.engine.rows import evaluate
from onnx_attribution.values import (
    Accepted,
    Array,
    AttributionRequest,
    Completed,
    Progress,
    Revision,
)
from tests.methods.test_occlusion import forest


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


def events(engine: Engine, x: Array, **changes: Any) -> list[Any]:
    engine.add("net", forest())
    return list(engine.stream(AttributionRequest("net", {"x": x}, "occlusion"), **changes))


def test_a_stream_says_how_far_the_groups_are(
    engine: Engine, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = rng.normal(size=(5, 4)).astype(np.float32)
    whole = events(engine, x)[-2].attribution
    monkeypatch.setattr(evaluate, "MAX_ROWS", 8)
    found = events(engine, x)
    assert isinstance(found[0], Accepted)
    assert found[0].planned_evaluations == 5 * 4 + 2 * 5
    assert [e.done for e in found if isinstance(e, Progress)] == [8, 16, 24, 30]
    assert {e.planned for e in found if isinstance(e, Progress)} == {30}
    assert isinstance(found[-2], Revision)
    assert found[-1] == Completed("exact", 0)
    np.testing.assert_array_equal(found[-2].attribution.layers["x"].values, whole.layers["x"].values)


def test_a_cancelled_stream_runs_no_further(
    engine: Engine, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "MAX_ROWS", 2)
    asked = []

    def stop() -> Any:
        asked.append(1)
        return "cancelled" if len(asked) == 3 else None

    with pytest.raises(Cancelled):
        events(engine, rng.normal(size=(5, 4)).astype(np.float32), stop=stop)
    assert len(asked) == 3


def test_runs_become_smaller_until_the_memory_suffices(
    engine: Engine, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = rng.normal(size=(5, 4)).astype(np.float32)
    whole = events(engine, x)[-2].attribution
    run, rows = Session.run, []

    def small(self: Session, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        rows.append(len(inputs["x"]))
        if rows[-1] > 6:
            raise Overloaded("the memory does not suffice")
        return run(self, inputs, outputs)

    monkeypatch.setattr(Session, "run", small)
    found = engine.attribute(AttributionRequest("net", {"x": x}, "occlusion"))
    assert max(rows) == 30
    np.testing.assert_array_equal(found.layers["x"].values, whole.layers["x"].values)
