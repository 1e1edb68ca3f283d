"""The second stage of NIWT beside its mathematics: gradients, scales, limits, and what can be reached."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_attribution.client.niwt.domain_map import unit
from onnx_attribution.client.niwt.minimise import minimum
from onnx_attribution.client.niwt.weights import align, initial, loss_of

TOY = np.array([[[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]]])
WANTED, MEAN, PULL = np.array([[2.0, 2.0, -1.0]]), np.array([0.2, 0.1]), 1e-3


def test_the_loss_of_the_toy() -> None:
    start, _ = loss_of(MEAN[None], WANTED, TOY, MEAN, PULL)
    assert start[0] == pytest.approx(0.3037, abs=5e-5)
    near, _ = loss_of(np.array([[0.10009, 0.20016]]), WANTED, TOY, MEAN, PULL)
    assert near[0] == pytest.approx(1.0008e-5, rel=1e-3)


def test_the_toy_finds_its_direction_and_the_pull_its_norm() -> None:
    found = align(WANTED, TOY, MEAN, PULL, start=MEAN, steps=300, tolerance=1e-12)
    # Of all (c, 2 c) the nearest to (0.2, 0.1) is c = 0.08.
    np.testing.assert_allclose(found.weights, [[0.08, 0.16]], rtol=1e-3)
    assert found.loss[0] == pytest.approx(PULL / 2 * (0.12**2 + 0.06**2), rel=1e-4)
    assert found.cosine[0] > 1 - 1e-8


def test_the_gradient_is_that_of_differences() -> None:
    random = np.random.default_rng(0)
    M, wanted, mean = random.normal(size=(4, 5, 3)), random.normal(size=(2, 5)), random.normal(size=3)
    w, step = random.normal(size=(2, 3)), 1e-6
    _, slope = loss_of(w, wanted, M, mean, 0.3)
    for u, d in np.ndindex(w.shape):
        moved = np.zeros_like(w)
        moved[u, d] = step
        up, down = (loss_of(w + sign * moved, wanted, M, mean, 0.3)[0][u] for sign in (1, -1))
        assert slope[u, d] == pytest.approx((up - down) / (2 * step), abs=1e-7)


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_the_cosine_knows_no_scale(factor: float) -> None:
    random = np.random.default_rng(1)
    M, wanted, w = random.normal(size=(4, 5, 3)), random.normal(size=(2, 5)), random.normal(size=(2, 3))
    loss, slope = loss_of(w, wanted, M, np.zeros(3), 0)
    for given in ((w * factor, wanted, M), (w, wanted * factor, M), (w, wanted, M * factor)):
        np.testing.assert_allclose(loss_of(*given, np.zeros(3), 0)[0], loss, rtol=1e-12)
    np.testing.assert_allclose((slope * w).sum(axis=1), 0, atol=1e-12)
    assert (loss >= 0).all()
    assert (loss <= 2).all()


def test_an_endless_pull_leaves_the_mean() -> None:
    random = np.random.default_rng(2)
    M, wanted, mean = random.normal(size=(4, 5, 3)), random.normal(size=(2, 5)), random.normal(size=3)
    found = align(wanted, M, mean, 1e8, tolerance=1e-12)
    np.testing.assert_allclose(found.weights, np.stack([mean, mean]), atol=1e-6)


def test_importance_that_some_weights_have_is_reached() -> None:
    random = np.random.default_rng(3)
    M, w = random.normal(size=(1, 6, 3)), random.normal(size=(2, 3))
    found = align(w @ M[0].T, M, np.zeros(3), 0, size=2.5, steps=300, tolerance=1e-14)
    np.testing.assert_allclose(found.cosine, 1, atol=1e-9)
    np.testing.assert_allclose(found.weights, 2.5 * unit(w), atol=1e-4)


def test_where_importance_is_the_weights_so_is_what_is_found() -> None:
    wanted = np.random.default_rng(4).normal(size=(2, 7))
    found = align(wanted, np.eye(7)[None] / 49, wanted.mean(axis=0), 0, size=1.0)
    np.testing.assert_allclose(found.weights, unit(wanted), atol=1e-3)  # the tolerance of the search


def test_weights_are_held_at_a_norm() -> None:
    random = np.random.default_rng(5)
    M, wanted, mean = random.normal(size=(4, 5, 3)), random.normal(size=(2, 5)), random.normal(size=3)
    free, held = align(wanted, M, mean, 0.1), align(wanted, M, mean, 0.1, size=3.0)
    np.testing.assert_allclose(np.linalg.norm(held.weights, axis=1), 3, rtol=1e-12)
    assert (np.linalg.norm(free.weights, axis=1) < 3).all()
    again = align(wanted, M, mean, 0.1, size=3.0)
    assert (again.weights == held.weights).all()


def test_the_start_has_the_norm_of_the_mean() -> None:
    start = initial(WANTED, TOY, MEAN)
    np.testing.assert_allclose(np.linalg.norm(start, axis=1), np.linalg.norm(MEAN))
    np.testing.assert_allclose(
        unit(start), unit(np.array([[1.0, 2.0]])), atol=1e-2
    )  # a little ridge keeps it finite


def test_the_search_finds_the_minimum_of_rosenbrock() -> None:
    def valley(x: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = 1 - x[0], x[1] - x[0] ** 2
        return a * a + 100 * b * b, np.array([-2 * a - 400 * x[0] * b, 200 * b])

    found, value = minimum(valley, np.array([-1.2, 1.0]))
    np.testing.assert_allclose(found, [1, 1], atol=1e-5)
    assert value < 1e-10
