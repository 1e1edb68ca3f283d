"""A question that has no answer is told from samples that have none, the same whoever computes and whenever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from onnx_attribution.errors import InvalidArgument, NotReady
from onnx_attribution.server.scale import Job, Sample, Unread, try_question
from onnx_attribution.values import AttributionRequest, ModelInfo
from tests.server.scale.places import Doubling, Rows, runs

JOB = Job(Rows(100), AttributionRequest("", {}, "gradient"))
SPREAD = (0, 14, 28, 42, 57, 71, 85, 99)


def test_one_answer_is_enough(notes: Path) -> None:
    try_question(Doubling(notes, poisoned=SPREAD[:2]), JOB, 100)
    assert runs(notes) == [(0, 1), (14, 1), (28, 1)]


def test_what_samples_from_all_over_the_data_set_fail_by_is_the_fault_of_the_question(notes: Path) -> None:
    with pytest.raises(InvalidArgument, match="no unit 7"):
        try_question(Doubling(notes, poisoned=tuple(range(100)), words="no unit 7"), JOB, 100)
    assert runs(notes) == [(k, 1) for k in SPREAD]


def test_what_differs_but_for_the_numbers_of_rows_is_one_fault(notes: Path) -> None:
    with pytest.raises(InvalidArgument, match="0 cannot be explained"):
        try_question(Doubling(notes, poisoned=tuple(range(100))), JOB, 100)


def test_the_first_samples_alone_do_not_end_a_batch(notes: Path) -> None:
    try_question(Doubling(notes, poisoned=tuple(range(99)), words="no"), JOB, 100)
    assert runs(notes)[-1] == (99, 1)


def test_samples_that_fail_for_different_reasons_do_not_end_a_batch(notes: Path) -> None:
    class Torn(Rows):
        def read(self, info: ModelInfo, rows: slice) -> Sequence[Sample]:
            return [Unread(None, None, InvalidArgument("torn"))] if rows.start else super().read(info, rows)

    job = replace(JOB, source=Torn(2))
    try_question(Doubling(notes, poisoned=(0,), words="poisoned"), job, 2)


def test_one_sample_alone_that_fails_does_not_end_a_batch(notes: Path) -> None:
    try_question(Doubling(notes, poisoned=(0,)), replace(JOB, source=Rows(1)), 1)


def test_what_is_no_fault_of_a_sample_ends_the_batch(notes: Path) -> None:
    with pytest.raises(NotReady, match="away"):
        try_question(Doubling(notes, gone=True), JOB, 100)
