"""Paths whose rows stay inside a program: what its runs are, what it gives, and what is made of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.graph_tools.programs.segments import segments_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.rows.adaptive_sums import AdaptiveSums
from onnx_attribution.server.engine.rows.summed import Run, runs
from tests.methods.toys import model
from tests.server.engine.rows.test_adaptive import networks

Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]
TANH = "(double[N,3] x) => (double[N,1] y) { h = Mul(x, a) t = Tanh(h) y = MatMul(t, v) }"
TURNED = """(double[3,N] x) => (double[1,N] y) {
    h = Mul(x, column)
    t = Tanh(h)
    y = MatMul(row, t)
}"""


def given(run: Run, g: Curve, h: Curve) -> dict[str, Floats]:
    """What the program would give of a layer `h` whose gradients and activations are these."""
    low, high = (np.array([pair[k] for pair, _ in run.segments]) for k in (0, 1))
    sign = np.array([sign for _, sign in run.segments])
    step = h(high) - h(low)
    piece, varies = 0.5 * (g(low) + g(high)) * step, (g(high) - g(low)) * step
    return {
        "sum/h": (sign @ piece)[None],
        "square/h": (sign @ varies**2)[None],
        "varies/h": np.abs(varies).sum(axis=1),
        "size/h": np.abs(piece).sum(axis=1),
    }


def followed(
    g: Curve, h: Curve, change: float | None = None, tolerance: float = 0.01, limit: int = 8, most: int = 600
) -> tuple[AdaptiveSums, int]:
    """The sums of one layer after all the rows that they want, and how many rows were evaluated."""
    found, evaluated = AdaptiveSums(tolerance=tolerance, layers=["h"]), 0
    if change is not None:
        found.note_change(change, {"h": True})
    while len(wanted := found.wanted()) and found.rows < most:
        planned = list(found.runs(limit, wanted.tolist()))
        found.begin()
        for run in planned:
            evaluated += len(run.alphas)
            found.take(run, given(run, g, h))
        found.end(wanted.tolist())
    return found, evaluated


# --- runs


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 9, 40])
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_runs_take_off_what_is_split_and_add_its_parts(limit: int, parts: int) -> None:
    nodes = np.linspace(0, 1, 17).tolist()
    split = [(0, 1), (1, 2), (5, 6), (15, 16)]
    fresh = [nodes[a] + (nodes[b] - nodes[a]) * k / parts for a, b in split for k in range(1, parts)]
    found = list(runs(nodes, fresh, limit))
    assert all(len(run.alphas) <= max(limit, 2) for run in found)
    assert all(set(pair) <= set(run.alphas) for run in found for pair, _ in run.segments)
    every = [each for run in found for each in run.segments]
    assert {pair for pair, sign in every if sign < 0} == {(nodes[a], nodes[b]) for a, b in split}
    after = set(itertools.pairwise(sorted({*nodes, *fresh})))
    assert {pair for pair, sign in every if sign > 0} == after - set(itertools.pairwise(nodes))
    assert len(every) == len(split) * (parts + 1)


@pytest.mark.parametrize(("limit", "rows"), [(33, 33), (9, 36), (3, 48), (2, 64)])
def test_neighbours_share_the_row_between_them(limit: int, rows: int) -> None:
    found = list(runs((), np.linspace(0, 1, 33).tolist(), limit))
    assert sum(len(run.alphas) for run in found) == rows
    (whole,) = runs([0.0, 0.5, 1.0], [0.25, 0.75], 5)
    assert whole.alphas == (0, 0.25, 0.5, 0.75, 1)


def test_halves_of_a_run_are_the_run() -> None:
    (run,) = runs([0.0, 0.5, 1.0], [0.25, 0.75], 5)
    halves = run.halves()
    assert [each for half in halves for each in half.segments] == list(run.segments)
    assert all(set(half.alphas) == {a for pair, _ in half.segments for a in pair} for half in halves)


# --- the program


@pytest.mark.parametrize("text", [TANH, TURNED], ids=["rows in front", "rows behind"])
@pytest.mark.parametrize("conductance", [True, False])
def test_a_program_sums_segments_and_scores_each(text: str, conductance: bool) -> None:
    """In closed form: g = v (1 - tanh(h)^2), h = a x."""
    rng = np.random.default_rng(0)
    a, v = rng.normal(size=3), rng.normal(size=3)
    proto = model(text, a=a, v=v[:, None]) if text is TANH else model(text, column=a[:, None], row=v[None])
    loaded, front = LoadedModel(proto, Backend("cpu", 1)), text is TANH
    loaded.rows_of(["x", "h", "y"])
    choice = Choice(("x",), ("h",), "y")
    program = segments_program(loaded.network, choice, conductance=conductance)
    x = rng.normal(size=3)
    run = Run((0.0, 0.25, 0.5, 1.0), (((0.0, 0.5), -1), ((0.0, 0.25), 1), ((0.25, 0.5), 1), ((0.5, 1.0), 1)))
    rows = np.outer(run.alphas, x)
    weight = np.ones((4, 1))
    session = loaded.backend.session(program.model)
    feeds = {"x": rows if front else rows.T, "target/weight": weight if front else weight.T}
    found = {name: np.asarray(a, np.float64) for name, a in session.run({**feeds, **run.inputs()}).items()}
    wanted = given(
        run,
        lambda at: v / np.cosh(np.outer(at, a * x)) ** 2,
        lambda at: np.outer(at, a * x) if conductance else np.repeat(at[:, None], 3, axis=1),
    )
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found["target/value"], np.tanh(rows * a) @ v, rtol=1e-9)


# --- what is made of it


def column(curve: Curve) -> Curve:
    return lambda alphas: curve(alphas)[:, None]


@pytest.mark.parametrize(
    ("g", "h", "integral", "rows"),
    [
        (lambda a: np.full_like(a, 3.0), lambda a: 2 * a - 1, 6, 8),
        (np.exp, np.sin, (np.e * (np.sin(1) + np.cos(1)) - 1) / 2, 20),
        (lambda a: 1.0 * (a > 1 / np.sqrt(3)), lambda a: a, 1 - 1 / np.sqrt(3), 80),
        (lambda a: 50 / np.cosh(50 * (a - 0.3)) ** 2, lambda a: a, np.tanh(35) - np.tanh(-15), 250),
        (lambda a: 1 / (a + 1e-4), lambda a: a, np.log1p(1e4), 400),
    ],
    ids=["linear", "smooth", "kink", "tanh", "log near 0"],
)
def test_sums_are_within_their_estimates(g: Curve, h: Curve, integral: float, rows: int) -> None:
    found, evaluated = followed(column(g), column(h), change=integral)
    assert found.converged
    assert evaluated <= rows
    assert abs(found.sums()["h"][0] - integral) <= found.errors()["h"] + 1e-9
    assert found.errors()["h"] <= 0.01 * integral


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


def test_squares_that_are_taken_off_leave_nothing_behind() -> None:
    """All of the change lies in one ten-thousandth of the path, where g varies a thousand times as much as at last;
    the program rounds to float32."""

    def g(a: Floats) -> Floats:
        return np.stack([1e4 * np.exp(-1e4 * a), 1 + a], axis=1).astype(np.float32).astype(np.float64)

    found, _ = followed(g, lambda a: np.stack([a, a], axis=1), tolerance=1e-3)
    error = np.abs(found.sums()["h"] - [1 - np.exp(-1e4), 1.5]).sum()
    assert found.converged
    assert error <= found.errors()["h"] <= 1e-3 * 2.5 + 1e-6


def test_the_size_of_runs_moves_no_number() -> None:
    g, h, change = networks("relu", 1)[0]
    large, _ = followed(g, h, change=change, limit=64)
    for limit in (2, 3, 7):
        small, _ = followed(g, h, change=change, limit=limit)
        assert small.rows == large.rows
        np.testing.assert_allclose(small.sums()["h"], large.sums()["h"], rtol=1e-9, atol=1e-12)


def test_what_is_not_finite_is_not_called_converged() -> None:
    def g(a: Floats) -> Floats:
        return np.where(np.abs(a - 0.5) < 0.1, np.nan, 1.0)[:, None]

    with np.errstate(invalid="ignore"):
        found, _ = followed(g, lambda a: a[:, None], most=100)
    assert not found.converged
    assert not np.isfinite(found.errors()["h"])


def test_a_level_comes_whole_or_not_at_all() -> None:
    found = AdaptiveSums(tolerance=1e-6, layers=["h"])
    assert found.wanted(2).tolist() == []
    assert found.wanted(3).tolist() == [0, 0.5, 1]
