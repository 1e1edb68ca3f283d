"""Captum's own cases of infidelity and sensitivity_max."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.client.audit.arrays import Explain, Inputs, Maps
from onnx_attribution.client.audit.metrics.faithfulness import Perturb, infidelity
from onnx_attribution.client.audit.metrics.sensitivity import Move, max_sensitivity, within
from onnx_attribution.client.audit.subject import Classes, Subject
from onnx_attribution.server.engine import Engine
from tests.oracle.file import Json, model_of, oracle
from tests.oracle.nested import array, index_of

Floats = NDArray[np.float64]
METHODS = {"Saliency": "gradient", "DeepLift": "deeplift_rescale"}
CASES = [one for one in oracle()["cases"] if one["method"] in ("infidelity", "sensitivity_max")]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(threads=1) as engine:
        yield engine


def given(case: Json) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """The inputs in the model's types, and the names of those that are explained."""
    spec = oracle()["models"][case["model"]]["spec"]
    kinds = {one["name"]: one["dtype"] for one in spec["inputs"]}
    values = {**case["inputs"], **(case.get("aux_inputs") or {})}
    return {name: array(value).astype(kinds[name]) for name, value in values.items()}, tuple(case["inputs"])


def classes_of(case: Json, samples: int) -> Classes:
    found = index_of(case.get("target"))
    if found is None:
        return None
    if isinstance(found, np.ndarray):
        found = found.tolist()
    return found if isinstance(found, list) else [found] * samples


def subject_of(case: Json, engine: Engine, sources: tuple[str, ...]) -> Subject:
    if case["model"] not in {one.name for one in engine.models()}:
        engine.add(case["model"], model_of(case["model"]))
    baselines = {} if case.get("baselines") is None else {sources[0]: array(case["baselines"])}
    return Subject(engine, case["model"], source=sources, baselines=baselines)


def changed(inputs: Inputs, by: Maps) -> Inputs:
    return {**inputs, **{n: (inputs[n] - one).astype(np.float32) for n, one in by.items()}}  # type: ignore[operator]


def local(sources: tuple[str, ...]) -> Perturb:
    def perturb(inputs: Inputs, _: np.random.Generator) -> tuple[Maps, Inputs]:
        sizes = zip(sources, (0.0009, 0.0121), strict=False)
        by: Maps = {name: np.full(np.shape(inputs[name]), size) for name, size in sizes}
        return by, changed(inputs, by)

    return perturb


def kept_by(rows: Floats, sources: tuple[str, ...], baseline: Floats | float) -> Perturb:
    """I is a row of zeros and ones; where it is 1 an input goes to the baseline, and elsewhere, where it is there
    already, I is 0 too."""
    each = cycle(rows)

    def perturb(inputs: Inputs, _: np.random.Generator) -> tuple[Maps, Inputs]:
        row = next(each)
        by: dict[str, Floats] = {}
        moved = dict(inputs)
        for name in sources:
            x = np.asarray(inputs[name], np.float64)
            by[name] = np.where(x == baseline, 0.0, np.broadcast_to(row, x.shape))
            moved[name] = np.where(row > 0, baseline, x).astype(np.float32)
        return by, moved

    return perturb


def perturbation(case: Json, sources: tuple[str, ...]) -> Perturb:
    text, size = case["perturbation"], 3
    if "0.0009" in text:
        return local(sources)
    if "perturbed = baselines" in text:
        return kept_by(np.ones((1, size)), sources, array(case["baselines"]))
    if "rows of [[0,1,1]" in text:
        return kept_by(np.array([[0, 1, 1], [1, 1, 0], [1, 0, 1.0]]), sources, 0.0)
    if "sensitivity-1" in text:
        return kept_by(np.eye(size), sources, 0.0)
    assert "perturbed = zeros" in text
    return kept_by(np.ones((1, size)), sources, 0.0)


def stepped(sources: tuple[str, ...]) -> Move:
    def move(inputs: Inputs, _: np.random.Generator) -> Inputs:
        moved = dict(inputs)
        for name in sources:
            x = np.asarray(inputs[name], np.float64)
            size = x[0].size
            steps = np.arange(np.floor(-size / 2), np.floor(size / 2)) / 100
            moved[name] = (x + steps.reshape(x.shape[1:])).astype(np.float32)
        return moved

    return move


def absolute(explain: Explain) -> Explain:
    return lambda inputs: {name: np.abs(one) for name, one in explain(inputs).items()}


def value_of(case: Json, engine: Engine) -> Floats:
    inputs, sources = given(case)
    classes = classes_of(case, len(inputs[sources[0]]))
    subject = subject_of(case, engine, sources)
    options = case["options"]
    if case["method"] == "infidelity":
        own = options["attributions"]
        parts = own.get("tuple", [own])
        maps = {name: array(part) for name, part in zip(sources, parts, strict=True)}
        return infidelity(
            subject.forward(classes), inputs, maps, perturbation(case, sources),
            count=options["n_perturb_samples"], normalize=options["normalize"],
        )  # fmt: skip
    explain = subject.explaining(METHODS[case["explanation"]["class"]], classes)
    if case["explanation"]["class"] == "Saliency":
        explain = absolute(explain)
    moves: dict[bool, Callable[[], Move]] = {
        True: lambda: within(sources, options["perturb_radius"]),
        False: lambda: stepped(sources),
    }
    move = moves["uniform" in case["perturbation"]]()
    return max_sensitivity(explain, inputs, move, count=options["n_perturb_samples"])


@pytest.mark.parametrize("case", CASES, ids=[one["id"].removeprefix("captum/") for one in CASES])
def test_the_number_is_captums(case: Json, engine: Engine) -> None:
    found = value_of(case, engine)
    (check,) = case["checks"]
    assert np.abs(found - np.array(check["expected"])).sum() <= check["atol"]
    # what captum gave when it was run, in float32
    np.testing.assert_allclose(found, array(case["reference_run"]["value"]), rtol=1e-3, atol=1e-6)


def test_no_case_of_captums_is_missing() -> None:
    assert len(CASES) >= 20
