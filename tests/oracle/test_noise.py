"""The comparison itself: a value 0.05 % wrong and credit to the wrong input fail in every case that has numbers, and
what is left out has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnx_attribution.values import Attribution
from tests.checks import to_double
from tests.oracle import cases, file, nested, noise
from tests.oracle.cases import Asker
from tests.oracle.file import Json
from tests.oracle.nested import Nested
from tests.oracle.test_oracle import ANSWERED, EQUAL, ask, assert_case, calls, params, recorded

__all__ = ["ask"]  # the fixture

MEANT = [case for case in ANSWERED if case["id"] not in noise.CASES and not case.get("caution")]
SMALL = 1e-4


@dataclass(frozen=True)
class Misplaced(cases.Call):
    """A call whose result gives every element the credit of its neighbour, or to every input that of the next."""

    def result(self, answer: Attribution) -> Nested:
        return _misplaced(super().result(answer))


def _misplaced(found: Nested) -> Nested:
    if not isinstance(found, list):
        return np.roll(found, 1, axis=-1)
    if any(isinstance(part, list) for part in found):
        return [_misplaced(part) for part in found]
    return [np.resize(part, a.shape) for a, part in zip(found, found[1:] + found[:1], strict=True)]


def is_exact(case: Json, call: cases.Call) -> bool:
    """Whether the file has all digits: of RevealCancel's multipliers it has those that a quotient in float32 leaves."""
    if call.drawn or recorded(case, call) is None or case["method"] not in file.REVEALING:
        return recorded(case, call) is not None and not call.drawn
    baselines: Mapping[str, Any] = call.request.baselines
    apart = [np.abs(a - baselines[n]) for n, a in call.request.inputs.items()]
    return call.multiplied or all((d[d > 0] > 1e-3).all() for d in apart)


@pytest.mark.parametrize("case", params(MEANT))
def test_a_little_wrong_or_credited_to_the_wrong_input_fails(case: Json, ask: Asker) -> None:
    for call in calls(case):
        if not is_exact(case, call):
            continue
        answer = ask(call)
        scale = nested.size(call.result(answer))
        wrong: list[cases.Call] = [replace(call, factor=call.factor * 1.0005)] if scale else []
        misplaced = Misplaced(**vars(call))
        pairs = zip(
            nested.flatten(call.result(answer)), nested.flatten(misplaced.result(answer)), strict=True
        )
        if max(float(np.abs(a - b).max(initial=0)) for a, b in pairs) > 1e-3 * scale:  # not all alike
            wrong.append(misplaced)
        for other in wrong:
            with pytest.raises(AssertionError):
                assert_case(case, other, answer, [answer])


def test_numbers_stand_behind_every_case() -> None:
    bare = [case for case in MEANT if all(recorded(case, call) is None for call in calls(case))]
    assert [case["id"] for case in bare if not (case["checks"] or "derived" in case)] == []


# --- What is left out


def test_noise_is_a_list_of_this_length(shared: Path) -> None:
    assert len(noise.CASES) == 18
    assert len(noise.EQUIVALENCES) == 23
    assert {case["id"] for case in ANSWERED} >= noise.CASES
    assert {item["id"] for item in EQUAL} >= noise.EQUIVALENCES


def test_the_target_of_noise_cannot_move() -> None:
    sides = [case for case in ANSWERED if case["id"] in noise.CASES]
    for item in EQUAL:
        if item["id"] in noise.EQUIVALENCES:
            sides += [side for side in (item["lhs"], item["rhs"]) if has_model(side)]
    for side in sides:
        assert stays(cases.call_of({**side, "baselines": None})), side["model"]


def test_nothing_else_is_so_small() -> None:
    """What is 0 has to be 0 to the last digit, and everything else is compared relative to its own size."""
    for case in MEANT:
        expected = [e for call in calls(case) if not call.drawn and (e := recorded(case, call)) is not None]
        assert all(nested.size(e) == 0 or nested.size(e) > SMALL for e in expected), case["id"]
    for item in EQUAL:
        if item["id"] not in noise.EQUIVALENCES:
            for side in (item["lhs"], item["rhs"]):
                size = nested.size(nested.nested(side["reference_attributions"]))
                assert size == 0 or size > SMALL, item["id"]


def test_a_model_whose_target_moves_is_no_noise() -> None:
    (case,) = [c for c in ANSWERED if c["id"] == "captum/DeepLift/test_relu_deeplift#0"]
    assert not stays(cases.call_of(case))


def has_model(side: Json) -> bool:
    """Whether a side is of a model of the file, not a function of Python."""
    return file.oracle()["models"][side["model"]].get("spec") is not None


def stays(call: cases.Call) -> bool:
    """Whether the target is the same at far and near inputs, in float64 by the reference implementation."""
    model = to_double(file.model_of(call.request.model))
    target = call.request.each_target[0].tensor or model.graph.output[0].name
    evaluator, rng = ReferenceEvaluator(model), np.random.default_rng(0)

    def value(size: float, spread: float) -> NDArray[Any]:
        inputs = {
            name: array.astype(np.float64) * size + rng.normal(size=array.shape) * spread
            if array.dtype.kind == "f"
            else array
            for name, array in call.request.inputs.items()
        }
        found: Any = evaluator.run([target], inputs)
        return np.asarray(found[0], dtype=np.float64)

    at_x = value(1, 0)
    far = [
        np.abs(value(size, spread) - at_x).max() for size, spread in ((0, 0), (0.3, 1), (2, 10), (-1, 0.1))
    ]
    return bool(max(far) <= 1e-9 * np.abs(at_x).max())
