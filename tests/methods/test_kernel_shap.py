"""Shapley values of groups: exact where all coalitions fit, honest where some are drawn, and the same whatever shares a
run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.rows import evaluate
from onnx_attribution.values import AttributionRequest, References, Target
from tests.definitions.kernel_shap import shapley
from tests.methods.test_occlusion import forest, trees
from tests.methods.toys import Floats, model, values

RNG = np.random.default_rng(0)
HIDDEN, OUT = RNG.normal(size=(12, 8)), RNG.normal(size=(8, 2))
MIX = "(double[N,K] x) => (double[N,2] y) { a = MatMul(x, A) h = Tanh(a) q = Mul(h, h) b = MatMul(q, B) y = Exp(b) }"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        for size in (5, 12):
            made.add(f"mix{size}", mixed(size))
        made.add(
            "linear",
            model("(double[N,40] x) => (double[N,1] y) { y = MatMul(x, w) }", w=np.arange(40.0)[:, None]),
        )
        made.add("product", model("(double[N,2] a, double[N,1] b) => (double[N,2] y) { y = Mul(a, b) }"))
        yield made


def mixed(size: int) -> onnx.ModelProto:
    return model(MIX.replace("K", str(size)), A=HIDDEN[:size] / 2, B=OUT / 3)


def of_mixed(x: Floats) -> Floats:
    return np.asarray(np.exp(np.tanh(x @ (HIDDEN[: x.shape[-1]] / 2)) ** 2 @ (OUT / 3))[..., 1])


def asked(engine: Engine, name: str, x: Any, baseline: Any = 0.0, **changed: Any) -> Any:
    target = changed.pop("target", 1)
    return engine.attribute(
        AttributionRequest(name, {"x": x}, "kernel_shap", target=target, baselines={"x": baseline}, **changed)
    )


def exact(x: Floats, low: Floats, ids: Any) -> Floats:
    """Of one sample the Shapley value of each element's group; of all coalitions at once, by the number of each."""
    players = sorted({int(k) for k in ids})
    chosen = (np.arange(2 ** len(players))[:, None] >> np.arange(len(players))) & 1
    there = chosen[:, np.searchsorted(players, ids)].astype(bool)
    gains = of_mixed(np.where(there, x, low))
    place = {player: k for k, player in enumerate(players)}
    found = shapley(players, lambda some: float(gains[sum(1 << place[one] for one in some)]))
    return np.array([found[int(k)] for k in ids])


# --- All coalitions


@pytest.mark.parametrize("count", [None, 30])
def test_with_all_coalitions_they_are_shapley_values(engine: Engine, count: int | None) -> None:
    x, low = np.random.default_rng(1).normal(size=(2, 3, 5))
    answer = asked(engine, "mix5", x, low, coalitions=count)
    wanted = np.stack([exact(high, base, np.arange(5.0)) for high, base in zip(x, low, strict=True)])
    np.testing.assert_allclose(values(answer), wanted, rtol=1e-9, atol=1e-12)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(1.0005 * values(answer), wanted, rtol=1e-9, atol=1e-12)
    layer = answer.layers["x"]
    np.testing.assert_allclose(layer.residual, 0, atol=1e-12)
    np.testing.assert_allclose(layer.error_estimate, 0, atol=1e-12)
    assert answer.evaluations == 3 * 32
    assert answer.warnings == ()


def test_groups_are_the_players_and_their_elements_have_their_values(engine: Engine) -> None:
    x, low = np.random.default_rng(2).normal(size=(2, 2, 12))
    ids = np.arange(12) % 5
    answer = asked(engine, "mix12", x, low, groups={"x": ids})
    wanted = np.stack([exact(high, base, ids) for high, base in zip(x, low, strict=True)])
    np.testing.assert_allclose(values(answer), wanted, rtol=1e-9, atol=1e-12)
    assert answer.evaluations == 2 * 32
    windows = asked(engine, "mix12", x, low, windows={"x": (4,)})
    wanted = np.stack([exact(high, base, np.arange(12) // 4) for high, base in zip(x, low, strict=True)])
    np.testing.assert_allclose(values(windows), wanted, rtol=1e-9, atol=1e-12)


def test_groups_may_lie_in_several_inputs(engine: Engine) -> None:
    """y = a b: of a group each, a b at both, a b₀ and a₀ b at one."""
    answer: Any = engine.attribute(
        AttributionRequest("product", {"a": np.array([[3.0, 5]]), "b": np.array([[7.0]])}, "kernel_shap",
                           baselines={"a": np.array([[1.0, 5]]), "b": np.array([[2.0]])}, target=0)
    )  # fmt: skip
    a = (3 * 7 - 1 * 7 + 3 * 2 - 1 * 2) / 2
    np.testing.assert_allclose(answer.layers["a"].values, [[a, 0]], rtol=1e-12)
    np.testing.assert_allclose(answer.layers["b"].values, [[3 * 7 - 1 * 2 - a]], rtol=1e-12)
    assert answer.joint_residual is not None
    np.testing.assert_allclose(answer.joint_residual, 0, atol=1e-12)


def test_what_is_at_its_baseline_is_no_player(engine: Engine) -> None:
    x = np.random.default_rng(3).normal(size=(3, 12))
    low = x.copy()
    low[0, :4], low[1, 7] = 0.5, 0.25
    answer = asked(engine, "mix12", x, low)
    assert answer.evaluations == (2 + 14) + 2 + 2
    wanted = np.zeros((3, 12))
    wanted[0, :4] = exact(x[0], low[0], np.where(np.arange(12) < 4, np.arange(12), 99))[:4]
    wanted[1, 7] = of_mixed(x[1:2])[0] - of_mixed(low[1:2])[0]
    np.testing.assert_allclose(values(answer), wanted, rtol=1e-9, atol=1e-12)


def test_over_references_they_are_the_mean(engine: Engine) -> None:
    x = np.random.default_rng(4).normal(size=(2, 5))
    lows = np.random.default_rng(5).normal(size=(4, 5))
    answer = asked(engine, "mix5", x, References(lows))
    wanted = np.stack([np.mean([exact(high, low, np.arange(5.0)) for low in lows], axis=0) for high in x])
    np.testing.assert_allclose(values(answer), wanted, rtol=1e-9, atol=1e-12)
    assert (answer.layers["x"].spread > 0).all()


def test_targets_share_the_coalitions(engine: Engine) -> None:
    x = np.random.default_rng(6).normal(size=(2, 5))
    hidden = Target("h", 3)
    several: Any = engine.attribute(
        AttributionRequest("mix5", {"x": x}, "kernel_shap", targets=[0, 1, hidden])
    )
    assert several.evaluations == 2 * 32
    for k, target in enumerate((0, 1, hidden)):
        alone = asked(engine, "mix5", x, target=target)
        np.testing.assert_allclose(
            several.layers["x"].values[k], alone.layers["x"].values, rtol=1e-9, atol=1e-12
        )


def test_a_forest_has_values_though_it_has_no_derivative(engine: Engine) -> None:
    engine.add("forest", forest())
    x, low = np.random.default_rng(7).normal(size=(2, 3, 4)).astype(np.float32)
    answer = asked(engine, "forest", x, low, target=0)
    for n in range(3):

        def value(some: frozenset[int], n: int = n) -> float:
            return float(trees(np.where(np.isin(np.arange(4), list(some)), x[n], low[n])[None])[0])

        found = shapley(range(4), value)
        np.testing.assert_allclose(answer.layers["x"].values[n], list(found.values()), rtol=1e-6, atol=1e-6)


# --- Some coalitions


def test_of_a_linear_model_any_coalitions_give_its_contributions(engine: Engine) -> None:
    x, low = np.random.default_rng(8).normal(size=(2, 2, 40))
    for count in (84, 120, 2128, None):
        answer = asked(engine, "linear", x, low, coalitions=count, target=0)
        np.testing.assert_allclose(values(answer), np.arange(40) * (x - low), rtol=1e-8, atol=1e-9)
        if count != 84:  # of which too few are drawn to tell
            np.testing.assert_allclose(answer.layers["x"].error_estimate, 0, atol=1e-6)


@pytest.mark.parametrize("count", [60, 400])
def test_drawn_coalitions_sum_to_the_change_and_most_errors_are_below_the_estimate(
    engine: Engine, count: int
) -> None:
    x, low = np.random.default_rng(9).normal(size=(2, 1, 12))
    wanted = exact(x[0], low[0], np.arange(12.0))
    missed, estimates, found = [], [], []
    for seed in range(40):
        answer = asked(engine, "mix12", x, low, coalitions=count, seed=seed)
        layer = answer.layers["x"]
        np.testing.assert_allclose(layer.residual, 0, atol=1e-10)
        missed.append(np.abs(layer.values[0] - wanted).sum())
        estimates.append(layer.error_estimate[0])
        found.append(layer.values[0])
    below = np.array(missed) <= np.array(estimates)
    assert below.mean() > 0.6
    assert (np.array(missed) < 3 * np.array(estimates)).all()
    assert np.mean(estimates) < 3 * np.mean(missed)  # nor is it far too careful
    center = np.abs(np.mean(found, axis=0) - wanted).sum()
    assert center < 0.5 * np.mean(missed)  # means over seeds close in: nothing is biased by as much


def test_more_coalitions_are_more_exact(engine: Engine) -> None:
    x, low = np.random.default_rng(10).normal(size=(2, 1, 12))
    wanted = exact(x[0], low[0], np.arange(12.0))
    errors = [
        np.mean(
            [
                np.abs(values(asked(engine, "mix12", x, low, coalitions=n, seed=s)) - wanted).sum()
                for s in range(10)
            ]
        )
        for n in (60, 400, 4094)
    ]
    assert errors[0] > 2 * errors[1] > 0
    assert errors[2] < 1e-9


def test_neither_the_size_of_runs_nor_other_samples_move_a_number(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, low = np.random.default_rng(11).normal(size=(2, 3, 12))
    whole = values(asked(engine, "mix12", x, low, coalitions=100, seed=3))
    for k in range(3):
        alone = values(asked(engine, "mix12", x[k : k + 1], low[k : k + 1], coalitions=100, seed=3))
        np.testing.assert_allclose(alone[0], whole[k], rtol=1e-10)
    monkeypatch.setattr(evaluate, "MAX_ROWS", 7)
    np.testing.assert_allclose(
        values(asked(engine, "mix12", x, low, coalitions=100, seed=3)), whole, rtol=1e-10
    )
    other = values(asked(engine, "mix12", x, low, coalitions=100, seed=4))
    assert np.abs(other - whole).max() > 1e-6


def test_too_few_coalitions_and_too_many_players_are_refused(engine: Engine) -> None:
    x = np.ones((1, 12))
    with pytest.raises(InvalidArgument, match=r"coalitions is 27, and 12 groups differ .* need 28"):
        asked(engine, "mix12", x, coalitions=27)
    engine.add(
        "wide", model("(double[N,3000] x) => (double[N,1] y) { y = MatMul(x, w) }", w=np.ones((3000, 1)))
    )
    with pytest.raises(InvalidArgument, match=r"3000 groups differ .* at most 1024"):
        asked(engine, "wide", np.ones((1, 3000)), target=0)


def test_noise_is_taken_over_them(engine: Engine) -> None:
    x = np.random.default_rng(12).normal(size=(2, 5))
    answer = engine.attribute(
        AttributionRequest(
            "mix5", {"x": x}, "smoothgrad", of="kernel_shap(seed=2)", draws=3, stdev=0.1, target=1
        )
    )
    moved = [x + 0.1 * np.random.default_rng([0, k]).standard_normal(5) for k in range(3)]
    wanted = np.mean([values(asked(engine, "mix5", one)) for one in moved], axis=0)
    np.testing.assert_allclose(values(answer), wanted, rtol=1e-9)
