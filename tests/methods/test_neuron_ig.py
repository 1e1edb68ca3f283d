"""Neuron Integrated Gradients: the toys' numbers, and what must hold for every network (arXiv 1807.09946)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.methods import Quadrature
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Target
from tests.methods.toys import explain, model, values

Floats = NDArray[np.float64]
UNIFORM: tuple[Quadrature, ...] = ("left", "right", "trapezoid")
DIGITS = 5e-5
"""Half a unit of the last digit of a table."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


# --- The definition, a second time


def nig(h: Floats, g: Floats, rule: str) -> Floats:
    """The sum over the path of gradients times differences of activations; h and g are `[nodes, units]`."""
    steps = np.diff(h, axis=0)
    at = {"left": g[:-1], "right": g[1:], "trapezoid": (g[:-1] + g[1:]) / 2}[rule]
    return np.asarray((at * steps).sum(axis=0))


def alphas_of(rule: str, n: int) -> Floats:
    if rule == "gausslegendre":
        return np.asarray((1 + np.polynomial.legendre.leggauss(n + 1)[0]) / 2)
    return np.arange(n + 1) / n


# --- Toy A: h = (x, x^2), F = h1 h2, from 0 to 1

TOY_A = model(
    """(double[N,1] x) => (double[N] F) {
        square = Mul(x, x)
        h = Concat<axis = 1>(x, square)
        first = Gather<axis = 1>(h, zero)
        second = Gather<axis = 1>(h, one)
        F = Mul(first, second)
    }""",
    zero=np.int64(0),
    one=np.int64(1),
)
TABLE_A: dict[tuple[Quadrature, int], tuple[float, float, float]] = {
    ("left", 2): (0.125, 0.375, 0.5),
    ("left", 10): (0.285, 0.615, 0.9),
    ("left", 50): (0.3234, 0.6566, 0.98),
    ("right", 2): (0.625, 0.875, 1.5),
    ("right", 10): (0.385, 0.715, 1.1),
    ("right", 50): (0.3434, 0.6766, 1.02),
    ("trapezoid", 2): (0.375, 0.625, 1.0),
    ("trapezoid", 10): (0.335, 0.665, 1.0),
    ("trapezoid", 50): (0.3334, 0.6666, 1.0),
    ("gausslegendre", 10): (0.2715, 0.5900, 0.8615),
    ("gausslegendre", 50): (0.3209, 0.6535, 0.9744),
}


@pytest.mark.parametrize(("rule", "n"), TABLE_A, ids=str)
def test_toy_a_has_the_numbers_of_the_table(engine: Engine, rule: Quadrature, n: int) -> None:
    answer = explain(engine, TOY_A, {"x": [[1.0]]}, layers="h", steps=n, quadrature=rule)
    *units, total = TABLE_A[rule, n]
    np.testing.assert_allclose(values(answer)[0], units, rtol=0, atol=DIGITS)
    np.testing.assert_allclose(answer.layers["h"].sum, total, rtol=0, atol=DIGITS)
    np.testing.assert_allclose(answer.layers["h"].residual, total - 1, rtol=0, atol=DIGITS)


@pytest.mark.parametrize(("rule", "n"), TABLE_A, ids=str)
def test_toy_a_is_its_definition_in_float64(engine: Engine, rule: Quadrature, n: int) -> None:
    a = alphas_of(rule, n)
    h, g = np.stack([a, a**2], axis=1), np.stack([a**2, a], axis=1)
    expected = nig(h, g, "left" if rule == "gausslegendre" else rule)
    answer = explain(engine, TOY_A, {"x": [[1.0]]}, layers="h", steps=n, quadrature=rule)
    np.testing.assert_allclose(values(answer)[0], expected, rtol=1e-12)


def test_toy_a_differs_from_the_straight_line_in_hidden_space(engine: Engine) -> None:
    curved = explain(engine, TOY_A, {"x": [[1.0]]}, layers="h", steps=1000)
    straight = explain(
        engine, TOY_A, {"x": [[1.0]]}, "integrated_gradients", source=("h",), baselines={"x": 0.0}
    )
    np.testing.assert_allclose(values(curved)[0], [1 / 3, 2 / 3], rtol=0, atol=1e-6)
    np.testing.assert_allclose(values(straight)[0], [1 / 2, 1 / 2], rtol=0, atol=1e-12)


# --- Toy B: Captum's BasicModel_MultiLayer, from 0 to (0, 100, 0)


TOY_B = model(
    """(double[N,3] x) => (double[N,2] y) {
        z = Gemm(x, W, b)
        h = Relu(z)
        y = Gemm(h, V, c)
    }""",
    W=np.ones((3, 4)),
    b=np.array([-10.0, 1, 1, 1]),
    V=np.ones((4, 2)),
    c=np.array([-1.0, 1]),
)
POINT_B = {"x": [[0.0, 100.0, 0.0]]}
PRE_RELU: dict[tuple[Quadrature, int], float] = {
    ("left", 4): 75, ("right", 4): 100, ("trapezoid", 4): 87.5,
    ("left", 10): 80, ("right", 10): 90, ("trapezoid", 10): 85,
    ("left", 50): 88, ("right", 50): 90, ("trapezoid", 50): 89,
}  # fmt: skip


def logit(index: int = 0) -> Target:
    return Target(index=index)


def test_toy_b_has_the_target_values_of_the_table(engine: Engine) -> None:
    answer = explain(engine, TOY_B, POINT_B, layers="h", target=logit())
    np.testing.assert_array_equal(answer.target.value, [392])
    np.testing.assert_array_equal(answer.target.baseline_value, [2])


@pytest.mark.parametrize(("rule", "n"), PRE_RELU, ids=str)
def test_toy_b_before_its_kink_has_the_numbers_of_the_table(engine: Engine, rule: Quadrature, n: int) -> None:
    answer = explain(engine, TOY_B, POINT_B, layers="z", target=logit(), steps=n, quadrature=rule)
    np.testing.assert_allclose(values(answer)[0], [PRE_RELU[rule, n], 100, 100, 100], rtol=1e-12)


@pytest.mark.parametrize("rule", UNIFORM)
@pytest.mark.parametrize("n", [1, 4, 7, 10, 50])
def test_toy_b_after_its_kink_is_exact_for_every_uniform_rule(
    engine: Engine, rule: Quadrature, n: int
) -> None:
    answer = explain(engine, TOY_B, POINT_B, layers="h", target=logit(), steps=n, quadrature=rule)
    np.testing.assert_allclose(values(answer)[0], [90, 100, 100, 100], rtol=1e-12)
    np.testing.assert_allclose(answer.layers["h"].residual, 0, atol=1e-10)


def test_toy_b_at_its_input_is_390_for_the_only_input_that_moves(engine: Engine) -> None:
    answer = explain(engine, TOY_B, POINT_B, layers="x", target=logit(), steps=10, quadrature="right")
    np.testing.assert_allclose(values(answer)[0], [0, 390, 0], rtol=1e-12)


@pytest.mark.parametrize("rule", UNIFORM)
@pytest.mark.parametrize("n", [1, 4, 50])
def test_toy_b_at_its_logits_gives_all_to_the_target(engine: Engine, rule: Quadrature, n: int) -> None:
    answer = explain(engine, TOY_B, POINT_B, layers="y", target=logit(), steps=n, quadrature=rule)
    np.testing.assert_allclose(values(answer)[0], [390, 0], rtol=1e-12, atol=0)


def test_toy_b_under_captums_default_loses_both_ends_of_the_path(engine: Engine) -> None:
    answer = explain(engine, TOY_B, POINT_B, layers="z", target=logit(), steps=50, quadrature="gausslegendre")
    np.testing.assert_allclose(values(answer)[0], [89.57, 99.89, 99.89, 99.89], rtol=0, atol=5e-3)
    np.testing.assert_allclose(answer.layers["z"].sum, 389.25, rtol=0, atol=5e-3)
    after = explain(engine, TOY_B, POINT_B, layers="h", target=logit(), steps=50, quadrature="gausslegendre")
    np.testing.assert_allclose(after.layers["h"].sum, 389.62, rtol=0, atol=5e-3)


# --- Toy C: h = (relu x, relu(2x - 1)), y = relu(h1 - h2 / 2 - 0.2), from 0 to 1

TOY_C = model(
    """(double[N,1] x) => (double[N,1] y) {
        u = Gemm(x, W, b)
        h = Relu(u)
        v = Gemm(h, V, c)
        y = Relu(v)
    }""",
    W=np.array([[1.0, 2]]),
    b=np.array([0.0, -1]),
    V=np.array([[1.0], [-0.5]]),
    c=np.array([-0.2]),
)


@pytest.mark.parametrize(
    ("rule", "expected"), [("left", (0.7, -0.5)), ("right", (0.8, -0.5)), ("trapezoid", (0.75, -0.5))]
)
def test_toy_c_has_the_numbers_of_the_table(
    engine: Engine, rule: Quadrature, expected: tuple[float, float]
) -> None:
    answer = explain(engine, TOY_C, {"x": [[1.0]]}, layers="h", steps=10, quadrature=rule)
    np.testing.assert_allclose(values(answer)[0], expected, rtol=1e-12)


def test_toy_c_converges_to_its_integral(engine: Engine) -> None:
    answer = explain(engine, TOY_C, {"x": [[1.0]]}, layers="h", steps=8192)
    np.testing.assert_allclose(values(answer)[0], [0.8, -0.5], rtol=0, atol=2e-4)
