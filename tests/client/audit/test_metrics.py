"""Each metric on maps and models of which the number is known by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.client.audit.arrays import Floats, Inputs, Maps
from onnx_attribution.client.audit.metrics.complexity import complexity, effective_complexity, sparseness
from onnx_attribution.client.audit.metrics.faithfulness import (
    completeness,
    infidelity,
    noise,
    removed_squares,
)
from onnx_attribution.client.audit.metrics.localisation import (
    attribution_localisation,
    intersection_over_union,
    pointing_game,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
)
from onnx_attribution.client.audit.metrics.randomisation import permuted
from onnx_attribution.client.audit.metrics.sensitivity import (
    avg_sensitivity,
    local_lipschitz_estimate,
    max_sensitivity,
    near,
    other_classes,
    within,
)
from onnx_attribution.errors import InvalidArgument

W = np.array([[1.0, -2.0, 0.0, 3.0]])
X = np.array([[1.0, 2.0, -1.0, 0.5], [0.0, 1.0, 1.0, 1.0]])


def linear(inputs: Inputs) -> Floats:
    return np.asarray((np.asarray(inputs["x"], np.float64) * W).sum(axis=1))


def quadratic(inputs: Inputs) -> Maps:
    return {"x": np.asarray(inputs["x"], np.float64) ** 2}


# --- Faithfulness


def test_the_gradient_of_a_linear_model_is_not_infidel_to_any_perturbation() -> None:
    maps = {"x": np.repeat(W, 2, axis=0)}
    for perturb in (noise(("x",), 0.3), removed_squares(("x",), share=0.5)):
        np.testing.assert_allclose(infidelity(linear, {"x": X}, maps, perturb), 0, atol=1e-20)


def test_contributions_are_compared_with_what_removing_elements_changes() -> None:
    perturb = removed_squares(("x",), {"x": 0.25}, share=0.5, factor="difference")
    maps = {"x": W * (X - 0.25)}
    np.testing.assert_allclose(infidelity(linear, {"x": X}, maps, perturb), 0, atol=1e-20)


def test_products_with_the_values_foretell_what_going_to_another_baseline_changes() -> None:
    perturb = removed_squares(("x",), {"x": 0.25}, share=0.5, factor="value")
    x = np.where(X == 0, 0.5, X)
    np.testing.assert_allclose(infidelity(linear, {"x": x}, {"x": W * x}, perturb), 0, atol=1e-20)
    # of what is 0 a product says nothing
    by, changed = perturb({"x": np.zeros((1, 4))}, np.random.default_rng(0))
    assert not by["x"].any()
    assert (changed["x"] == 0.25).sum() == 2


def test_normalised_infidelity_does_not_know_the_scale_and_the_plain_one_does() -> None:
    maps = {"x": np.repeat(10 * W, 2, axis=0)}
    perturb = noise(("x",), 0.3)
    np.testing.assert_allclose(infidelity(linear, {"x": X}, maps, perturb, normalize=True), 0, atol=1e-20)
    assert (infidelity(linear, {"x": X}, maps, perturb) > 0.1).all()


def test_a_map_of_zeros_misses_all_of_the_change() -> None:
    perturb = removed_squares(("x",), share=1.0)
    for normalize in (False, True):
        found = infidelity(linear, {"x": X}, {"x": np.zeros((2, 4))}, perturb, count=1, normalize=normalize)
        np.testing.assert_allclose(found, linear({"x": X}) ** 2)


def test_perturbations_of_other_inputs_and_none_at_all_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="is not what is explained"):
        infidelity(linear, {"x": X}, {"y": X}, noise(("x",), 1))
    with pytest.raises(InvalidArgument, match="count"):
        infidelity(linear, {"x": X}, {"x": X}, noise(("x",), 1), count=0)


def test_completeness_is_the_share_of_the_change_that_is_missed() -> None:
    maps = {"x": np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]), "y": np.array([[1.0], [0.0], [0.0]])}
    np.testing.assert_array_equal(completeness(maps, np.array([4.0, 0.0, 0.0])), [0.25, 0, np.inf])


# --- Robustness


def test_sensitivity_is_the_largest_or_the_mean_relative_change() -> None:
    x = np.array([[1.0, 0.0], [2.0, 0.0]])
    steps = iter([0.0, 1.0, 0.0, 1.0])

    def move(inputs: Inputs, _: np.random.Generator) -> Inputs:
        return {"x": np.asarray(inputs["x"], np.float64) + np.array([next(steps), 0.0])}

    np.testing.assert_allclose(max_sensitivity(quadratic, {"x": x}, move, count=2), [3.0, 5 / 4])
    np.testing.assert_allclose(avg_sensitivity(quadratic, {"x": x}, move, count=2), [1.5, 5 / 8])


def test_the_lipschitz_constant_of_a_square_is_found() -> None:
    x = np.array([[1.0], [-3.0]])
    found = local_lipschitz_estimate(quadratic, {"x": x}, near(("x",), 1e-4), count=5)
    # |x~^2 - x^2| / |x~ - x| = |x~ + x|, and x~ is 4e-4 away at most
    np.testing.assert_allclose(found, [2.0, 6.0], atol=1e-3)


def test_moves_are_within_the_radius_and_keep_the_type() -> None:
    x = np.zeros((3, 50), np.float32)
    moved = within(("x",), 0.25)({"x": x, "y": x}, np.random.default_rng(0))
    assert moved["x"].dtype == np.float32
    assert 0.2 < np.abs(np.asarray(moved["x"], np.float64)).max() <= 0.25
    assert moved["y"] is x


def test_other_classes_are_never_the_largest() -> None:
    scores = np.random.default_rng(0).normal(size=(500, 4))
    top = scores.argmax(axis=1)
    drawn = np.array(other_classes(scores))
    assert (drawn != top).all()
    assert all(100 < ((drawn - top) % 4 == k).sum() < 240 for k in (1, 2, 3))  # of 167 on average
    np.testing.assert_array_equal(other_classes(scores, least_likely=True), scores.argmin(axis=1))
    with pytest.raises(InvalidArgument, match="no other class"):
        other_classes(scores[:, :1])


# --- Complexity


def test_complexity_at_its_bounds() -> None:
    one, all_alike, nothing = np.eye(1, 8), np.full((1, 8), -2.0), np.zeros((1, 8))
    maps = {"x": np.concatenate([one, all_alike, nothing])}
    np.testing.assert_allclose(sparseness(maps), [7 / 8, 0, np.nan], atol=1e-12)
    np.testing.assert_allclose(complexity(maps), [0, math.log(8), np.nan], atol=1e-12)
    np.testing.assert_array_equal(effective_complexity(maps), [1, 8, 0])


# --- Localisation


def test_localisation_by_hand() -> None:
    values = np.array([[[4.0, -1.0], [-3.0, 2.0]]])
    masks = np.array([[[True, False], [True, False]]])
    assert pointing_game(values, masks) == 1
    assert pointing_game(values, ~masks) == 0
    assert attribution_localisation(values, masks) == pytest.approx(4 / 6)
    assert relevance_mass_accuracy(values, masks) == pytest.approx(7 / 10)
    assert relevance_rank_accuracy(values, masks) == 1.0  # 4 and -3 are the two largest
    other = np.array([[[True, True], [False, False]]])
    assert relevance_rank_accuracy(values, other) == 0.5
    assert intersection_over_union(values, other) == pytest.approx(1 / 3)


def test_equal_magnitudes_share_the_places_that_are_left() -> None:
    values = np.array([[5.0, -2.0, 2.0, 2.0, 0.0]])
    masks = np.array([[True, True, False, False, False]])
    # 5 is among the two largest, and of the three of magnitude 2 a third is; one of those lies in the mask
    assert relevance_rank_accuracy(values, masks) == pytest.approx((1 + 1 / 3) / 2)
    assert relevance_rank_accuracy(values[:, ::-1], masks[:, ::-1]) == pytest.approx((1 + 1 / 3) / 2)
    share = (1 + 1 / 3) / 2
    assert intersection_over_union(values, masks) == pytest.approx(share / (2 - share))


@pytest.mark.parametrize("function", [pointing_game, relevance_rank_accuracy, intersection_over_union])
@pytest.mark.parametrize("values", [[2.0, 2.0, 2.0], [-2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
def test_a_map_of_one_magnitude_has_no_largest_element(
    function: Callable[[Floats, NDArray[np.bool_]], Floats], values: list[float]
) -> None:
    for masks in ([True, False, False], [False, False, True]):
        assert np.isnan(function(np.array([values]), np.array([masks]))).all()


def test_nothing_has_no_place() -> None:
    functions = (
        pointing_game, attribution_localisation, relevance_mass_accuracy, relevance_rank_accuracy,
        intersection_over_union,
    )  # fmt: skip
    for function in functions:
        assert np.isnan(function(np.ones((1, 3)), np.zeros((1, 3), bool))).all()
        assert np.isnan(function(np.zeros((1, 3)), np.array([[True, False, False]]))).all()
        with pytest.raises(InvalidArgument, match=r"\[1, 2\]"):
            function(np.zeros((1, 3)), np.zeros((1, 2), bool))
        with pytest.raises(InvalidArgument, match="truth values"):
            function(np.zeros((1, 3)), np.zeros((1, 3)))  # type: ignore[arg-type]


# --- Random maps


def test_permuted_maps_hold_the_numbers_of_each_sample() -> None:
    maps = {"x": np.random.default_rng(0).normal(size=(4, 3, 5))}
    found = permuted(maps)["x"]
    assert not np.array_equal(found, maps["x"])
    np.testing.assert_array_equal(np.sort(found.reshape(4, -1)), np.sort(maps["x"].reshape(4, -1)))
