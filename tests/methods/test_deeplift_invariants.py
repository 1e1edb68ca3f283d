"""What holds for DeepLIFT in every net: sums, swapped ends, affine nets, equal functions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Target
from tests.methods.test_deeplift import PRODUCT, SMALL, assert_sums, lift, pooled
from tests.methods.toys import Floats, ask, dense, explain, model, values, weight


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


def points(rng: np.random.Generator, size: int = 5, samples: int = 3) -> tuple[Floats, Floats]:
    return rng.normal(size=(samples, size)), rng.normal(size=(samples, size))


@pytest.mark.parametrize(
    "activation",
    ["Relu", "Tanh", "Sigmoid", "Softplus", "Elu", "LeakyRelu", "Selu", "Exp", "Abs", "HardSigmoid"],
)
def test_1_every_cut_layer_sums_to_the_change_of_the_target(
    engine: Engine, rng: np.random.Generator, activation: str
) -> None:
    x, r = points(rng)
    kind = np.float64 if activation in ("Relu", "Tanh", "Sigmoid", "Exp", "Abs") else np.float32
    net = dense(rng, activation) if kind is np.float64 else single(dense(rng, activation))
    answer = lift(
        engine,
        net,
        x.astype(kind),
        r.astype(kind),
        Target(index=1),
        layers=("x", "z1", "h1", "z2", "h2", "y"),
    )
    # onnxruntime has these activations in float32 only where the tolerance is that of float32
    assert_sums(answer, 1e-9 if kind is np.float64 else 1e-5)


def single(net: onnx.ModelProto) -> onnx.ModelProto:
    """A model in float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(net)
    for tensor in copy.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float64:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name))
    for value in [*copy.graph.input, *copy.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return copy


def test_1_every_cut_layer_of_the_digits_sums_to_the_change_of_the_target(
    engine: Engine, digits_path: Path, digits_data: tuple[NDArray[np.float32], Any]
) -> None:
    images = digits_data[0]
    engine.add("digits", digits_path)
    layers = tuple(x.name for x in engine.layers("digits"))
    assert len(layers) >= 6
    answer = ask(
        engine, "digits", {"image": images[:4]}, "deeplift_rescale", layers=layers, baselines={"image": images[4:8]},
        target=Target(index=[0, 3, 5, 8]),
    )  # fmt: skip
    assert_sums(answer, 1e-5)


@pytest.mark.parametrize(
    ("first", "second"), [("Relu", "Relu"), ("Sigmoid", "Tanh"), ("Relu", "MaxPool"), ("MaxPool", "Relu")]
)
def test_1_adjacent_nonlinearities_sum_to_the_change_of_the_target(
    engine: Engine, rng: np.random.Generator, first: str, second: str
) -> None:
    """Captum 0.9 does not: a module's hook sees the plain gradient of the next one."""
    pool = "MaxPool<kernel_shape = [2], strides = [2]>"
    one, two = (pool if name == "MaxPool" else name for name in (first, second))
    net = model(
        f"""(double[N,2,6] x) => (double[N] y) {{
            s = Mul(x, w)
            a = {one}(s)
            shifted = Sub(a, b)
            c = {two}(shifted)
            d = {two}(a)
            sum = Add(c, d)
            y = ReduceSum<keepdims = 0>(sum, axes)
        }}""",
        w=rng.normal(size=(2, 6)), b=0.3, axes=np.array([1, 2]),
    )  # fmt: skip
    x, r = rng.normal(size=(2, 3, 2, 6))
    answer = lift(engine, net, x, r, layers=("x", "s", "a"))
    assert all(layer.cut for layer in answer.layers.values())
    assert_sums(answer, 1e-9)


def test_2_a_reference_equal_to_the_input_gives_exactly_nothing(
    engine: Engine, rng: np.random.Generator
) -> None:
    x, _ = points(rng)
    for activation in ("Relu", "Tanh", "Sigmoid"):
        answer = lift(engine, dense(rng, activation), x, x, Target(index=0), layers=("x", "z1", "h1", "h2"))
        for layer in answer.layers.values():
            np.testing.assert_array_equal(layer.values, 0)


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid"])
def test_3_swapping_input_and_reference_negates_rescale(
    engine: Engine, rng: np.random.Generator, activation: str
) -> None:
    net, (x, r) = dense(rng, activation), points(rng)
    there, back = (lift(engine, net, a, b, Target(index=1), layers=("x", "h1")) for a, b in ((x, r), (r, x)))
    for name in ("x", "h1"):
        np.testing.assert_allclose(values(there, name), -values(back, name), rtol=1e-10, atol=1e-13)


def test_3_swapping_input_and_reference_negates_cross_max_and_products(
    engine: Engine, rng: np.random.Generator
) -> None:
    x, r = rng.normal(size=(4, 1, 11)), rng.normal(size=(4, 1, 11))
    there, back = (lift(engine, pooled(3, 1, 11), a, b) for a, b in ((x, r), (r, x)))
    np.testing.assert_allclose(values(there), -values(back), rtol=1e-10, atol=1e-13)
    high, low = ({"a": rng.normal(size=4), "b": rng.normal(size=4)} for _ in range(2))
    engine.add("product", model(PRODUCT))
    one, other = (
        ask(engine, "product", p, "deeplift_rescale", baselines=q) for p, q in ((high, low), (low, high))
    )
    for name in "ab":
        np.testing.assert_allclose(values(one, name), -values(other, name), rtol=1e-12)


def test_4_an_affine_net_has_gradient_times_difference_and_integrated_gradients(
    engine: Engine, rng: np.random.Generator
) -> None:
    W, V = rng.normal(size=(5, 4)), rng.normal(size=(4, 2))
    net = model(
        "(double[N,5] x) => (double[N,2] y) { z = Gemm(x, W, b) y = MatMul(z, V) }",
        W=W, b=rng.normal(size=4), V=V,
    )  # fmt: skip
    x, r = points(rng)
    answer = lift(engine, net, x, r, Target(index=1))
    np.testing.assert_allclose(values(answer), (x - r) * (W @ V)[:, 1], rtol=1e-10, atol=1e-13)
    ig = explain(
        engine, net, {"x": x}, "integrated_gradients", baselines={"x": r}, target=Target(index=1), steps=3
    )
    np.testing.assert_allclose(values(answer), values(ig), rtol=1e-10, atol=1e-13)


def test_5_one_nonlinear_layer_after_a_straight_line_has_exact_integrated_gradients(
    engine: Engine, rng: np.random.Generator
) -> None:
    net, (x, r) = dense(rng, "Tanh", sizes=(5, 7, 3)), points(rng)
    answer = lift(engine, net, x, r, Target(index=1))
    ig = explain(
        engine, net, {"x": x}, "integrated_gradients", baselines={"x": r}, target=Target(index=1), steps=100,
        quadrature="gausslegendre",
    )  # fmt: skip
    np.testing.assert_allclose(values(answer), values(ig), rtol=1e-9, atol=1e-12)
    # and in closed form
    W, b, v = weight(net, "W1"), weight(net, "b1"), weight(net, "W2")[:, 1]
    slopes = (np.tanh(x @ W + b) - np.tanh(r @ W + b)) / ((x - r) @ W)
    np.testing.assert_allclose(values(answer), (x - r) * ((slopes * v) @ W.T), rtol=1e-9, atol=1e-12)


def test_5_the_small_net_has_its_exact_integrated_gradients(engine: Engine) -> None:
    ig = explain(
        engine, SMALL, {"x": [[1.0, 2.0]]}, "integrated_gradients", steps=12, quadrature="riemann_middle"
    )
    np.testing.assert_allclose(values(ig), [[-2.5, -4]], rtol=1e-12)


def test_6_a_bias_free_relu_net_has_gradient_times_input(engine: Engine, rng: np.random.Generator) -> None:
    net, (x, _) = dense(rng, bias=False), points(rng)
    layers = ("x", "z1", "h1", "z2", "h2")
    answer = lift(engine, net, x, 0.0, Target(index=2), layers=layers)
    product = explain(engine, net, {"x": x}, "gradient_x_activation", layers=layers, target=Target(index=2))
    for name in layers:
        np.testing.assert_allclose(values(answer, name), values(product, name), rtol=1e-9, atol=1e-12)


def test_7_under_a_linear_head_it_is_weight_times_difference(
    engine: Engine, rng: np.random.Generator
) -> None:
    net, (x, r) = dense(rng, "Tanh"), points(rng)
    answer = lift(engine, net, x, r, Target(index=1), layers="h2")
    h, h0 = (
        np.tanh(np.tanh(a @ weight(net, "W1") + weight(net, "b1")) @ weight(net, "W2") + weight(net, "b2"))
        for a in (x, r)
    )
    np.testing.assert_allclose(values(answer), weight(net, "W3")[:, 1] * (h - h0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("low", "high", "units"), [("x", "z1", 7), ("z1", "h1", 7), ("h1", "z2", 6), ("h1", "h2", 6)]
)
def test_9_multipliers_chain(
    engine: Engine, rng: np.random.Generator, low: str, high: str, units: int
) -> None:
    net, (x, r) = dense(rng, "Sigmoid"), points(rng, samples=1)
    name = f"chain {low} {high}"
    engine.add(name, net)

    def multipliers(layer: str, target: Target) -> Floats:
        answer = ask(
            engine, name, {"x": x}, "deeplift_rescale", layers=layer, baselines={"x": r}, target=target, multiply=False
        )  # fmt: skip
        return np.asarray(values(answer)[0])

    upper = multipliers(high, Target(index=1))
    between = [multipliers(low, Target(tensor=high, index=j)) for j in range(units)]
    np.testing.assert_allclose(
        multipliers(low, Target(index=1)), upper @ np.stack(between), rtol=1e-9, atol=1e-12
    )


EQUAL = {
    "f": """(double[N] a, double[N] b) => (double[N] y) {
        p = Relu(a)  q = Relu(b)  s = Sub(p, one)  d = Sub(s, q)  y = Relu(d)
    }""",
    "g": """(double[N] a, double[N] b) => (double[N] y) {
        s = Sub(a, one)  p = Relu(s)  q = Relu(b)  d = Sub(p, q)  y = Relu(d)
    }""",
}


@pytest.mark.parametrize(("name", "expected"), [("f", (1.5, -0.5)), ("g", (2.0, -1.0))])
def test_11_two_equal_functions_have_one_integrated_gradient_and_two_rescales(
    engine: Engine, name: str, expected: tuple[float, float]
) -> None:
    net, point = model(EQUAL[name], one=1.0), {"a": [3.0], "b": [1.0]}
    answer = explain(engine, net, point, "deeplift_rescale")
    np.testing.assert_allclose([values(answer, n)[0] for n in "ab"], expected, rtol=1e-12)
    ig = explain(engine, net, point, "integrated_gradients", steps=2000)
    np.testing.assert_allclose([values(ig, n)[0] for n in "ab"], (1.5, -0.5), rtol=0, atol=1e-3)


def test_11_f_and_g_agree_for_every_input(engine: Engine, rng: np.random.Generator) -> None:
    point = {"a": rng.normal(size=50) * 3, "b": rng.normal(size=50) * 3}
    found = []
    for name, body in EQUAL.items():
        engine.add(f"equal {name}", model(body, one=1.0))
        found.append(np.asarray(engine.predict(f"equal {name}", point)["y"], np.float64))
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)
