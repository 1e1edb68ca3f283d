"""LRP through everything that has no weights: what passes relevance, shares it, or is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.operators import VJP
from onnx_attribution.graph_tools.relevance.lrp import Lrp, lrp
from onnx_attribution.graph_tools.relevance.weights import Chosen, Numbers
from tests.graph_tools.relevance.carried import Array, assert_carried, carried
from tests.methods.toys import model

EXACT = lrp(Lrp(numbers=Numbers(epsilon=0.0)))


def relevance(body: str, x: Any, weight: Any, table: Any = None, **weights: Any) -> Array:
    """That of x `[1, n]`, where z begins with its value times the weight."""
    x, weight = np.atleast_2d(np.asarray(x, np.float32)), np.atleast_2d(np.asarray(weight, np.float32))
    constants = {name: np.asarray(one, np.float32) for name, one in weights.items()}
    net = model(f"(float[N,{x.shape[1]}] x) => (float[N,{weight.shape[1]}] z) {{ {body} }}", **constants)
    return carried(net, table or lrp(Lrp()), weight, relevance=True, x=x)["x"]


# --- the toys


TOYS: dict[str, tuple[Lrp, list[float]]] = {
    "epsilon 0": (Lrp(numbers=Numbers(epsilon=0.0)), [6, -4]),
    "zplus": (Lrp(dense=Chosen("zplus")), [2, 0]),
    "alpha 2, beta 1": (Lrp(dense=Chosen("alpha_beta")), [4, -2]),
    "gamma": (Lrp(dense=Chosen("gamma")), [4 + 2 / 7, -2 - 2 / 7]),
    "epsilon 1": (Lrp(numbers=Numbers(epsilon=1.0)), [3, -2]),
}


@pytest.mark.parametrize("name", TOYS)
def test_the_shares_of_two_terms(name: str) -> None:
    asked, wanted = TOYS[name]
    assert_carried(relevance("z = MatMul(x, w)", [1, 2], [2], lrp(asked), w=[[3], [-1]]), [wanted])


def test_zplus_follows_only_what_is_positive_through_two_layers() -> None:
    w, v = [[1, 1], [2, -1]], [[1], [1]]
    body = "a = MatMul(x, w) h = Relu(a) z = MatMul(h, v)"
    assert_carried(relevance(body, [1, 2], [0.2], lrp(Lrp(dense=Chosen("zplus"))), w=w, v=v), [[0.2, 0.8]])


# --- equalities


def deep(rng: np.random.Generator, biases: bool = False) -> tuple[str, dict[str, Array]]:
    """A network of two layers of Relu."""
    sizes = {"w": (6, 8), "u": (8, 7), "v": (7, 3)}
    weights: dict[str, Array] = {name: rng.normal(size=shape) for name, shape in sizes.items()}
    weights |= {n: rng.normal(size=k) * biases for n, k in (("p", 8), ("q", 7), ("r", 3))}
    return "a = Gemm(x, w, p) h = Relu(a) b = Gemm(h, u, q) k = Relu(b) z = Gemm(k, v, r)", weights


@pytest.mark.parametrize("biases", [False, True])
def test_epsilon_towards_0_is_the_gradient_times_the_input(biases: bool) -> None:
    rng = np.random.default_rng(0)
    body, weights = deep(rng, biases)
    x, weight = rng.normal(size=(1, 6)), rng.normal(size=(1, 3))
    net = model(
        f"(float[N,6] x) => (float[N,3] z) {{ {body} }}",
        **{n: w.astype(np.float32) for n, w in weights.items()},
    )
    product = x * carried(net, VJP, weight, x=x)["x"]
    for table in (EXACT, lrp(Lrp())):
        assert_carried(carried(net, table, weight, relevance=True, x=x)["x"], product)


def chosen(rule: str, **given: Any) -> Lrp:
    return Lrp(Chosen(rule), Chosen(rule), numbers=Numbers(**given))


EQUAL = {
    "alpha 1 and beta 0 is zplus": (chosen("alpha_beta", alpha=1.0, beta=0.0), chosen("zplus")),
    "gamma 0 is epsilon": (chosen("gamma", gamma=0.0), chosen("epsilon")),
    "gamma without end is zplus": (chosen("gamma", gamma=1e7), chosen("zplus")),
    "Captum's zplus is ours of inputs above 0": (chosen("zplus", captum=True), chosen("zplus")),
    "Captum's gamma is ours of inputs above 0": (
        chosen("gamma", captum=True, zero_bias=True), chosen("gamma", zero_bias=True)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EQUAL)
def test_two_rules_that_agree(name: str) -> None:
    rng = np.random.default_rng(3)
    body, weights = deep(rng, biases="Captum" not in name)
    body = "s = Abs(x) " + body.replace("Gemm(x,", "Gemm(s,") + " y = Relu(z)"
    body = body.replace("z = Gemm", "c = Gemm").replace("y = Relu(z)", "z = Relu(c)")
    x = rng.normal(size=(1, 6))
    one, other = (relevance(body, x, np.ones(3), lrp(asked), **weights) for asked in EQUAL[name])
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * np.abs(other).max())


# --- what has no weights


SUMS: dict[str, tuple[str, list[float]]] = {
    "Add of two": ("a = MatMul(x, w) z = Add(a, x)", [2, 0.5]),
    "Sub": ("a = MatMul(x, w) z = Sub(a, x)", [2, 0.5]),
    "Sum of three": ("a = MatMul(x, w) z = Sum(a, x, x)", [1, -1]),
    "Concat": ("a = MatMul(x, w) y = Concat <axis = 1> (a, x) z = MatMul(y, u)", [1]),
    "a mean": ("a = MatMul(x, w) z = ReduceMean <keepdims = 1> (a, axis)", [1]),
    "turned": ("t = Transpose <perm = [1, 0]> (x) s = Transpose <perm = [1, 0]> (t) z = MatMul(s, w)", [1, 2]),
    "a maximum": ("a = MatMul(x, w) z = ReduceMax <keepdims = 1> (a, axis)", [1]),
    "a SiLU": ("a = MatMul(x, w) s = Sigmoid(a) z = Mul(a, s)", [1, 1]),
    "a Gelu in parts": (
        "a = MatMul(x, w) d = Div(a, two) e = Erf(d) f = Add(e, one) g = Mul(a, f) z = Mul(g, half)", [1, 1]
    ),
    "a gate of other tensors": ("a = MatMul(x, w) m = MatMul(x, u2) s = Sigmoid(m) z = Mul(a, s)", [1, 1]),
    "a product of two": ("a = MatMul(x, w) z = Mul(a, x)", [1, 1]),
    "a square": ("z = Mul(x, x)", [1, 1]),
    "attention": (
        "a = MatMul(x, w) q = Unsqueeze(a, axis) k = Transpose <perm = [0, 2, 1]> (q) s = MatMul(k, q) "
        "p = Softmax(s) o = MatMul(q, p) z = Squeeze(o, axis)", [1, 1]
    ),
    "LayerNormalization": ("z = LayerNormalization <epsilon = 0.1> (x, scale)", [1, 1]),
    "a normalisation in parts": (
        "m = ReduceMean <keepdims = 1> (x, axis) c = Sub(x, m) s = Mul(c, c) v = ReduceMean <keepdims = 1> (s, axis) "
        "e = Add(v, half) r = Sqrt(e) z = Div(c, r)", [1, 2]
    ),
    "activations": ("a = MatMul(x, w) t = Tanh(a) l = LeakyRelu(t) e = Elu(l) z = Gelu(e)", [1, 2]),
    "halves of numbers": ("h = Cast <to = 10> (x) a = Relu(h) c = Cast <to = 1> (a) z = MatMul(c, w)", [1, 2]),
}  # fmt: skip
WEIGHTS = {
    "w": [[1.5, -0.5], [0.25, 2]], "u": [[1], [2], [-1], [0.5]], "u2": [[1, 2], [-1, 0.5]],
    "one": 1, "two": 2, "half": 0.5, "scale": [1, 0.5],
}  # fmt: skip


def used(body: str) -> dict[str, Any]:
    known = {**WEIGHTS, "axis": np.array([1])}
    return {name: value for name, value in known.items() if f"{name})" in body or f", {name}," in body}


@pytest.mark.parametrize("name", SUMS)
def test_relevance_is_neither_made_nor_lost_without_biases(name: str) -> None:
    body, weight = SUMS[name]
    x = np.array([[1.25, 0.75]], np.float32)
    constants = {n: np.asarray(v, np.int64 if n == "axis" else np.float32) for n, v in used(body).items()}
    net = model(f"(float[N,2] x) => (float[N,{len(weight)}] z) {{ {body} }}", **constants)
    found = carried(net, EXACT, np.array([weight]), relevance=True, layers=("x", "z"), x=x)
    assert_carried(found["x"].sum(), found["z"].sum())
    assert np.abs(found["x"]).max() > 0


def test_a_layer_of_which_only_a_gate_is_made_has_no_relevance() -> None:
    body = "m = MatMul(x, w) g = Sigmoid(m) z = Mul(x, g)"
    net = model(f"(float[N,2] x) => (float[N,2] z) {{ {body} }}", w=np.eye(2, dtype=np.float32))
    x = np.array([[1.0, -2.0]])
    found = carried(net, EXACT, np.ones((1, 2)), relevance=True, layers=("m", "x"), x=x)
    assert_carried(found["x"], x / (1 + np.exp(-x)))
    np.testing.assert_array_equal(found["m"], np.zeros((1, 2)))


def test_relevance_goes_through_the_steps_of_a_loop() -> None:
    """s = relu(s + w x), step by step: a constant beginning takes its share, the rest is the gradient times x."""
    text = """(float[4,2] x) => (float[2] y, float[4,2] all) {
        y, all = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] one) => (float[2] t, float[2] o) {
            m = Mul(one, w) n = Add(s, m) t = Relu(n) o = Identity(t)
        }> (start, x)
    }"""
    net = model(text, w=np.array([0.5, -1.5], np.float32), start=np.array([1, 2], np.float32))
    del net.graph.output[1]
    x = np.random.default_rng(0).normal(size=(4, 2))
    found = carried(net, EXACT, np.ones(2), relevance=True, x=x)["x"]
    assert_carried(found, x * carried(net, VJP, np.ones(2), x=x)["x"])
    assert np.abs(found).max() > 0


def test_what_is_added_shares_by_its_size() -> None:
    assert_carried(relevance("z = Add(x, c)", [3, -1], [1, 1], c=[1, -1]), [[3, -1]])
    assert_carried(relevance("n = Neg(x) z = Sub(n, c)", [3, -1], [1, 1], c=[1, -1]), [[-3, 1]])


def test_a_constant_that_is_added_takes_its_share_of_what_arrives() -> None:
    body = "y = Add(x, c) z = MatMul(y, w)"
    assert_carried(relevance(body, [3, 1], [1], c=[1, 1], w=[[1], [1]]), [[3, 1]])


def test_activations_pass_relevance_as_it_is() -> None:
    body = "t = Tanh(x) z = MatMul(t, w)"
    x, w = np.array([[0.5, -2]]), np.array([[1], [3]])
    assert_carried(relevance(body, x, [1], w=w), np.tanh(x) * w.T)


def test_quantised_numbers_have_the_relevance_of_what_they_stand_for() -> None:
    body = "q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) z = MatMul(d, w)"
    x, w = np.array([[0.5, 2]]), np.array([[1], [3]])
    assert_carried(relevance(body, x, [1], s=0.25, w=w), x * w.T)


def test_a_quantised_product_shares_by_the_numbers_that_integers_stand_for() -> None:
    """(x - 3) times weights as integers with a zero point of 2."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(-20, 20, (1, 4)) * 0.25, rng.integers(-20, 20, (4, 2))
    body = (
        "q = QuantizeLinear(x, s, p) y = QLinearMatMul(q, s, p, w, t, o, u, p) z = DequantizeLinear(y, u, p)"
    )
    net = model(f"(float[N,4] x) => (float[N,2] z) {{ {body} }}")
    for name, value in {
        "s": np.float32(0.25), "t": np.float32(0.5), "u": np.float32(2), "p": np.int8(3), "o": np.int8(2),
        "w": (w + 2).astype(np.int8),
    }.items():  # fmt: skip
        net.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    found = carried(net, lrp(Lrp()), np.ones((1, 2)), relevance=True, layers=("x", "z"), x=x)
    product = x @ (0.5 * w)
    np.testing.assert_allclose(found["z"], 2 * np.round(product / 2))
    assert_carried(found["x"], x * ((found["z"] / product) @ (0.5 * w).T))


def test_a_max_pool_hands_all_to_the_largest() -> None:
    net = model("(float[N,1,2,2] x) => (float[N,1,1,1] z) { z = MaxPool <kernel_shape = [2, 2]> (x) }")
    found = carried(net, EXACT, np.ones((1, 1, 1, 1)), relevance=True, x=[[[[1, 2], [5, 6]]]])["x"]
    assert_carried(found, [[[[0, 0], [0, 6]]]])


def test_a_normalisation_by_itself_is_a_factor_and_an_offset() -> None:
    one = {n: np.array(v, np.float32) for n, v in {"g": [2], "o": [1], "m": [0], "v": [1]}.items()}
    net = model(
        "(float[N,1,2] x) => (float[N,1,2] z) { z = BatchNormalization <epsilon = 0.0> (x, g, o, m, v) }",
        **one,
    )
    x = np.array([[[1.5, -2]]])
    assert_carried(carried(net, EXACT, np.ones((1, 1, 2)), relevance=True, x=x)["x"], 2 * x)


def test_zplus_without_biases_conserves_and_does_not_see_how_layers_are_scaled() -> None:
    rng = np.random.default_rng(5)
    body, weights = deep(rng, biases=True)
    x, table = np.abs(rng.normal(size=(1, 6))), lrp(chosen("zplus", zero_bias=True))
    weights |= {"v": np.abs(weights["v"]), "p": np.abs(weights["p"]) + 2}  # units are active
    found = relevance(body.replace("z = Gemm(k, v, r)", "z = MatMul(k, v)"), x, [1, 0, 0], table, **weights)
    scaled = {**weights, "w": 4 * weights["w"], "p": 4 * weights["p"], "u": weights["u"] / 4}
    other = relevance(body.replace("z = Gemm(k, v, r)", "z = MatMul(k, v)"), x, [1, 0, 0], table, **scaled)
    assert_carried(found, other)
    a = np.maximum(x @ weights["w"] + weights["p"], 0)
    value = np.maximum(a @ weights["u"] + weights["q"], 0) @ weights["v"]
    assert_carried(found.sum(), value[0, 0])
    assert (found >= 0).all()


# --- what is refused, and what may be named


REFUSED = {
    "Softmax": "z = Softmax(x)",
    "Sigmoid": "a = Sigmoid(x) z = MatMul(a, w)",
    "Exp": "z = Exp(x)",
    "Softplus": "z = Softplus(x)",
    "Sin": "z = Sin(x)",
}


@pytest.mark.parametrize("operator", REFUSED)
def test_what_has_no_rule_is_refused_by_name(operator: str) -> None:
    with pytest.raises(
        NotDifferentiable, match=rf"LRP has no rule for {operator} \(node .*rules='.=identity'"
    ):
        relevance(REFUSED[operator], [1, 2], [1, 1], **({"w": np.eye(2)} if "w" in REFUSED[operator] else {}))


@pytest.mark.parametrize("name", ["a", "Sigmoid"])
def test_a_rule_may_be_named_for_a_node(name: str) -> None:
    def of(rule: str) -> Array:
        table = lrp(Lrp(named=((name, Chosen(rule)),)))
        return relevance(REFUSED["Sigmoid"], x, [1, 1], table, w=np.eye(2))

    x = np.array([[1.0, -2]])
    s = 1 / (1 + np.exp(-x))
    assert_carried(of("identity"), s)
    assert_carried(of("epsilon"), x * s * (1 - s))
    assert_carried(of("derivative"), s * s * (1 - s))
    with pytest.raises(
        NotDifferentiable, match="the rule zplus is for products with weights, not for Sigmoid"
    ):
        of("zplus")
