"""Names of units: from importance back to attributes, and what chance gives."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_attribution.client.niwt.names import average_precision, explained, inverse, named, precision


def world(units: int = 24, classes: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attributes, importance that has a unit for each attribute and noise elsewhere, and the units of the attributes.

    The first attribute is of nearly all classes.
    """
    random = np.random.default_rng(0)
    attributes = random.integers(0, 2, (classes, 4)).astype(float)
    attributes[:, 0] = random.random(classes) < 0.9
    importance = random.normal(0, 0.15, (classes, units))
    own = np.array([5, 9, 2, 17])
    importance[:, own] += attributes - 0.5
    return attributes, importance, own


def test_a_unit_has_the_name_of_its_attribute() -> None:
    attributes, importance, own = world()
    found = named(attributes, importance)
    assert found.name[own].tolist() == [0, 1, 2, 3]
    assert found.certain[own].all()


def test_scores_are_those_of_a_ridge_regression() -> None:
    """By the normal equations over units; the code solves them over classes."""
    attributes, importance, _ = world(units=20, classes=16)
    x = importance / np.linalg.norm(importance, axis=1, keepdims=True)
    x = x - x.mean(axis=0)
    y = attributes - attributes.mean(axis=0)
    strength = 0.3 * (x * x).sum() / len(x)
    found_map = np.linalg.solve(x.T @ x + strength * np.eye(20), x.T @ y)
    centred = found_map - found_map.mean(axis=0)
    np.testing.assert_allclose(inverse(attributes, importance, ridge=0.3).coefficients, centred, rtol=1e-9)
    found = named(attributes, importance, ridge=0.3, permutations=2)
    np.testing.assert_allclose(found.score, (centred / centred.std(axis=0)).max(axis=1), rtol=1e-9)


def test_units_of_noise_have_names_by_chance() -> None:
    attributes, importance, own = world()
    found = named(attributes, importance)
    others = np.delete(found.certain, own)
    assert (
        others.mean() <= 0.25
    )  # each is certain with 5 % by chance, and noise is alike for units of a class
    assert len(set(np.delete(found.name, own).tolist())) > 1  # not all the most frequent one


def test_of_random_importance_no_more_units_have_names_than_by_chance() -> None:
    beyond = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        found = named(random.integers(0, 2, (24, 5)).astype(float), random.normal(size=(24, 64)), seed=seed)
        beyond += int(found.certain.sum()) > found.chance
        assert 64 / 20 <= found.chance <= 16
    assert beyond <= 6  # 2 of 40 are to be expected; 7 or more happen once in 300 times
    attributes, importance, _ = world()
    found = named(attributes, importance)
    assert found.certain.sum() > found.chance


def test_names_know_no_scale_of_importance() -> None:
    attributes, importance, _ = world()
    one, other = named(attributes, importance), named(attributes, 7 * importance)
    assert (one.name == other.name).all()
    np.testing.assert_allclose(one.score, other.score)
    np.testing.assert_allclose(one.null, other.null)


def test_an_explanation_names_what_the_class_has() -> None:
    attributes, importance, _ = world()
    fitted = inverse(attributes, importance)
    k = int(np.flatnonzero((attributes[:, 1:] == [1, 0, 0]).all(axis=1))[0])
    (words,) = explained(fitted, importance[k : k + 1], ("large", "striped", "hooved", "aquatic"), most=2)
    assert "striped (+" in words
    assert "hooved" not in words
    (none,) = explained(fitted, fitted.importance[None] * 0, ("a", "b", "c", "d"), most=0)
    assert none == "no attribute in particular"


def test_held_out_attributes_are_told_above_chance_and_shuffled_ones_are_not() -> None:
    attributes, importance, _ = world()
    labels = np.repeat(np.arange(len(attributes)), 4)
    alpha = importance[labels] + np.random.default_rng(1).normal(0, 0.1, (len(labels), importance.shape[1]))
    found = precision(attributes, alpha, labels, permutations=120)
    assert found.mean > 0.9
    assert found.p < 0.01
    assert (found.p_of_each[1:] < 0.05).all()
    order = np.random.default_rng(2).permutation(len(attributes))
    assert precision(attributes[order], alpha, labels, permutations=120).p > 0.05


def test_average_precision_is_the_textbooks() -> None:
    scores = np.array([[0.9, 1.0], [0.8, 2.0], [0.7, 3.0], [0.1, 4.0]])
    truth = np.array([[True, True], [False, True], [True, True], [False, True]])
    found = average_precision(scores, truth)
    assert found[0] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert np.isnan(found[1])  # all have it: nothing to tell


def test_an_attribute_of_which_nothing_is_known_names_nothing() -> None:
    attributes, importance, _ = world()
    attributes[:, 3] = np.nan
    found = named(attributes, importance)
    assert 3 not in found.name[found.certain]
    assert np.isfinite(found.score).all()
