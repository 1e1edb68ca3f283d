"""Rows of a path where they are needed: exact where they must be, honest everywhere, each row evaluated once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.engine.rows import chebyshev
from onnx_attribution.server.engine.rows.adaptive import Adaptive

Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]


def followed(
    g: Curve, h: Curve, tolerance: float = 0.01, change: float | None = None, most: int = 600, **given: Any
) -> tuple[Adaptive, list[Floats]]:
    """`Adaptive` after all the rows that it wants of one layer of `[rows, units]`, and what it wanted."""
    found = Adaptive(conductance=True, tolerance=tolerance, layers=["h"], **given)
    if change is not None:
        found.note_change(change, {"h": True})
    return found, drive(found, lambda alphas: {"h": (g(alphas), h(alphas))}, most)


def drive(
    found: Adaptive, rows: Callable[[Floats], dict[str, tuple[Floats, Floats]]], most: int = 600
) -> list[Floats]:
    asked: list[Floats] = []
    while len(alphas := found.wanted()) and found.rows < most:
        asked.append(alphas)
        found.add(alphas, rows(alphas))
    every = np.concatenate(asked)
    assert len(np.unique(every)) == len(every), "a row was wanted twice"
    assert all((np.diff(alphas) > 0).all() for alphas in asked)
    return asked


def exponential(alphas: Floats) -> Floats:
    return np.asarray(np.exp(alphas))


def column(curve: Curve) -> Curve:
    return lambda alphas: curve(alphas)[:, None]


def one(found: Adaptive) -> float:
    return float(found.sums()["h"][0])


# --- the levels


@pytest.mark.parametrize("level", [1, 2, 4, 8, 16, 64])
def test_a_level_is_exact_for_polynomials_of_its_degree(level: int) -> None:
    alphas = chebyshev.nodes(level)
    for p in range(level + 1):
        assert chebyshev.weights(level) @ alphas**p == pytest.approx(1 / (p + 1), rel=1e-12)
        q = level - p  # g = a^p, h = a^q
        expected = q / level if q else 0
        assert alphas**p @ chebyshev.products(level) @ alphas**q == pytest.approx(expected, abs=1e-11)


def test_levels_nest_exactly_and_lie_symmetrically() -> None:
    finest = chebyshev.nodes(64)
    assert set(chebyshev.nodes(4)) < set(chebyshev.nodes(8)) < set(finest)
    np.testing.assert_allclose(finest, 1 - finest[::-1], atol=1e-15)


def test_an_end_that_others_extrapolate_to_does_not_jump() -> None:
    for level in (2, 8, 16):
        np.testing.assert_allclose(
            chebyshev.jumps(level) @ chebyshev.nodes(level) ** (level - 1), 0, atol=1e-12
        )


# --- closed forms


def test_a_linear_path_takes_three_rows_and_is_exact() -> None:
    found, _ = followed(column(lambda a: np.full_like(a, 3.0)), column(lambda a: 2 * a - 1))
    assert found.rows == 3
    assert found.converged
    assert one(found) == pytest.approx(6, rel=1e-12)
    assert found.errors()["h"] <= 0.001 * 6  # no estimate says less than a twentieth of what is tolerated


def test_a_constant_path_sums_to_zero_without_error() -> None:
    found, _ = followed(column(lambda a: np.full_like(a, 3.0)), column(lambda a: np.ones_like(a)), change=0.0)
    assert found.converged
    assert one(found) == 0 == found.errors()["h"]


@pytest.mark.parametrize(
    ("g", "h", "integral", "rows"),
    [
        (lambda a: a**2, lambda a: a**2, 0.5, 5),
        (np.exp, lambda a: a, np.e - 1, 9),
        (np.exp, np.sin, (np.e * (np.sin(1) + np.cos(1)) - 1) / 2, 9),
    ],
    ids=["quadratic", "exp", "exp by sin"],
)
def test_smooth_paths_take_a_level(g: Curve, h: Curve, integral: float, rows: int) -> None:
    found, _ = followed(column(g), column(h), tolerance=0.01)
    assert found.rows <= rows
    assert found.converged
    assert abs(one(found) - integral) <= min(found.errors()["h"], 0.01 * abs(integral))


@pytest.mark.parametrize(
    ("g", "h", "integral", "rows"),
    [
        (lambda a: 1.0 * (a > 1 / np.sqrt(3)), lambda a: a, 1 - 1 / np.sqrt(3), 40),
        (lambda a: 50 / np.cosh(50 * (a - 0.3)) ** 2, lambda a: a, np.tanh(35) - np.tanh(-15), 80),
        (lambda a: 0.5 / np.sqrt(np.maximum(a, 1e-30)), lambda a: a, 1.0, 85),
        (lambda a: 0.5 / np.sqrt(a), lambda a: a, 1.0, 85),
        (lambda a: 1 / (a + 1e-6), lambda a: a, np.log1p(1e6), 150),
    ],
    ids=["kink", "tanh", "sqrt, finite at 0", "sqrt, infinite at 0", "log near 0"],
)
def test_paths_that_are_not_smooth_are_split(g: Curve, h: Curve, integral: float, rows: int) -> None:
    with np.errstate(divide="ignore"):
        found, _ = followed(column(g), column(h), change=integral)
    assert found.converged
    assert found.rows <= rows
    assert abs(one(found) - integral) <= found.errors()["h"] + 1e-9
    assert found.errors()["h"] <= 0.01 * integral


def test_a_gradient_that_is_of_another_kind_at_zero_does_not_spoil_the_sum() -> None:
    """A network without biases at a baseline of zeros: every gradient along the way is the same, and 0 at the end."""
    g: Curve = lambda a: np.outer(a > 0, [1.0, -2.0])  # noqa: E731
    found, _ = followed(g, lambda a: np.outer(a, [3.0, 1.0]))
    assert found.rows <= 17  # fewer cannot tell it from a kink anywhere before the second row
    np.testing.assert_allclose(found.sums()["h"], [3, -2], rtol=1e-9)


def test_what_three_rows_do_not_show_the_change_does() -> None:
    """g is zero at 0, 1/2 and 1 and at all rows of five; only the change tells that there is something between."""
    place = 0.3

    def g(a: Floats) -> Floats:
        return (200 / np.cosh(200 * (a - place)) ** 2)[:, None]

    blind, _ = followed(g, lambda a: a[:, None], change=2.0)
    assert blind.converged
    assert one(blind) == pytest.approx(2, rel=0.01)
    early = Adaptive(conductance=True, tolerance=0.01, layers=["h"])
    early.note_change(2.0, {"h": True})
    early.add(alphas := early.wanted(), {"h": (g(alphas), alphas[:, None])})
    assert not early.converged
    assert early.errors()["h"] > 1.9
    assert len(early.wanted())


def test_swapped_ends_negate_the_sum() -> None:
    def g(a: Floats) -> Floats:
        return np.stack([np.maximum(a - 0.37, 0), np.exp(-9 * a)], axis=1)

    def h(a: Floats) -> Floats:
        return np.stack([np.sin(2 * a), a**2], axis=1)

    forth, _ = followed(g, h)
    back, _ = followed(lambda a: g(1 - a), lambda a: h(1 - a))
    np.testing.assert_allclose(back.sums()["h"], -forth.sums()["h"], rtol=1e-9)
    assert back.rows == forth.rows


def test_a_jump_of_both_is_left_in_the_estimate_without_a_row_too_many() -> None:
    """The integral over a jump of g and h at one place is a convention; no row narrows it down."""
    step = column(lambda a: np.where(a > 0.3, 1.0, 0.0))
    found, _ = followed(step, lambda a: step(a) + 0.01 * a[:, None])
    assert not found.converged
    assert found.rows <= 40
    assert abs(one(found) - 0.507) <= found.errors()["h"]


# --- the interface


def test_levels_reuse_every_row_and_so_does_splitting() -> None:
    _, asked = followed(column(lambda a: np.maximum(a - 0.377, 0)), column(lambda a: a), tolerance=1e-4)
    assert [len(alphas) for alphas in asked[:3]] == [3, 2, 4]
    assert set(np.concatenate(asked[:3])) == set(chebyshev.nodes(8))


def test_few_rounds_take_more_rows_each_and_find_the_same() -> None:
    kink = (column(lambda a: np.maximum(a - 0.377, 0)), column(lambda a: a))
    slow, many = followed(*kink, tolerance=1e-4)
    quick, few = followed(*kink, tolerance=1e-4, few_rounds=True)
    assert [len(alphas) for alphas in few[:2]] == [3, 6]
    assert len(few) < len(many)
    assert one(quick) == pytest.approx(one(slow), rel=2e-4)


def test_mean_gradients_are_judged_by_what_they_give_with_the_way() -> None:
    straight = np.array([[2.0, 0.0]])
    found = Adaptive(conductance=False, tolerance=1e-3, layers=["x"], straight={"x": straight})
    drive(found, lambda a: {"x": (np.stack([np.exp(a), 1e3 * (a > 0.123)], axis=1)[:, None], a)})
    mean = found.sums()["x"]
    assert mean.shape == (1, 2)
    assert abs(mean[0, 0] - (np.e - 1)) * 2 <= found.errors()["x"] <= 1e-3 * 2 * (np.e - 1)
    assert found.rows <= 9  # the second unit contributes nothing, whatever its gradient does


def test_several_layers_share_their_rows_until_all_have_converged() -> None:
    found = Adaptive(conductance=True, tolerance=0.01, layers=["a", "b"])

    def rows(a: Floats) -> dict[str, tuple[Floats, Floats]]:
        return {
            "a": (np.exp(a)[:, None], a[:, None]),
            "b": (1.0 * (a > 0.31)[:, None, None], a[:, None, None]),
        }

    drive(found, rows)
    sums, errors = found.sums(), found.errors()
    assert found.converged
    assert sums["a"].shape == (1,)
    assert sums["b"].shape == (1, 1)
    assert abs(sums["a"][0] - (np.e - 1)) <= errors["a"]
    assert abs(sums["b"][0, 0] - 0.69) <= errors["b"] <= 0.0069


def test_a_ray_takes_the_row_at_one() -> None:
    found, asked = followed(column(lambda a: np.ones_like(a)), column(lambda a: 4 * a), ray=[1.0], change=4.0)
    assert [list(alphas) for alphas in asked] == [[1.0]]
    assert found.how == "one row"
    assert found.converged
    assert one(found) == 4


def test_a_ray_to_a_shifted_target_takes_its_ends() -> None:
    def g(a: Floats) -> Floats:
        return np.where(a > 0, 1.0, np.nan)  # what a kink at zero gives

    found, asked = followed(column(g), column(lambda a: 4 * a), ray=[0.0, 1.0], change=4.0)
    assert [list(alphas) for alphas in asked] == [[0.0, 1.0]]
    assert found.converged
    assert one(found) == 4


def test_a_ray_that_is_none_is_found_out_by_the_change() -> None:
    found, _ = followed(column(exponential), column(lambda a: a), ray=[1.0], change=np.e - 1)
    assert one(found) == pytest.approx(np.e - 1, rel=0.01)
    assert found.rows > 1


def test_a_rule_that_is_wrong_by_a_twentieth_of_a_percent_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = chebyshev.products
    monkeypatch.setattr(chebyshev, "products", lambda level: 1.0005 * right(level))
    found, _ = followed(column(exponential), column(lambda a: a), tolerance=1e-4, change=np.e - 1)
    assert abs(one(found) - (np.e - 1)) <= found.errors()["h"]
    assert found.errors()["h"] <= 1e-4 * (np.e - 1)
    assert found.how == "split"


def test_what_is_not_finite_is_not_called_converged() -> None:
    found, _ = followed(
        column(lambda a: np.where(abs(a - 0.5) < 0.1, np.nan, 1.0)), column(lambda a: a), most=100
    )
    assert not found.converged
    assert not np.isfinite(found.errors()["h"])


# --- estimates


def networks(kind: str, count: int) -> list[tuple[Curve, Curve, float]]:
    """Random networks of one hidden layer whose output goes through the function again: g and h of the hidden units."""
    found: list[tuple[Curve, Curve, float]] = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        a, b, w = rng.normal(size=16), rng.normal(size=16), rng.normal(size=(4, 16))
        c, v = rng.normal(size=4), rng.normal(size=4)
        f, d = (
            (np.tanh, lambda z: 1 / np.cosh(z) ** 2) if kind == "tanh" else (_relu, lambda z: 1.0 * (z > 0))
        )
        scale = 3.0 if kind == "tanh" else 1.0

        found.append(_network(f, d, scale * a, scale * b, w, c, v))
    return found


def _network(
    f: Curve, d: Curve, a: Floats, b: Floats, w: Floats, c: Floats, v: Floats
) -> tuple[Curve, Curve, float]:
    def h(t: Floats) -> Floats:
        return f(np.outer(t - 0.4, a) + 0.3 * b)

    def g(t: Floats) -> Floats:
        return np.asarray((d(h(t) @ w.T + c) * v) @ w)

    ends = f(h(np.array([0.0, 1.0])) @ w.T + c) @ v
    return g, h, float(ends[1] - ends[0])


def _relu(z: Floats) -> Floats:
    return np.maximum(z, 0)


@pytest.mark.parametrize("kind", ["tanh", "relu"])
def test_estimates_cover_in_95_of_100_networks(kind: str) -> None:
    fine = np.linspace(0, 1, 4001)
    covered, ratios = 0, []
    for g, h, change in networks(kind, 40):
        G, H = g(fine), h(fine)
        expected = (0.5 * (G[1:] + G[:-1]) * np.diff(H, axis=0)).sum(axis=0)
        found, _ = followed(g, h, change=change)
        error, estimate = np.abs(found.sums()["h"] - expected).sum(), found.errors()["h"]
        covered += error <= estimate
        ratios.append(estimate / max(error, 1e-12))
    assert covered >= 38
    assert np.median(ratios) <= 20  # smooth paths do better than the level before could tell


# --- at any time


def test_what_is_known_so_far_can_be_asked_for_at_any_time() -> None:
    found = Adaptive(conductance=True, tolerance=1e-6, layers=["h"])
    assert not found.converged
    assert found.errors() == {"h": np.inf}
    for alphas in ([0.0], [1.0]):  # a part of what is wanted
        found.add(alphas, {"h": (np.exp(alphas)[:, None], np.array(alphas)[:, None])})
    assert list(found.wanted()) == [0.5]
    assert one(found) == pytest.approx((1 + np.e) / 2)
    assert found.errors() == {"h": np.inf}
    found.add([0.5], {"h": (np.exp([0.5])[:, None], np.array([0.5])[:, None])})
    assert abs(one(found) - (np.e - 1)) <= found.errors()["h"] < 1


def test_rows_beside_those_wanted_are_taken_in_once_segments_are_split() -> None:
    g = column(lambda a: np.where(a > 0.3141, 1.0, 0.0))
    found = Adaptive(conductance=True, tolerance=1e-3, layers=["h"])
    extra = np.array([0.314, 0.3142])
    found.add(extra, {"h": (g(extra), extra[:, None])})
    drive(found, lambda a: {"h": (g(a), a[:, None])})
    assert one(found) == pytest.approx(0.6859, abs=2e-4)
    assert found.rows <= 20


SMOOTH_WAYS: tuple[Curve, ...] = (
    lambda a: 1 / (1 + np.exp(-40 * (a - 0.3))),
    lambda a: 1 / (1 + np.exp(-300 * (a - 0.02))),
    lambda a: np.sin(14 * a),
    lambda a: 1 / (1 + (25 * (a - 0.6)) ** 2),
)


@pytest.mark.parametrize("tolerance", [0.03, 0.003])
def test_networks_without_kinks_take_less_than_half_of_the_rows(tolerance: float) -> None:
    weights = np.linspace(-1, 2, 7)
    fine = np.concatenate([np.linspace(0, 1 / 16, 40_001), np.linspace(1 / 16, 1, 40_001)[1:]])
    rows = {False: 0, True: 0}
    for way in SMOOTH_WAYS:

        def g(a: Floats, way: Curve = way) -> Floats:
            return np.exp(np.outer(way(a), weights))

        def h(a: Floats, way: Curve = way) -> Floats:
            return np.outer(way(a), np.sign(weights)) + np.outer(a, np.linspace(0, 1, 7))

        gs, hs = g(fine), h(fine)
        exact = (0.5 * (gs[1:] + gs[:-1]) * np.diff(hs, axis=0)).sum(axis=0)
        for smooth in rows:
            found, _ = followed(g, h, tolerance, change=float(exact.sum()), smooth=smooth)
            assert found.converged
            assert np.abs(found.sums()["h"] - exact).sum() <= tolerance * np.abs(exact).sum()
            rows[smooth] += found.rows
    assert rows[True] < rows[False] / 2


def test_rows_that_are_not_finite_are_summed_as_those_of_any_network() -> None:
    def g(a: Floats) -> Floats:
        return np.stack([np.where(a > 0, np.exp(9 * a), np.nan), np.cos(9 * a)], axis=1)

    found, _ = followed(g, lambda a: np.stack([a, a], axis=1), smooth=True)
    exact = np.array([(np.exp(9) - 1) / 9, np.sin(9) / 9])
    assert np.abs(found.sums()["h"] - exact).sum() <= found.errors()["h"] <= 0.011 * np.abs(exact).sum()
