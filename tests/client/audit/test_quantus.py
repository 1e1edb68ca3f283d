"""Quantus' numbers on the same maps, as tests/peers/quantus_numbers.py wrote them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.client.audit.arrays import Floats, Inputs, Maps
from onnx_attribution.client.audit.metrics import (
    METRICS,
    complexity,
    faithfulness,
    localisation,
    sensitivity,
)
from onnx_attribution.client.audit.metrics.similarity import spearman

SHAPE = (6, 1, 12, 12)
CLASSES = 4
FILE = Path(__file__).parents[2] / "data" / "audit" / "quantus.json"
EXPECTED: dict[str, Any] = json.loads(FILE.read_text())
SMALL = 1e-4
"""Quantus adds 1e-7 to each magnitude, or 1e-12 in a logarithm, or 1e-9 to a sum; ours adds nothing."""


@pytest.fixture(scope="module")
def maps() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=SHAPE), rng.normal(size=SHAPE), rng.random(SHAPE) < 0.2


Data = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]


def test_complexity_is_quantus(maps: Data) -> None:
    own = {"x": maps[0]}
    np.testing.assert_allclose(complexity.sparseness(own), EXPECTED["sparseness"], rtol=SMALL)
    np.testing.assert_allclose(complexity.complexity(own), EXPECTED["complexity"], rtol=SMALL)
    found = complexity.effective_complexity(own, threshold=0.1)
    np.testing.assert_array_equal(found, EXPECTED["effective_complexity"])


@pytest.mark.parametrize(
    "name",
    ["pointing_game", "attribution_localisation", "relevance_mass_accuracy", "relevance_rank_accuracy"],
)
def test_localisation_is_quantus(maps: Data, name: str) -> None:
    found = getattr(localisation, name)(maps[0], maps[2])
    np.testing.assert_allclose(found, EXPECTED[name], rtol=1e-6)


def test_ranks_are_quantus(maps: Data) -> None:
    found = [spearman(x, y) for x, y in zip(maps[0], maps[1], strict=True)]
    np.testing.assert_allclose(found, EXPECTED["spearman"], rtol=1e-9)


@pytest.mark.parametrize(("name", "first"), [("max_sensitivity", 0), ("local_lipschitz_estimate", 8)])
def test_robustness_is_quantus(maps: Data, name: str, first: int) -> None:
    steps = iter(np.random.default_rng(1).normal(0, 0.1, (16, *SHAPE))[first:])

    def explain(inputs: Inputs) -> Maps:
        return {"x": np.asarray(inputs["x"], np.float64) ** 2 * maps[1]}

    def move(inputs: Inputs, _: np.random.Generator) -> Inputs:
        return {"x": np.asarray(inputs["x"], np.float64) + next(steps)}

    found = getattr(sensitivity, name)(explain, {"x": maps[0]}, move, count=8)
    np.testing.assert_allclose(found, EXPECTED[name], rtol=1e-6)


@pytest.fixture(scope="module")
def weights() -> tuple[Floats, Floats]:
    """Those of F_c(x) = w_c . x + (v_c . x)^2."""
    w, v = np.random.default_rng(2).normal(0, 0.1, (2, CLASSES, *SHAPE[1:]))
    return w, v


def gradients(weights: tuple[Floats, Floats], x: Floats, classes: Sequence[int]) -> Floats:
    w, v = (one[list(classes)] for one in weights)
    return np.asarray(w + 2 * (v * x).sum(axis=(1, 2, 3), keepdims=True) * v)


def test_infidelity_is_quantus(maps: Data, weights: tuple[Floats, Floats]) -> None:
    x, classes = maps[0], np.arange(SHAPE[0]) % CLASSES
    steps = iter(np.random.default_rng(3).normal(0, 0.2, (9, *SHAPE)))

    def forward(inputs: Inputs) -> Floats:
        w, v = (one[classes] * np.asarray(inputs["x"], np.float64) for one in weights)
        return np.asarray(w.sum(axis=(1, 2, 3)) + v.sum(axis=(1, 2, 3)) ** 2)

    def perturb(inputs: Inputs, _: np.random.Generator) -> tuple[Maps, Inputs]:
        by = next(steps)
        return {"x": by}, {"x": np.asarray(inputs["x"], np.float64) - by}

    own = {"x": gradients(weights, x, list(classes))}
    found = faithfulness.infidelity(forward, {"x": x}, own, perturb, count=9)
    np.testing.assert_allclose(found, EXPECTED["infidelity"], rtol=1e-9)


def test_random_logit_is_quantus(maps: Data, weights: tuple[Floats, Floats]) -> None:
    own, other = (
        {"x": gradients(weights, maps[0], classes)}
        for classes in ([k % CLASSES for k in range(SHAPE[0])], EXPECTED["random_logit_classes"])
    )
    found = sensitivity.random_logit(own, other, names=("spearman",))
    np.testing.assert_allclose(found["spearman"], EXPECTED["random_logit"], rtol=1e-9)


def test_every_metric_says_what_it_is_and_has_the_name_of_quantus() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.formula
        assert metric.source
        words = "".join(word.capitalize() for word in name.split("_"))
        assert metric.quantus in ("", words, "MPRT")
    own = {"intersection_over_union", "convergence", "deletion_area", "insertion_area"}
    assert {one for one in METRICS if not METRICS[one].quantus} <= own
