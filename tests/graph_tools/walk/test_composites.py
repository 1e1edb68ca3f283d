"""Functions of several nodes have the gradient of the whole, and each tensor inside of them its own."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from tests.programs import gradients, parsed

Array = NDArray[Any]
X = np.linspace(-3, 3, 24).reshape(2, 3, 4).astype(np.float32)
V = np.random.default_rng(0).standard_normal(X.shape)
ROOT = math.sqrt(2)


def model(body: str) -> onnx.ModelProto:
    return parsed(f"g (float[N,3,4] x) => (float[N,3,4] z) {{ {body} }}")


def gelu_of(a: float, b: float, c: float, x: Array) -> Array:
    """The derivative of c x (b + erf(a x))."""
    erf = np.vectorize(math.erf)(a * x)
    return np.asarray(c * (b + erf + x * 2 * a / math.sqrt(math.pi) * np.exp(-((a * x) ** 2))))


START = (
    "half = Constant<value_float = 0.5>() one = Constant<value_float = 1.0>() "
    f"root = Constant<value_float = {ROOT}>() "
)
FORMS = {
    "exported": (
        "u = Div(x, root) e = Erf(u) s = Add(e, one) p = Mul(x, s) z = Mul(p, half)", (1 / ROOT, 1.0, 0.5)
    ),
    "halved first": (
        "h = Mul(x, half) u = Div(x, root) e = Erf(u) s = Add(one, e) z = Mul(h, s)", (1 / ROOT, 1.0, 0.5)
    ),
    "halved inside": ("u = Mul(half, x) e = Erf(u) s = Add(e, one) p = Mul(half, s) z = Mul(x, p)", (0.5, 1.0, 0.5)),
    "not halved": ("u = Mul(root, x) e = Erf(u) s = Add(root, e) z = Mul(s, x)", (ROOT, ROOT, 1.0)),
    "of a falling error": (
        "m = Neg(one) u = Mul(x, m) e = Erf(u) s = Add(e, one) z = Mul(x, s)", (-1.0, 1.0, 1.0)
    ),
}  # fmt: skip


def operators(source: onnx.ModelProto, layers: tuple[str, ...] = ("x",)) -> Counter[str]:
    """Those of the gradient's program."""
    network = LoadedModel(source, Backend("cpu"), given={"x": X}).network
    return Counter(n.op_type for n in rows_program(network, Choice(("x",), layers, "z")).model.graph.node)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_every_form_of_gelu_is_that_of_its_formula(form: str) -> None:
    body, numbers = FORMS[form]
    found = gradients(model(START + body), {"x": X}, ["x"], V)["x"]
    np.testing.assert_allclose(found, V * gelu_of(*numbers, X.astype(np.float64)), rtol=2e-5, atol=1e-6)


def test_a_gelu_adds_six_passes_and_a_scale() -> None:
    found = operators(model(START + FORMS["exported"][0]))
    assert found["Erf"] == found["Exp"] == 1
    assert sum(found[name] for name in ("Abs", "Add", "Div", "Mul", "Neg", "Reciprocal", "Sub", "Sum")) <= 12


def test_each_tensor_inside_of_a_gelu_has_its_gradient() -> None:
    u = X.astype(np.float64) / ROOT
    expected: dict[str, Array] = {
        "x": V * gelu_of(1 / ROOT, 1, 0.5, X.astype(np.float64)),
        "u": V * 0.5 * X * 2 / math.sqrt(math.pi) * np.exp(-u * u), "e": V * 0.5 * X, "s": V * 0.5 * X, "p": V * 0.5,
    }  # fmt: skip
    network = LoadedModel(model(START + FORMS["exported"][0]), Backend("cpu"), given={"x": X}).network
    for names in [[name] for name in expected] + [list(expected)]:
        program = rows_program(network, Choice(("x",), tuple(names), "z"))
        found = Backend("cpu", 1).session(program.model).run({"x": X, "target/weight": V.astype(np.float32)})
        for name in names:
            right = expected[name]
            np.testing.assert_allclose(
                np.asarray(found[f"gradient/{name}"]), right, rtol=2e-5, atol=1e-6, err_msg=name
            )


@pytest.mark.parametrize("factor", ["", "w = Sin(x)"])
def test_what_else_reads_the_inside_or_multiplies_the_whole_counts(factor: str) -> None:
    """z = gelu(x) w + erf(x / sqrt 2), w 1 or sin x."""
    end = " g2 = Mul(w, g) z = Add(g2, e)" if factor else " z = Add(g, e)"
    body = FORMS["exported"][0].replace("z =", "g =") + f" {factor}{end}"
    found = gradients(model(START + body), {"x": X}, ["x"], V)["x"]
    x = X.astype(np.float64)
    slope, value = (
        gelu_of(1 / ROOT, 1, 0.5, x),
        0.5 * x * (1 + np.vectorize(math.erf)(x / ROOT)),
    )
    whole = slope * np.sin(x) + value * np.cos(x) if factor else slope
    bell = 2 / ROOT / math.sqrt(math.pi) * np.exp(-x * x / 2)
    np.testing.assert_allclose(found, V * (whole + bell), rtol=2e-5, atol=2e-6)


def test_a_number_that_ends_the_gradient_before_a_product_goes_into_it() -> None:
    """The last factor of a Gelu is the alpha of the product with the weights before it."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(
        (4, 1 << 17), dtype=np.float32
    )  # large: small ones are transposed beforehand
    text = "g (float[N,3,4] x) => (float[N,3,131072] z) { y = MatMul(x, w) " + START
    source = parsed(text + FORMS["exported"][0].replace("x", "y") + " }")
    source.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    x, v = X[:1], rng.standard_normal((1, 3, 1 << 17))
    found = gradients(source, {"x": x}, ["x"], v)["x"]
    y = x.astype(np.float64) @ weight.astype(np.float64)
    right = (v * gelu_of(1 / ROOT, 1, 0.5, y)) @ weight.T.astype(np.float64)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-3 * np.abs(right).max())


def test_a_softmax_is_asked_for_rows_that_masks_hide_only_where_masks_can_be() -> None:
    product = "t = Transpose<perm = [0, 2, 1]>(x) s = MatMul(x, t) "
    hidden = "m = Constant<value_float = -inf>() zero = Constant<value_float = 0.0>() b = Greater(s, zero) "
    end = "p = Softmax(r) z = MatMul(p, x)"
    copied = hidden + "n = CastLike(m, s) r = Where(b, s, n) "
    scaled = "t2 = Constant<value_float = 2.0>() r = Div(s, t2) "
    emptied = "t0 = Constant<value_float = 0.0>() r = Div(s, t0) "
    for middle, asked in (
        ("r = Identity(s) ", 0), (scaled, 0), (hidden + "r = Where(b, s, m) ", 1), (copied, 1), (emptied, 1)
    ):  # fmt: skip
        assert operators(model(product + middle + end))["IsNaN"] == asked
    assert operators(model("z = Softmax(x)"))["ThresholdedRelu"] == 1


def test_attention_of_a_dynamic_batch_needs_no_sums_over_axes_found_at_run_time() -> None:
    """The number of heads is what a Reshape leaves of the width, whatever the batch is."""
    split = "n = Shape<start = 0, end = 1>(x) r = Constant<value_ints = [3, -1, 2]>() sizes = Concat<axis = 0>(n, r) "
    heads = (
        "h = Reshape(x, sizes) q = Transpose<perm = [0, 2, 1, 3]>(h) k = Transpose<perm = [0, 2, 3, 1]>(h) "
    )
    rest = "s = MatMul(q, k) p = Softmax(s) o = MatMul(p, q) y = Transpose<perm = [0, 2, 1, 3]>(o) "
    rest += "sx = Shape(x) z = Reshape(y, sx)"
    source = model(split + heads + rest)
    found = operators(source)
    assert not {"NonZero", "Not", "Tile"} & set(found)
    x = X.astype(np.float64)

    def value(x: Array) -> float:
        q = x.reshape(2, 3, 2, 2).swapaxes(1, 2)
        e = np.exp(q @ q.swapaxes(2, 3))
        made = (e / e.sum(-1, keepdims=True)) @ q
        return float(np.sum(V * made.swapaxes(1, 2).reshape(x.shape)))

    g = gradients(source, {"x": X}, ["x"], V)["x"]
    for at in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        step = np.zeros_like(x)
        step[at] = 1e-5
        assert g[at] == pytest.approx((value(x + step) - value(x - step)) / 2e-5, rel=1e-4, abs=1e-5)
