"""The first stage of NIWT: from attributes to importance."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_attribution.client.niwt.domain_map import fit, known, mean_of_units, means, unit


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray((unit(one) * unit(other)).sum(axis=1))


def test_a_linear_dependence_is_found() -> None:
    random = np.random.default_rng(0)
    attributes, w = random.integers(0, 2, (40, 5)).astype(float), random.normal(size=(5, 9))
    importance = unit(attributes @ w + random.normal(size=9))
    found = fit(attributes[:30], importance[:30], ridge=1e-6)
    assert (
        cosines(found(attributes[30:]), importance[30:]).min() > 0.97
    )  # unit vectors are no linear function


@pytest.mark.parametrize("hidden", [0, 8])
def test_the_norm_of_importance_does_not_matter(hidden: int) -> None:
    random = np.random.default_rng(1)
    attributes, importance = random.normal(size=(12, 4)), random.normal(size=(12, 6))
    sizes = random.uniform(2, 9, (12, 1))
    one = fit(attributes, unit(importance), hidden=hidden)
    other = fit(attributes, unit(importance) * sizes, hidden=hidden)
    np.testing.assert_allclose(one(attributes), other(attributes), atol=1e-3)  # rounding turns the search


def test_means_of_unit_vectors_say_all_of_the_images() -> None:
    random = np.random.default_rng(2)
    alpha, labels, said = random.normal(size=(50, 6)), np.arange(50) % 3, random.normal(size=(3, 6))
    each = np.array([1 - cosines(alpha[labels == c], said[c : c + 1]).mean() for c in range(3)])
    np.testing.assert_allclose(1 - (mean_of_units(alpha, labels, range(3)) * unit(said)).sum(axis=1), each)


def test_the_fit_is_a_minimum_of_its_loss() -> None:
    random = np.random.default_rng(3)
    attributes, wanted = random.normal(size=(12, 4)), unit(random.normal(size=(12, 6)))
    found = fit(attributes, wanted, ridge=0.1)
    ((w, b),) = found.layers

    def loss(w: np.ndarray) -> float:
        a = (attributes - found.mean) @ w + b
        norms = np.linalg.norm(a, axis=1)
        return float(np.mean(1 - cosines(a, wanted) + (norms - 1) ** 2 / 2) + 0.05 * (w * w).sum())

    for _ in range(20):
        assert loss(w + random.normal(0, 1e-2, w.shape)) > loss(w)


def test_a_hidden_layer_fits_what_no_linear_map_can() -> None:
    attributes = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    either = np.array([[1.0, 0], [0, 1], [0, 1], [1, 0]])
    assert cosines(fit(attributes, either, ridge=1e-4)(attributes), either).min() < 0.8
    assert cosines(fit(attributes, either, ridge=1e-4, hidden=16)(attributes), either).min() > 0.95
    again = fit(attributes, either, ridge=1e-4, hidden=16)
    assert (again(attributes) == fit(attributes, either, ridge=1e-4, hidden=16)(attributes)).all()


def test_unknown_attributes_take_the_mean_of_the_others() -> None:
    attributes = np.array([[1.0, np.nan], [0.0, 4.0], [-1.0, 2.0]])
    np.testing.assert_array_equal(means(attributes), [0.5, 3])
    np.testing.assert_array_equal(known(attributes, means(attributes)), [[1, 3], [0, 4], [0.5, 2]])
    assert np.isfinite(fit(attributes, np.eye(3))(np.full((1, 2), np.nan))).all()
    np.testing.assert_array_equal(means(np.full((2, 1), np.nan)), [0])


def test_a_ridge_without_end_leaves_the_mean_importance() -> None:
    random = np.random.default_rng(4)
    attributes, wanted = random.normal(size=(6, 3)), unit(random.normal(size=(6, 4)))
    said = fit(attributes, wanted, ridge=1e6)(attributes)
    np.testing.assert_allclose(cosines(said, np.tile(wanted.sum(axis=0), (6, 1))), 1, atol=1e-3)
