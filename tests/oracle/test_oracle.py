"""Our attributions against the expected numbers of Captum and kundajelab/deeplift, case by case."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.graph_tools.path import captum_alphas, captum_weights, mean_plan
from onnx_attribution.server import evaluate
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution
from tests.oracle import cases
from tests.oracle.cases import Asker, Json, Nested

WHY = "ONNX_ATTRIBUTION_TEST_DATA is not set: no file of expected numbers"
REFERENCE = 1e-4
"""Tolerance against a library's own float32 output, relative to its largest number; Captum's tests use the same."""


def params(items: list[Json]) -> list[Any]:
    """One parameter an item, named by its id."""
    if cases.folder() is None:
        return [pytest.param({}, marks=pytest.mark.skip(reason=WHY))]
    return [pytest.param(item, id=item["id"]) for item in items]


RUN = [case for case in cases.cases() if cases.left_out(case) is None]
REFUSED = [case for case in RUN if case["kind"] == "error"]
ANSWERED = [case for case in RUN if case["kind"] != "error"]
EQUAL = [item for item in cases.equivalences() if cases.left_out(item) is None]


@pytest.fixture(scope="module")
def ask() -> Iterator[Asker]:
    """Returns an engine that knows the models of the file."""
    with Engine(provider="cpu", threads=2) as engine:
        yield Asker(engine)


def assert_checks(case: Json, call: cases.Call, answer: Attribution) -> None:
    """Every check of the case holds within the tolerance it states."""
    found: dict[str, Nested] = {"attributions": call.result(answer), "convergence_delta": cases.delta(answer)}
    name = "contributions" if call.request.multiply_by_inputs else "multipliers"
    found[name] = found["attributions"]
    for check in case["checks"]:
        if check["on"] in ("multipliers", "contributions") and check["on"] != name:
            continue
        actual = cases.at(found[check["on"]], check.get("output_index") or [])
        if "flat_index" in check:
            actual = actual.reshape(-1)[check["flat_index"]]
        expected = np.asarray(check["expected"], dtype=np.float64)
        expected = np.broadcast_to(expected, actual.shape) if expected.size == 1 else expected
        assert actual.size == expected.size
        apart = cases.distance(actual, expected, check["mode"])
        assert apart <= check["atol"], f"{check['on']} {check.get('output_index')}: {apart}"


def assert_recorded(case: Json, call: cases.Call, answer: Attribution) -> None:
    """The attributions are the numbers that the library gave when it was run."""
    recorded = case.get("reference_run") or {}
    if "attributions" in recorded:
        expected = cases.nested(recorded["attributions"])
    else:
        name = "contributions" if call.request.multiply_by_inputs else "multipliers"
        expected = recorded.get(name)
        if expected is None:
            return
        expected = cases.nested(expected)
    assert_close(call.result(answer), expected)


def assert_close(actual: Nested, expected: Nested, tolerance: float = REFERENCE) -> None:
    """Nested results agree, relative to the largest number."""
    left, right = cases.flatten(actual), cases.flatten(expected)
    assert len(left) == len(right)
    scale = max([1.0, *(float(np.abs(a).max(initial=0.0)) for a in right)])
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a.reshape(-1), b.reshape(-1), rtol=0, atol=tolerance * scale)


def calls(case: Json) -> list[cases.Call]:
    """The calls of a case: kundajelab's speak of multipliers and of contributions."""
    if case["library"] == "captum":
        return [cases.call_of(case)]
    ours = (False,) if case["method"] == "Gradient" else (True, False)
    return [cases.call_of(case, multiply=multiply) for multiply in ours]


@pytest.mark.parametrize("case", params(ANSWERED))
def test_our_numbers_are_the_peers_numbers(case: Json, ask: Asker) -> None:
    for call in calls(case):
        answer = ask(call)
        assert_checks(case, call, answer)
        assert_recorded(case, call, answer)
        if "derived" in case:  # follows from completeness alone
            assert_close(call.result(answer), cases.nested(case["derived"]["attributions"]), 1e-6)


BATCHED = [case for case in ANSWERED if any((v or {}) != {} for v in case.get("execution_variants") or [])]


@pytest.mark.parametrize("case", params(BATCHED))
def test_the_batch_size_does_not_move_the_result(
    case: Json, ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (call,) = calls(case)
    plain = ask(call)
    for variant in case["execution_variants"]:
        if variant.get("internal_batch_size"):
            monkeypatch.setattr(evaluate, "MAX_ROWS", variant["internal_batch_size"])
        answer = ask(call)
        assert_close(call.result(answer), call.result(plain), 1e-6)
        assert_checks(case, call, answer)


@pytest.mark.parametrize("case", params(REFUSED))
def test_what_the_peer_refuses_is_refused(case: Json, ask: Asker) -> None:
    with pytest.raises(InvalidArgument, match="target index has 2 parts"):
        ask(cases.call_of(case))


@pytest.mark.parametrize("item", params(EQUAL))
def test_two_calls_that_must_agree_agree(item: Json, ask: Asker) -> None:
    sides = []
    for side in (item["lhs"], item["rhs"]):
        recorded = cases.flatten(cases.nested(side["reference_attributions"]))
        if cases.oracle()["models"][side["model"]].get("spec") is None:
            sides.append(
                recorded
            )  # a Python function that picks one neuron: the library's own gradient of it
            continue
        call = cases.call_of(side)
        sides.append(cases.flatten(call.result(ask(call))))
        assert_close(sides[-1], recorded)
    left, right = sides
    assert len(left) == len(right)
    row = rows_of(item["lhs"], item["rhs"])
    for a, b in zip(left, right, strict=True):
        assert cases.distance(a[row], b, item["mode"]) <= item["atol"]


def rows_of(lhs: Json, rhs: Json) -> Any:
    """The samples of the left side that the right side asks about: all, or the one with the same inputs."""
    for name, value in lhs["inputs"].items():
        if name in rhs["inputs"]:
            many, one = cases.array(value), cases.array(rhs["inputs"][name])
            if len(many) > 1 and len(one) == 1:
                return [k for k in range(len(many)) if np.array_equal(many[k], one[0])]
    return slice(None)


@pytest.mark.parametrize("case", params(cases.tables()))
def test_quadratures_of_a_peers_name_are_its_tables(case: Json) -> None:
    name, count = case["method"], case["n_steps"]
    plan = mean_plan(name, count)
    found = {"alphas": captum_alphas(name, count), "step_sizes": captum_weights(name, count)}
    np.testing.assert_array_equal([t.weight for t in plan.fine], found["step_sizes"])
    np.testing.assert_array_equal(plan.alphas[: len(plan.fine)], found["alphas"])
    for check in case["checks"]:
        assert cases.distance(found[check["on"]], check["expected"], check["mode"]) <= 1e-12
    for key, expected in (case.get("reference_run") or {}).items():
        np.testing.assert_allclose(found[key], expected, rtol=0, atol=1e-7)


# --- What is left out

CAUTIONED = """
captum/DeepLift/test_convnet_with_maxpool1d#1
captum/DeepLift/test_convnet_with_maxpool1d_large_baselines#0
captum/DeepLift/test_convnet_with_maxpool2d#0
captum/DeepLift/test_convnet_with_maxpool2d#1
captum/DeepLift/test_convnet_with_maxpool2d_large_baselines#1
captum/DeepLift/test_convnet_with_maxpool3d#0
captum/DeepLift/test_convnet_with_maxpool3d_large_baselines#0
captum/DeepLift/test_convnet_with_maxpool3d_large_baselines#1
captum/DeepLift/test_softmax_classification_batch_zero_baseline#0
captum/DeepLift/test_softmax_classification_zero_baseline#0
"""
"""The cases of our methods that carry a caution: all are softmax models, where the library's own numbers are wrong (its
softmax rule mixes the batch) or ill-conditioned."""


@pytest.fixture
def numbers(shared: Path) -> Json:
    """Returns the file of cases, or skips."""
    assert (shared / "oracle" / "cases.json").is_file()
    return cases.oracle()


def test_left_out_for_a_caution_are_these_ten_cases(numbers: Json) -> None:
    listed = CAUTIONED.split()
    assert len(listed) == 10
    assert sorted(listed) == sorted(c["id"] for c in cases.cases() if c.get("caution"))
    assert not any(e.get("caution") for e in numbers["equivalences"])


def test_left_out_besides_are_only_deeplift_models_with_operators_of_another_file(numbers: Json) -> None:
    """The rule speaks of a model's operators; this says what it finds."""
    reasons = {item["id"]: cases.left_out(item) for item in [*cases.cases(), *cases.equivalences()]}
    later = {key: reason for key, reason in reasons.items() if reason not in (None, "caution")}
    assert set(later.values()) <= {"Softmax", "ReduceMax", "Mul"}, later
    assert all("DeepLift" in key for key in later), later
    for key, operator in sorted(later.items()):
        print(f"left to another file: {key}: {operator}")


def test_every_method_has_cases_that_run(numbers: Json) -> None:
    ran, known = cases.counts(RUN), cases.counts(cases.cases())
    assert set(ran) == set(known) == set(cases.METHODS)
    assert {e["lhs"]["method"] for e in EQUAL} >= {
        "DeepLift",
        "LayerConductance",
        "NeuronDeepLift",
        "Saliency",
    }
    for method in known:
        print(f"{method}: {ran[method]} of {known[method]}")
    print(f"equivalences: {len(EQUAL)} of {len(cases.equivalences())}; tables: {len(cases.tables())}")
    assert len(cases.cases()) + len(cases.tables()) <= len(numbers["cases"])
