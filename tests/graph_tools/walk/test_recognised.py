"""SiLU, the Gelu of tanh, HardSwish, LayerNorm and RMSNorm of several nodes have the gradient of the whole."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.graph_tools.operators import VJP
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.graph_tools.walk.composites import composites
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from tests.programs import contributions, gradients, parsed

Array = NDArray[Any]
Function = Callable[[Array], Array]
X = (np.linspace(-4.5, 4.5, 24) + 0.01).reshape(2, 3, 4).astype(np.float32)
V = np.random.default_rng(0).standard_normal(X.shape)
SCALE, BIAS = np.asarray([1.5, -0.5, 2.0, 0.7]), np.asarray([0.3, -1.0, 0.0, 2.0])
NUMBERS = {
    "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "six": 6.0, "sixth": 1 / 6, "zero": 0.0, "rate": 1.702,
    "c": 0.044715, "k": math.sqrt(2 / math.pi), "eps": 0.01, "minus": -1.0,
}  # fmt: skip
START = "".join(f"{name} = Constant<value_float = {value}>() " for name, value in NUMBERS.items()) + (
    "ax = Constant<value_ints = [-1]>() w = Constant<value_floats = [1.5, -0.5, 2.0, 0.7]>() "
    "b = Constant<value_floats = [0.3, -1.0, 0.0, 2.0]>() "
)


def silu(x: Array, rate: float = 1.0) -> Array:
    return np.asarray(x / (1 + np.exp(-rate * x)))


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def hard_swish(x: Array) -> Array:
    return np.asarray(x * np.clip(x + 3, 0, 6) / 6)


def rms_norm(x: Array) -> Array:
    return np.asarray(SCALE * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 0.01))


def layer_norm(x: Array) -> Array:
    return np.asarray(rms_norm(x - x.mean(-1, keepdims=True)) + BIAS)


CUBE = "p = Pow(x, three) m = Mul(p, c) n = Add(x, m) u = Mul(n, k) t = Tanh(u) s = Add(t, one) "
SWISH = "a = Add(x, three) g = Clip(a, zero, six) "
DEVIATION = "v = ReduceMean(q, ax) e = Add(v, eps) d = Sqrt(e) "
CENTRED = f"n = ReduceMean(x, ax) h = Sub(x, n) q = Mul(h, h) {DEVIATION}"
FORMS: dict[str, tuple[str, str, Function]] = {
    "SiLU": ("s = Sigmoid(x) z = Mul(x, s)", "z", silu),
    "SiLU with a rate": ("u = Mul(rate, x) s = Sigmoid(u) z = Mul(s, x)", "z", lambda x: silu(x, 1.702)),
    "SiLU in a product": ("s = Sigmoid(x) y = Mul(x, s) r = Sin(x) z = Mul(y, r)", "y", lambda x: silu(x) * np.sin(x)),
    "SiLU of a product": ("f = Mul(x, w) s = Sigmoid(f) z = Mul(f, s)", "z", lambda x: silu(x * SCALE)),
    "Gelu": (CUBE + "g = Mul(x, half) z = Mul(g, s)", "z", gelu),
    "Gelu halved last": (CUBE + "g = Mul(s, x) z = Div(g, two)", "z", gelu),
    "Gelu of products": (
        "p = Mul(x, x) q = Mul(p, x) m = Mul(c, q) n = Add(m, x) u = Mul(k, n) t = Tanh(u) s = Add(one, t) "
        "g = Mul(half, s) z = Mul(x, g)", "z", gelu,
    ),
    "Gelu by a square": (
        "p = Mul(x, x) m = Mul(c, p) n = Add(one, m) f = Mul(x, k) u = Mul(f, n) t = Tanh(u) s = Add(t, one) "
        "g = Mul(x, s) z = Mul(g, half)", "z", gelu,
    ),
    "HardSwish": (SWISH + "m = Mul(x, g) z = Div(m, six)", "z", hard_swish),
    "HardSwish divided before": (SWISH + "m = Div(g, six) z = Mul(m, x)", "z", hard_swish),
    "HardSwish multiplied": (SWISH + "m = Mul(sixth, g) z = Mul(x, m)", "z", hard_swish),
    "HardSwish of ReLU6": (SWISH + "z = Mul(x, g)", "z", lambda x: 6 * hard_swish(x)),
    "HardSwish of HardSigmoid": (f"g = HardSigmoid<alpha = {1 / 6}>(x) z = Mul(x, g)", "z", hard_swish),
    "LayerNorm": (CENTRED + "y = Div(h, d) s = Mul(y, w) z = Add(s, b)", "y", layer_norm),
    "LayerNorm, centred twice": (
        CENTRED.replace("Mul(h, h)", "Pow(h, two)") + "o = Sub(x, n) y = Div(o, d) s = Mul(w, y) z = Add(s, b)", "y",
        layer_norm,
    ),
    "LayerNorm of the inverse": (
        CENTRED + "i = Reciprocal(d) y = Mul(h, i) s = Mul(y, w) z = Add(b, s)", "y", layer_norm
    ),
    "LayerNorm folded": (
        CENTRED + "i = Reciprocal(d) f = Mul(i, w) l = Mul(n, f) o = Sub(b, l) r = Mul(x, f) z = Add(r, o)", "z",
        layer_norm,
    ),
    "RMSNorm": (f"q = Pow(x, two) {DEVIATION} y = Div(x, d) z = Mul(y, w)", "y", rms_norm),
    "RMSNorm of what has no mean over another axis": (
        CENTRED.replace("n = ReduceMean(x, ax)", "ay = Constant<value_ints = [1]>() n = ReduceMean(x, ay)")
        + "y = Div(h, d) z = Mul(y, w)", "y", lambda x: rms_norm(x - x.mean(1, keepdims=True)),
    ),
    "RMSNorm of the inverse": (
        f"q = Mul(x, x) {DEVIATION} i = Div(one, d) y = Mul(i, x) z = Mul(w, y)", "y", rms_norm
    ),
}  # fmt: skip
OTHERS: dict[str, tuple[str, Function]] = {
    "a gate of something else": ("f = Sin(x) s = Sigmoid(f) z = Mul(x, s)", lambda x: x / (1 + np.exp(-np.sin(x)))),
    "a falling gate": ("u = Mul(minus, x) s = Sigmoid(u) z = Mul(x, s)", lambda x: silu(x, -1.0)),
    "a tanh of a square": (
        CUBE.replace("x, three", "x, two") + "z = Mul(x, s)",
        lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**2))),
    ),
    "two added": (CUBE.replace("Add(t, one)", "Add(t, two)") + "z = Mul(x, s)", lambda x: 2 * gelu(x) + x),
    "another bound": (
        SWISH.replace("zero, six", "zero, three") + "z = Mul(x, g)", lambda x: x * np.clip(x + 3, 0, 3)
    ),
    "another slope": (
        "g = HardSigmoid<alpha = 0.2>(x) z = Mul(x, g)",
        lambda x: x * np.clip(np.float64(np.float32(0.2)) * x + 0.5, 0, 1),
    ),
    "the deviation of something else": (
        f"f = Sin(x) q = Mul(f, f) {DEVIATION} z = Div(x, d)",
        lambda x: x / np.sqrt(np.mean(np.sin(x) ** 2, axis=-1, keepdims=True) + 0.01),
    ),
    "a square of a base": (
        f"q = Pow(two, x) {DEVIATION} z = Div(x, d)",
        lambda x: x / np.sqrt(np.mean(2**x, axis=-1, keepdims=True) + 0.01),
    ),
}  # fmt: skip


def model(body: str, kind: str = "float") -> onnx.ModelProto:
    return parsed(f"g ({kind}[N,3,4] x) => ({kind}[N,3,4] z) {{ {START} {body} }}")


def slopes(function: Function, x: Array = X) -> Array:
    """The gradient of <V, function> by central differences in float64."""
    at, found = x.astype(np.float64), np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(at)
        step[place] = 1e-5
        found[place] = np.sum(V * (function(at + step) - function(at - step))) / 2e-5
    return found


def ends(source: onnx.ModelProto, asked: list[str]) -> set[str]:
    """What the recognised functions make."""
    nodes = LoadedModel(source, Backend("cpu"), given={"x": X}).graph.nodes
    whole = composites(nodes, asked, VJP)
    return {node.outputs[0].name for node in nodes if id(node) in whole}


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_a_recognised_function_is_that_of_its_formula(form: str) -> None:
    body, end, function = FORMS[form]
    source = model(body)
    assert end in ends(source, ["x"])
    found = gradients(source, {"x": X}, ["x"], V)["x"]
    np.testing.assert_allclose(found, slopes(function), rtol=2e-5, atol=4e-6)


@pytest.mark.parametrize("form", OTHERS)
def test_what_only_resembles_one_goes_node_by_node(form: str) -> None:
    body, function = OTHERS[form]
    source = model(body)
    assert not ends(source, ["x"])
    found = gradients(source, {"x": X}, ["x"], V)["x"]
    np.testing.assert_allclose(found, slopes(function), rtol=2e-5, atol=4e-6)


@pytest.mark.parametrize(
    ("form", "inner"),
    [
        ("SiLU", "s"),
        ("Gelu", "t"),
        ("HardSwish", "g"),
        ("LayerNorm", "v"),
        ("LayerNorm folded", "d"),
        ("RMSNorm", "d"),
    ],
)
def test_a_tensor_inside_that_is_asked_for_has_its_gradient_and_the_whole_its_own(
    form: str, inner: str
) -> None:
    body, end, function = FORMS[form]
    source = model(body)
    assert end not in ends(source, ["x", inner])
    network = LoadedModel(source, Backend("cpu"), given={"x": X}).network
    program = rows_program(network, Choice(("x",), ("x", inner), "z"))
    feeds = {"x": X, "target/weight": V.astype(np.float32)}
    found = Backend("cpu", 1).session(program.model).run(feeds)
    np.testing.assert_allclose(np.asarray(found["gradient/x"]), slopes(function), rtol=2e-5, atol=4e-6)
    assert np.any(np.asarray(found[f"gradient/{inner}"]))


@pytest.mark.parametrize("form", ["SiLU", "SiLU with a rate", "Gelu"])
def test_far_from_0_a_recognised_gate_keeps_its_digits(form: str) -> None:
    """Of a gate that falls to 1e-12, where the sigmoid of the runtime is 0."""
    x = np.linspace(-16, 4, 24).reshape(2, 3, 4) if form != "Gelu" else X.astype(np.float64) * 1.2
    x = x.astype(np.float32).astype(np.float64)
    rate, inner, slope = 1.0, x, np.ones_like(x)
    if form == "Gelu":
        k = 2 * math.sqrt(2 / math.pi)
        inner, slope = k * (x + 0.044715 * x**3), k * (1 + 3 * 0.044715 * x**2)
    elif form != "SiLU":
        rate = 1.702
        inner, slope = rate * x, np.full_like(x, rate)
    gate = 1 / (1 + np.exp(-inner))
    right = gate + x * slope * gate / (1 + np.exp(inner))
    found = gradients(model(FORMS[form][0]), {"x": x.astype(np.float32)}, ["x"], np.ones_like(x))["x"]
    np.testing.assert_allclose(found, right, rtol=1e-4)


def test_a_hard_swish_is_flat_up_to_its_first_kink_and_straight_from_its_second() -> None:
    x = np.zeros((1, 3, 4), np.float32)
    x[0, 0], x[0, 1] = [-3, 3, np.nextafter(np.float32(3), np.float32(4)), -1e30], [1e30, 2, -2, 0]
    for body in (FORMS["HardSwish"][0], FORMS["HardSwish of HardSigmoid"][0], "z = HardSwish(x)"):
        found = gradients(model(body), {"x": x}, ["x"], np.ones(x.shape))["x"]
        np.testing.assert_allclose(found[0, 0], [0, 1, 1, 0], atol=1e-6, err_msg=body)
        np.testing.assert_allclose(found[0, 1], [1, 7 / 6, -1 / 6, 0.5], atol=1e-6, err_msg=body)


@pytest.mark.parametrize("form", ["SiLU", "Gelu", "HardSwish", "LayerNorm", "LayerNorm folded", "RMSNorm"])
def test_deeplift_of_a_recognised_function_sums_to_the_change(form: str) -> None:
    total, change, size = contributions(model(FORMS[form][0]), {"x": X}, {"x": X[::-1] * 0.5}, V)
    assert abs(total - change) <= 1e-5 * size


@pytest.mark.parametrize("form", ["SiLU", "HardSwish", "LayerNorm", "RMSNorm of the inverse"])
def test_of_half_types_too(form: str) -> None:
    body, _, function = FORMS[form]
    names = [*NUMBERS, "w", "b"]
    halved = re.sub(
        rf"\b({'|'.join(names)}) = (Constant<[^>]*>\(\))", r"\1_ = \2 \1 = Cast<to = 10>(\1_)", START
    )
    source = parsed(f"g (float16[N,3,4] x) => (float16[N,3,4] z) {{ {halved} {body} }}")
    x = X.astype(np.float16)
    found = gradients(source, {"x": x}, ["x"], V)["x"]
    right = slopes(function, x)
    # the forward pass, which norms read, is rounded to 11 bits
    np.testing.assert_allclose(found, right, atol=4e-3 * np.abs(right).max())
