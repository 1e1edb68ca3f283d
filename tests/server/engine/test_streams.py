"""Streams of the engine: what they say, what they plan, and where they stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import (
    Cancelled,
)
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.answer import refine
from onnx_attribution.values import (
    Accepted,
    Attribution,
    AttributionRequest,
    Completed,
    Progress,
    Revision,
)
from tests.server.engine.test_engine import relu_layers, wide


def test_a_stream_is_accepted_progresses_and_completes(engine: Engine, request_: AttributionRequest) -> None:
    events = list(engine.stream(request_.changed(layers=relu_layers(engine, "digits"))))
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Completed)
    assert [type(e) for e in events].count(Revision) == 1
    done = [e.done for e in events if isinstance(e, Progress)]
    assert done == sorted(done)


def revisions(events: Sequence[object]) -> list[Attribution]:
    return [e.attribution for e in events if isinstance(e, Revision)]


def relative_error(answer: Attribution) -> float:
    return max(
        float((x.error_estimate / np.abs(wide(x.values)).reshape(len(x.values), -1).sum(axis=1)).max())
        for x in answer.layers.values()
    )


def test_a_tolerance_stops_at_the_first_grid_that_meets_it(
    engine: Engine, request_: AttributionRequest
) -> None:
    asked = request_.changed(layers=(), steps=4, tolerance=0.02, max_steps=4096)
    events = list(engine.stream(asked))
    found = revisions(events)
    assert [a.steps for a in found] == [4 * 2**k for k in range(len(found))]
    assert len(found) > 1
    assert all(relative_error(a) > 0.02 for a in found[:-1])
    assert relative_error(found[-1]) <= 0.02
    assert events[-1] == Completed("converged", len(found) - 1)
    assert engine.attribute(asked).steps == found[-1].steps
    spent = [a.evaluations for a in found]
    assert spent == sorted(spent)


def test_a_tolerance_that_cannot_be_met_ends_at_max_steps_with_the_best_revision(
    engine: Engine, request_: AttributionRequest
) -> None:
    events = list(engine.stream(request_.changed(layers=(), steps=4, tolerance=1e-12, max_steps=20)))
    found = revisions(events)
    assert [a.steps for a in found] == [4, 8, 16, 20]
    errors = [relative_error(a) for a in found]
    assert events[-1] == Completed("max_steps", int(np.argmin(errors)))


def test_without_revisions_those_are_left_out_that_are_no_better_than_one_before(
    engine: Engine, request_: AttributionRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimates of the four grids are said to be 3, 1, 2 and 4."""

    def asked(**options: Any) -> list[Any]:
        said = iter([3.0, 1.0, 2.0, 4.0])
        monkeypatch.setattr(refine, "errors_of", lambda *_: np.array([next(said)]))
        given = request_.changed(layers=(), steps=4, tolerance=1e-12, max_steps=32)
        return list(engine.stream(given, **options)) if options else [engine.attribute(given)]

    for every, steps in ((True, [4, 8, 16, 32]), (False, [4, 8])):
        events = asked(revisions=every)
        assert [a.steps for a in revisions(events)] == steps
        assert events[-1] == Completed("max_steps", 1)
    assert asked()[0].steps == 8


def test_a_method_without_a_path_is_exact_in_one_revision(
    engine: Engine, request_: AttributionRequest
) -> None:
    events = list(engine.stream(request_.changed(layers=(), method="deeplift_rescale", tolerance=1e-3)))
    assert len(revisions(events)) == 1
    assert events[-1] == Completed("exact", 0)


def test_a_wish_to_stop_is_granted_once_there_is_a_revision(
    engine: Engine, request_: AttributionRequest
) -> None:
    asked = request_.changed(layers=(), steps=4, tolerance=1e-12, max_steps=256)
    events = list(engine.stream(asked, stop=lambda: "deadline_near"))
    assert [a.steps for a in revisions(events)] == [4]
    assert events[-1] == Completed("deadline_near", 0)


def test_a_cancelled_stream_ends_at_once(engine: Engine, request_: AttributionRequest) -> None:
    asked = request_.changed(layers=(), steps=4)
    with pytest.raises(Cancelled):
        list(engine.stream(asked, stop=lambda: "cancelled"))


def test_a_large_grid_is_accepted_at_once(digits_path: Path) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        engine.info("digits")
        images = np.zeros((256, 1, 8, 8), dtype=np.float32)
        asked = AttributionRequest("digits", {"image": images}, steps=16384, layers=["conv2"])
        first = next(engine.stream(asked))
        assert isinstance(first, Accepted)
        assert first.planned_evaluations >= 256 * 16385
