"""A bounded run of the fuzzer, and the proof that it sees what it is for."""

from __future__ import annotations

import time

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import Attribution, AttributionRequest
from tests.fuzz import plants
from tests.fuzz.compare import Asker, examine
from tests.fuzz.generate import Case, draw
from tests.fuzz.questions import Ask
from tests.fuzz.recipes import TURNS
from tests.fuzz.reference import NotRunnable
from tests.fuzz.tally import Tally, described

SEED, ROUNDS = 1, 8
SECONDS, LEAST = 45.0, 3
"""On a slow machine the run ends after so many seconds, though not before so many rounds."""


def test_answers_are_those_of_each_sample_alone_in_float64() -> None:
    tally, begun = Tally(), time.monotonic()
    for turn in range(ROUNDS):
        if turn >= LEAST and time.monotonic() - begun > SECONDS:
            break
        for place in range(turn * len(TURNS), (turn + 1) * len(TURNS)):
            try:
                examine(draw(SEED, place), tally)
            except NotRunnable:
                tally.unrunnable += 1
    print("\n".join(tally.lines()))
    cases = {case.label: case for case, _ in tally.faults}
    faults = [described(cases[k], [f for c, f in tally.faults if c.label == k][:3]) for k in [*cases][:3]]
    assert not cases, f"{len(cases)} of {tally.cases} cases are wrong; the first:\n" + "\n".join(faults)
    assert not tally.doubts()


def test_a_case_is_the_same_every_time() -> None:
    first, again = draw(3, 11), draw(3, 11)
    assert first.model == again.model
    assert all(np.array_equal(a[n], b[n]) for a, b in zip(first.rows, again.rows, strict=True) for n in a)


@pytest.mark.parametrize(
    ("plant", "theme", "method", "kind"),
    [
        (plants.too_large, "plain", "gradient", "gradient"),
        (plants.too_large, "plain", "occlusion", "occlusion"),
        (plants.too_large, "plain", "integrated_gradients", "integrated_gradients"),
        (plants.too_large, "plain", "neuron_ig", "neuron_ig"),
        (plants.too_large, "plain", "deeplift_rescale", "sum"),
        (plants.wrong_input, "names apart", "gradient", "gradient"),
        (plants.wrong_element, "plain", "integrated_gradients", "integrated_gradients"),
        (plants.exchanged, "plain", "deeplift_rescale", "sum"),
        (plants.summed, "baked batch", "gradient", "gradient"),
        (plants.spoilt, "not a number", "integrated_gradients", "integrated_gradients"),
        (plants.scalar_summed, "rank 0", "gradient", "gradient"),
        (plants.left_out, "integers", "integrated_gradients", "left out"),
        (plants.nothing_moves, "tokens", "deeplift_rescale", "baseline"),
        (plants.mixed, "extremes", "gradient", "value"),
        (plants.sure, "extremes of a sample", "integrated_gradients", "estimate"),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_a_fault_of_this_kind_is_found(plant: plants.Plant, theme: str, method: str, kind: str) -> None:
    found = 0
    for place in range(8):
        case = draw(SEED, place, (theme,))
        with Asker(case) as engine:
            faults = examine(case, Tally(), lambda c, r: plant(engine(c, r), c), only=Ask(method))
        found += any(fault.kind == kind for fault in faults)
    assert found


def test_an_engine_that_refuses_proves_nothing() -> None:
    def refuses(case: Case, request: AttributionRequest) -> Attribution:
        raise InvalidArgument("no")

    tally = Tally()
    assert not examine(draw(SEED, 0), tally, refuses)
    assert tally.doubts()


def test_an_error_without_words_is_a_fault() -> None:
    def breaks(case: Case, request: AttributionRequest) -> Attribution:
        raise KeyError("x")

    assert {fault.kind for fault in examine(draw(SEED, 0), Tally(), breaks)} == {"exception"}
