"""DeepLIFT with the Rescale rule: hand-computed numbers (arXiv 1704.02685)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, Target
from tests.methods.toys import Floats, ask, explain, model, values


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


def lift(
    engine: Engine,
    net: onnx.ModelProto,
    x: Any,
    reference: Any,
    target: Target | None = None,
    *,
    layers: str | tuple[str, ...] = (),
    multiply: bool = True,
) -> Attribution:
    """DeepLIFT of a model with one input `x`."""
    return explain(
        engine, net, {"x": x}, "deeplift_rescale", layers=layers, baselines={"x": reference}, target=target,
        multiply=multiply,
    )  # fmt: skip


def assert_sums(answer: Attribution, tolerance: float) -> None:
    """Every cut layer sums to the change of the target, relative to the sum of absolute contributions."""
    cuts = [layer for layer in answer.layers.values() if layer.cut]
    assert cuts
    for layer in cuts:
        size = np.abs(layer.values.astype(np.float64)).reshape(len(layer.values), -1).sum(axis=1)
        assert (np.abs(layer.residual) <= tolerance * np.maximum(size, 1e-30)).all(), layer.name


# --- Hand-computed examples


def test_a_saturated_unit_has_the_multipliers_of_its_secant(engine: Engine) -> None:
    """The test of kundajelab/deeplift: the second unit's gradient is 0 here."""
    net = model(
        "(double[N,4] x) => (double[N,2] y) { z = Gemm(x, W, b) y = Relu(z) }",
        W=np.array([[1.0, -1], [2, -2], [3, -3], [4, -4]]),
        b=np.array([-1.0, 1]),
    )
    x = np.array([[1.0] * 4, [2.0] * 4])
    w = np.array([1.0, 2, 3, 4])
    first = lift(engine, net, x, 0.0, Target(index=0), multiply=False)
    np.testing.assert_allclose(values(first), [9 / 10 * w, 19 / 20 * w], rtol=1e-12)
    second = lift(engine, net, x, 0.0, Target(index=1), multiply=False)
    np.testing.assert_allclose(values(second), [-1 / 10 * w, -1 / 20 * w], rtol=1e-12)


def test_two_relus_have_captums_numbers(engine: Engine) -> None:
    net = model(
        """(double[N] a, double[N] b) => (double[N] y) {
            p = Relu(a)
            s = Sub(b, shift)
            q = Relu(s)
            u = Mul(p, two)
            v = Mul(q, two)
            y = Add(u, v)
        }""",
        shift=1.5,
        two=2.0,
    )
    point = {"a": [1.0], "b": [2.0]}
    engine.add("two relus", net)
    answer = ask(engine, "two relus", point, "deeplift_rescale")
    assert [float(values(answer, n)[0]) for n in "ab"] == [2.0, 1.0]
    multipliers = ask(engine, "two relus", point, "deeplift_rescale", multiply=False)
    assert [float(values(multipliers, n)[0]) for n in "ab"] == [2.0, 0.5]
    product = ask(engine, "two relus", point, "gradient_x_activation")
    assert [float(values(product, n)[0]) for n in "ab"] == [2.0, 4.0]


SMALL = model(
    """(double[N,2] x) => (double[N,1] y) {
        z = Gemm(x, W, b)
        h = Relu(z)
        y = Gemm(h, v, c)
    }""",
    W=np.array([[1.0, 2], [-1, 1]]),
    b=np.array([0.5, -1]),
    v=np.array([[1.0], [-2]]),
    c=np.array([0.25]),
)


def test_a_net_of_two_two_and_one_units_has_the_numbers_by_hand(engine: Engine) -> None:
    answer = lift(engine, SMALL, [[1.0, 2.0]], 0.0, layers=("x", "h"))
    np.testing.assert_allclose(values(answer, "x"), [[-2.5, -4]], rtol=1e-12)
    np.testing.assert_allclose(values(answer, "h"), [[-0.5, -6]], rtol=1e-12)
    np.testing.assert_allclose(answer.layers["x"].sum, -6.5, rtol=1e-12)
    secants = lift(engine, SMALL, [[1.0, 2.0]], 0.0, layers="z", multiply=False)
    np.testing.assert_allclose(values(secants) / [1, -2], [[0.5, 0.75]], rtol=1e-12)
    product = explain(engine, SMALL, {"x": [[1.0, 2.0]]}, "gradient_x_activation")
    np.testing.assert_allclose(values(product), [[-4, -4]], rtol=1e-12)


@pytest.mark.parametrize(("point", "expected"), [((10.0, 6.0), (0.0, 6.0)), ((6.0, 10.0), (6.0, 0.0))])
def test_a_minimum_written_with_relu_goes_to_the_smaller_input(
    engine: Engine, point: tuple[float, float], expected: tuple[float, float]
) -> None:
    net = model(
        """(double[N] a, double[N] b) => (double[N] y) {
            d = Sub(a, b)
            r = Relu(d)
            y = Sub(a, r)
        }"""
    )
    answer = explain(engine, net, {"a": [point[0]], "b": [point[1]]}, "deeplift_rescale")
    assert [float(values(answer, n)[0]) for n in "ab"] == list(expected)


def test_toy_c_has_the_numbers_of_rescale(engine: Engine) -> None:
    net = model(
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
    answer = lift(engine, net, [[1.0]], 0.0, layers="h")
    np.testing.assert_allclose(values(answer), [[0.6, -0.3]], rtol=1e-12)


# --- Max pooling: the cross-max rule


def pooled(kernel: int, stride: int, size: int) -> onnx.ModelProto:
    """The sum over a one-dimensional max pool, weighted so that windows differ."""
    windows = (size - kernel) // stride + 1
    return model(
        f"""(double[N,1,{size}] x) => (double[N] y) {{
            z = MaxPool<kernel_shape = [{kernel}], strides = [{stride}]>(x)
            weighted = Mul(z, w)
            y = ReduceSum<keepdims = 0>(weighted, axes)
        }}""",
        w=np.arange(1.0, windows + 1),
        axes=np.array([1, 2]),
    )


def cross_max(x: Floats, r: Floats, kernel: int, stride: int) -> Floats:
    """The textbook's sums: each window gives its change to the places of its two maxima."""
    found = np.zeros_like(x)
    for k, start in enumerate(range(0, len(x) - kernel + 1, stride)):
        a, b = x[start : start + kernel], r[start : start + kernel]
        c = max(a.max(), b.max())
        found[start + a.argmax()] += (k + 1) * (c - b.max())
        found[start + b.argmax()] += (k + 1) * (a.max() - c)
    return found


@pytest.mark.parametrize(
    ("x", "r", "expected"),
    [
        ((5.0, 1.0), (0.0, 3.0), (2.0, 0.0)),
        ((1.0, 2.0), (4.0, 0.0), (-2.0, 0.0)),
        ((1.0, 1.0, 1.0, 1.0), (1.0, 2.0, 3.0, 9.0), (0.0, 0.0, 0.0, -8.0)),
        ((1.0, 1.0, 1.0, 1.0), (4.0, 8.0, 6.0, 7.0), (0.0, -7.0, 0.0, 0.0)),
    ],
    ids=str,
)
def test_one_window_has_the_numbers_of_the_cross_max_rule(
    engine: Engine, x: tuple[float, ...], r: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    answer = lift(engine, pooled(len(x), len(x), len(x)), [[x]], [[r]])
    np.testing.assert_array_equal(values(answer)[0, 0], expected)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 1), (3, 2), (4, 1)], ids=str)
def test_windows_that_overlap_add_up(
    engine: Engine, rng: np.random.Generator, kernel: int, stride: int
) -> None:
    x, r = rng.normal(size=(4, 1, 11)), rng.normal(size=(4, 1, 11))
    answer = lift(engine, pooled(kernel, stride, 11), x, r)
    expected = [cross_max(a[0], b[0], kernel, stride) for a, b in zip(x, r, strict=True)]
    np.testing.assert_allclose(values(answer)[:, 0], expected, rtol=1e-10, atol=1e-12)
    assert_sums(answer, 1e-9)


def test_two_dimensional_windows_that_overlap_sum_to_the_change(
    engine: Engine, rng: np.random.Generator
) -> None:
    net = model(
        """(double[N,2,7,6] x) => (double[N] y) {
            z = MaxPool<kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 1, 1]>(x)
            t = Tanh(z)
            y = ReduceSum<keepdims = 0>(t, axes)
        }""",
        axes=np.array([1, 2, 3]),
    )
    x, r = rng.normal(size=(3, 2, 7, 6)), rng.normal(size=(3, 2, 7, 6))
    assert_sums(lift(engine, net, x, r, layers=("x", "z", "t")), 1e-9)


# --- Products


PRODUCT = "(double[N] a, double[N] b) => (double[N] y) { y = Mul(a, b) }"


def test_a_product_is_shared_by_its_midpoints(engine: Engine) -> None:
    point, reference = {"a": [3.0], "b": [2.0]}, {"a": 1.0, "b": 1.0}
    answer = explain(engine, model(PRODUCT), point, "deeplift_rescale", baselines=reference)
    assert [float(values(answer, n)[0]) for n in "ab"] == [3.0, 2.0]


def test_a_matrix_product_is_shared_by_its_midpoints(engine: Engine, rng: np.random.Generator) -> None:
    net = model(
        """(double[N,2,3] a, double[N,3,4] b) => (double[N] y) {
            p = MatMul(a, b)
            w = Mul(p, u)
            y = ReduceSum<keepdims = 0>(w, axes)
        }""",
        u=(u := rng.normal(size=(2, 4))),
        axes=np.array([1, 2]),
    )
    a, a0 = rng.normal(size=(2, 2, 2, 3))
    b, b0 = rng.normal(size=(2, 2, 3, 4))
    answer = explain(engine, net, {"a": a, "b": b}, "deeplift_rescale", baselines={"a": a0, "b": b0})
    np.testing.assert_allclose(
        values(answer, "a"), (a - a0) * (u @ ((b + b0) / 2).swapaxes(1, 2)), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(
        values(answer, "b"), (b - b0) * (((a + a0) / 2).swapaxes(1, 2) @ u), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("operator", ["Max", "Min", "Div"])
def test_two_moving_inputs_share_a_change_by_their_shapley_value(
    engine: Engine, rng: np.random.Generator, operator: str
) -> None:
    net = model(f"(double[N] a, double[N] b) => (double[N] y) {{ y = {operator}(a, b) }}")
    (a, b), (a0, b0) = rng.uniform(0.5, 2, size=(2, 2, 6))
    answer = explain(
        engine, net, {"a": a, "b": b}, "deeplift_rescale", baselines={"a": a0[:, None][:, 0], "b": b0}
    )
    f = {"Max": np.maximum, "Min": np.minimum, "Div": np.divide}[operator]
    shares = values(answer, "a"), values(answer, "b")
    np.testing.assert_allclose(shares[0] + shares[1], f(a, b) - f(a0, b0), rtol=1e-10, atol=1e-12)
    first = (f(a, b) - f(a0, b) + f(a, b0) - f(a0, b0)) / 2
    np.testing.assert_allclose(shares[0], first, rtol=1e-10, atol=1e-12)


# --- Near zero


@pytest.mark.parametrize("step", [1e-2, 1e-4, 1e-5, 1e-6, 0.0])
@pytest.mark.parametrize("operator", ["Sigmoid", "Tanh", "Softplus", "Exp"])
def test_a_small_difference_has_the_slope_of_the_function(engine: Engine, operator: str, step: float) -> None:
    """Naive float32 quotients are 5 % off at 1e-5 and lost below 1e-6."""
    net = model(f"(float[N] x) => (float[N] y) {{ y = {operator}(x) }}")
    x = np.float32(3)
    r = np.float32(x - np.float32(step))
    exact: dict[str, Any] = {
        "Sigmoid": lambda t: 1 / (1 + np.exp(-t)),
        "Tanh": np.tanh,
        "Softplus": lambda t: np.log1p(np.exp(t)),
        "Exp": np.exp,
    }
    middle, half = (float(x) + float(r)) / 2, max((float(x) - float(r)) / 2, 1e-5)
    slope = (exact[operator](middle + half) - exact[operator](middle - half)) / (2 * half)
    answer = lift(engine, net, np.array([x]), np.array([r]), multiply=False)
    # Exp and Softplus take the quotient of float32 values: a unit in the last place of 20 over the step
    tolerance = 1e-4 if operator in ("Sigmoid", "Tanh") else 1e-4 + 4e-7 / max(step, 1e-5)
    np.testing.assert_allclose(values(answer), [slope], rtol=tolerance)


def test_the_secant_of_relu_lies_between_0_and_1(engine: Engine, rng: np.random.Generator) -> None:
    net = model("(float[N] x) => (float[N] y) { y = Relu(x) }")
    base = rng.normal(size=200).astype(np.float32) * np.float32(1e-6)
    for a, b in itertools.product((base, base * 1e6), (base[::-1], base * np.float32(1 + 1e-6))):
        answer = lift(engine, net, a, np.ascontiguousarray(b), multiply=False)
        assert ((values(answer) >= 0) & (values(answer) <= 1)).all()


@pytest.mark.parametrize(
    "body",
    [
        "Relu(x)",
        "LeakyRelu(x)",
        "Abs(x)",
        "Clip(x, zero)",
        "Max(x, zero)",
        "Max(x, turned)",
        "Min(x, turned)",
    ],
)
@pytest.mark.parametrize("scale", [1e-3, 1e-7, 1e-12])
def test_differences_of_small_numbers_sum_like_those_of_large_ones(
    engine: Engine, rng: np.random.Generator, body: str, scale: float
) -> None:
    """A threshold that is absolute would take them for rounding noise."""
    net = model(
        f"""(float[N,4] x) => (float[N] y) {{
            turned = Gather<axis = 1>(x, order)
            z = {body}
            w = Mul(z, u)
            y = ReduceSum<keepdims = 0>(w, axes)
        }}""",
        order=np.array([1, 2, 3, 0]),
        zero=np.float32(0),
        u=np.array([1, -2, 3, 0.5], dtype=np.float32),
        axes=np.array([1]),
    )
    x, r = (scale * rng.normal(size=(2, 3, 4))).astype(np.float32)
    assert_sums(lift(engine, net, x, r), 1e-5)
