"""Logits of targets that a softmax or a sigmoid makes: whole, in parts, and behind what rearranges them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Target
from tests.methods.toys import Floats, explain, model, values

rng = np.random.default_rng(3)
W = rng.normal(size=(4, 3))
X = rng.normal(size=(2, 4))
NUMBERS = {
    "W": W, "last": np.array([-1]), "first": np.array([1]), "one": np.array(1.0), "minus": np.array(-1.0),
    "half": np.array(0.5), "zero": np.array(0.0), "eps": np.array(1e-9), "low": np.array(-np.inf),
    "wide": np.ones((1, 3)),
}  # fmt: skip


def softmax(z: Floats) -> Floats:
    raised = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def sigmoid(z: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-z)))


SOFTMAX = {
    "quotient": "e = Exp(z) s = ReduceSum(e, last) y = Div(e, s)",
    "less the maximum": "m = ReduceMax(z, last) d = Sub(z, m) e = Exp(d) s = ReduceSum(e, last) y = Div(e, s)",
    "axes dropped and put back": """m = ReduceMax<keepdims = 0>(z, last) mu = Unsqueeze(m, last) d = Sub(z, mu)
        e = Exp(d) s = ReduceSum<keepdims = 0>(e, last) su = Unsqueeze(s, last) y = Div(e, su)""",
    "as jax writes it": """m = ReduceMax<keepdims = 0>(z, last) b = Max(low, m) u = Unsqueeze(b, first)
        d = Sub(z, u) e = Exp(d) s = ReduceSum<keepdims = 0>(e, first) t = Unsqueeze(s, first) y = Div(e, t)""",
    "by the negative maximum": """m = ReduceMax(z, last) n = Neg(m) d = Add(z, n) e = Exp(d)
        s = ReduceSum(e, last) y = Div(e, s)""",
    "less the mean": "m = ReduceMean(z, last) d = Sub(z, m) e = Exp(d) s = ReduceSum(e, last) y = Div(e, s)",
    "reciprocal": "e = Exp(z) s = ReduceSum(e, last) r = Reciprocal(s) y = Mul(r, e)",
    "two exponentials": "e = Exp(z) f = Exp(z) s = ReduceSum(f, last) y = Div(e, s)",
    "a floor": "e = Exp(z) s = ReduceSum(e, last) t = Add(s, eps) y = Div(e, t)",
    "exponential of a logarithm": "l = LogSoftmax(z) y = Exp(l)",
    "exponential less the logarithm": "l = ReduceLogSumExp(z, last) d = Sub(z, l) y = Exp(d)",
    "normalised by L1": "e = Exp(z) y = LpNormalization<p = 1>(e)",
    "cast": "p = Softmax(z) f = Cast<to = 1>(p) y = Cast<to = 11>(f)",
}
LOG_SOFTMAX = {
    "logarithm": "p = Softmax(z) y = Log(p)",
    "ReduceLogSumExp": "l = ReduceLogSumExp(z, last) y = Sub(z, l)",
    "ReduceLogSum": "e = Exp(z) l = ReduceLogSum(e, last) y = Sub(z, l)",
    "logarithm of a sum": "e = Exp(z) s = ReduceSum(e, last) l = Log(s) y = Sub(z, l)",
    "shifted": """m = ReduceMax(z, last) d = Sub(z, m) e = Exp(d) s = ReduceSum(e, last) l = Log(s)
        y = Sub(d, l)""",
    "shifted and back": """m = ReduceMax(z, last) d = Sub(z, m) e = Exp(d) s = ReduceSum(e, last) l = Log(s)
        a = Add(l, m) y = Sub(z, a)""",
}
SIGMOID = {
    "one over": "n = Neg(z) e = Exp(n) a = Add(one, e) y = Div(one, a)",
    "exponential over": "e = Exp(z) a = Add(e, one) y = Div(e, a)",
    "reciprocal": "n = Mul(z, minus) e = Exp(n) a = Add(e, one) y = Reciprocal(a)",
    "power": "n = Sub(zero, z) e = Exp(n) a = Add(e, one) y = Pow(a, minus)",
    "ones of a shape": "n = Neg(z) e = Exp(n) a = Add(wide, e) y = Div(wide, a)",
    "hyperbolic tangent": "h = Mul(z, half) t = Tanh(h) a = Add(t, one) y = Mul(a, half)",
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


@pytest.mark.parametrize(
    ("nodes", "function", "operator"),
    [
        *((nodes, softmax, "Softmax") for nodes in SOFTMAX.values()),
        *((nodes, lambda z: np.log(softmax(z)), "LogSoftmax") for nodes in LOG_SOFTMAX.values()),
        *((nodes, sigmoid, "Sigmoid") for nodes in SIGMOID.values()),
    ],
    ids=[f"{kind}: {form}" for kind, forms in (("softmax", SOFTMAX), ("log", LOG_SOFTMAX), ("sigmoid", SIGMOID))
         for form in forms],
)  # fmt: skip
def test_an_activation_in_parts_has_the_logit_of_the_whole(
    engine: Engine, nodes: str, function: Callable[[Floats], Floats], operator: str
) -> None:
    net = model(f"(double[N,4] x) => (double[N,3] y) {{ z = MatMul(x, W) {nodes} }}", **NUMBERS)
    plain = explain(engine, net, {"x": X}, "gradient", target=Target(index=1))
    np.testing.assert_allclose(
        plain.target.value, function(X @ W)[:, 1], rtol=1e-6
    )  # one form is cast to float32
    (advice,) = [w for w in plain.warnings if "logit" in w]
    assert f"made by {operator}, which saturates; recommended is its logit 'z'" in advice
    answer = explain(engine, net, {"x": X}, "gradient", target=Target(index=1, logit=True))
    assert answer.target.tensor == "z"
    np.testing.assert_allclose(values(answer), [W[:, 1]] * 2, rtol=1e-12)


@pytest.mark.parametrize(
    "nodes",
    [
        "s = Sigmoid(z) y = Mul(z, s)",
        "h = Mul(z, half) s = Sigmoid(h) y = Mul(z, s)",
        "y = Tanh(z)",
        "y = Exp(z)",
        "e = Exp(z) q = Mul(z, z) f = Exp(q) s = ReduceSum(f, last) y = Div(e, s)",
        "e = Exp(z) s = ReduceSumSquare(e, last) y = Div(e, s)",
        "e = Exp(z) a = Add(e, half) y = Div(one, a)",
        "e = Exp(z) a = Add(e, one) y = Div(half, a)",
        "e = Exp(z) s = ReduceSum(e, last) t = Add(s, one) y = Div(e, t)",
        "m = ReduceMax(z, last) d = Sub(z, m) e = Exp(d) s = ReduceSum(e, last) l = Log(s) y = Sub(z, l)",
        "e = Exp(z) s = ReduceSum(e, last) l = Log(s) m = ReduceMax(z, last) d = Sub(z, m) y = Sub(d, l)",
        "p = Softmax(z) q = Softmax(x) k = MatMul(q, W) y = Mul(p, k)",
    ],
)
def test_what_only_looks_like_one_has_no_logit(engine: Engine, nodes: str) -> None:
    net = model(f"(double[N,4] x) => (double[N,3] y) {{ z = MatMul(x, W) {nodes} }}", **NUMBERS)
    assert not any(
        "logit" in w for w in explain(engine, net, {"x": X}, "gradient", target=Target(index=1)).warnings
    )
    with pytest.raises(InvalidArgument, match="not made by a Softmax"):
        explain(engine, net, {"x": X}, "gradient", target=Target(index=1, logit=True))


def test_a_maximum_over_another_axis_is_not_taken_out(engine: Engine) -> None:
    """exp(z - m) over its sum along another axis is the softmax of z - m, not of z."""
    net = model(
        """(double[N,2,3] z) => (double[N,2,3] y) {
            m = ReduceMax(z, last) d = Sub(z, m) e = Exp(d) s = ReduceSum(e, first) y = Div(e, s)
        }""", **NUMBERS,
    )  # fmt: skip
    answer = explain(
        engine, net, {"z": X.reshape(1, 2, 4)[..., :3]}, "gradient", target=Target(index=(0, 1), logit=True)
    )
    assert answer.target.tensor == "d"


TAILS = {
    "a slice": ("N,2", "y = Slice(p, first, three, first)", 1, 2),
    "one class": ("N", "y = Gather<axis = 1>(p, two)", None, 2),
    "a permutation": ("3,N", "y = Transpose(p)", 2, 2),
    "parts in another order": (
        "N,3",
        "s0, s1, s2 = Split<axis = 1, num_outputs = 3>(p) y = Concat<axis = 1>(s2, s0, s1)",
        1,
        0,
    ),
    "classes by number": ("N,2", "y = Gather<axis = 1>(p, order)", 0, 2),
    "a reshape with an axis more": ("N,1,3,1", "y = Reshape(p, shape)", (0, 2, 0), 2),
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("kind", ["double", "float", "float16"])
def test_elements_that_are_taken_from_a_softmax_have_their_own_logits(
    engine: Engine, tail: str, kind: str
) -> None:
    shape, nodes, index, column = TAILS[tail]
    number = {"double": 11, "float": 1, "float16": 10}[kind]
    net = model(
        f"""(double[N,4] x) => ({kind}[{shape}] y) {{
            w = MatMul(x, W) c = Cast<to = {number}>(w) z = Neg(c) p = Softmax(z) {nodes}
        }}""", W=W, first=np.array([1]), three=np.array([3]), two=np.array(2), order=np.array([2, 0]),
        shape=np.array([0, 1, 3, 1]),
    )  # fmt: skip
    answer = explain(engine, net, {"x": X}, "gradient", target=Target(index=index, logit=True))
    assert answer.target.tensor == "z"
    np.testing.assert_allclose(
        values(answer), [-W[:, column]] * 2, rtol=2e-3 if kind == "float16" else 1e-6
    )  # its digits
    assert any("indices are those of 'y'" in w for w in answer.warnings)


def test_both_probabilities_of_a_sigmoid_have_its_argument_as_logit_with_a_sign(engine: Engine) -> None:
    v = rng.normal(size=(4, 1))
    net = model(
        """(double[N,4] x) => (double[N,2] y) {
            z = MatMul(x, V) p = Sigmoid(z) q = Sub(one, p) y = Concat<axis = 1>(q, p)
        }""", V=v, one=np.array(1.0),
    )  # fmt: skip
    for target, expected in (
        (Target(index=0, logit=True), -v[:, 0]),
        (Target(index=1, logit=True), v[:, 0]),
        (Target(index=1, minus=0, logit=True), 2 * v[:, 0]),
        (Target(index=np.array([0.5, 2.0]), logit=True), 1.5 * v[:, 0]),
    ):
        answer = explain(engine, net, {"x": X}, "gradient", target=target)
        np.testing.assert_allclose(values(answer), [expected] * 2, rtol=1e-12)
        np.testing.assert_allclose(answer.target.value, X @ expected, rtol=1e-12)


def test_the_largest_class_of_what_is_taken_is_that_of_the_target_not_of_the_logit(engine: Engine) -> None:
    net = model(
        "(double[N,4] x) => (double[N,2] y) { z = MatMul(x, W) p = Softmax(z) y = Slice(p, first, three, first) }",
        W=W, first=np.array([1]), three=np.array([3]),
    )  # fmt: skip
    best = 1 + (X @ W)[:, 1:].argmax(axis=1)
    answer = explain(engine, net, {"x": X}, "gradient", target=Target(logit=True))
    np.testing.assert_allclose(values(answer), W[:, best].T, rtol=1e-12)


def test_two_heads_have_no_logit_in_common(engine: Engine) -> None:
    net = model(
        """(double[N,4] x) => (double[N,6] y) {
            z = MatMul(x, W) n = Neg(z) p = Softmax(z) q = Softmax(n) y = Concat<axis = 1>(p, q)
        }""", W=W,
    )  # fmt: skip
    with pytest.raises(InvalidArgument, match="not made by a Softmax"):
        explain(engine, net, {"x": X}, "gradient", target=Target(index=1, logit=True))


def test_a_sigmoid_of_the_negative_has_a_negative_logit(engine: Engine) -> None:
    """1 / (1 + exp(z)) is the sigmoid of -z, which no tensor of the file holds."""
    nodes = "e = Exp(z) a = Add(e, one) y = Div(one, a)"
    net = model(f"(double[N,4] x) => (double[N,3] y) {{ z = MatMul(x, W) {nodes} }}", **NUMBERS)
    best = (-X @ W).argmax(axis=1)
    for target, columns in ((Target(logit=True), best), (Target(index=1, logit=True), [1, 1])):
        answer = explain(engine, net, {"x": X}, "gradient", target=target)
        np.testing.assert_allclose(values(answer), -W[:, columns].T, rtol=1e-12)
        np.testing.assert_allclose(answer.target.value, -(X @ W)[[0, 1], columns], rtol=1e-12)
        assert "the logit of 'y' is the negative of 'z'" in answer.warnings
