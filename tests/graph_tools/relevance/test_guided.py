"""Guided backpropagation and the deconvolutional network: which functions are rectifiers, and what passes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.relevance.guided import DECONVNET, GUIDED_BACKPROP
from tests.graph_tools.relevance.carried import assert_carried, carried
from tests.methods.toys import model
from tests.programs import parsed

X = np.array([[2, -1, 1, 3]], np.float32)
R = np.array([[1, 5, -2, 0.5]])
TABLES = {"gradient": VJP, "guided_backprop": GUIDED_BACKPROP, "deconvnet": DECONVNET}
OPEN = np.array([1, 0, 1, 1])
TOY = {"gradient": R * OPEN, "guided_backprop": np.maximum(R, 0) * OPEN, "deconvnet": np.maximum(R, 0)}


def net(body: str, shape: str = "N,4") -> str:
    head = f"g (float[{shape}] x) => (float[{shape}] z)"
    return f"{head} <float zero = {{0}}, float three = {{3}}, float six = {{6}}> {{ {body} }}"


RECTIFIERS = {
    "Relu": "z = Relu(x)",
    "Clip from 0": "z = Clip(x, zero)",
    "ReLU6": "z = Clip(x, zero, six)",
    "Max with 0": "z = Max(x, zero)",
    "0 with Max": "z = Max(zero, x)",
    "ThresholdedRelu": "z = ThresholdedRelu <alpha = 0.5> (x)",
    "between casts": "h = Cast <to = 10> (x) a = Relu(h) z = Cast <to = 1> (a)",
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("rectifier", RECTIFIERS)
def test_what_passes_a_rectifier(rectifier: str, name: str) -> None:
    found = carried(parsed(net(RECTIFIERS[rectifier])), TABLES[name], R, x=X)["x"]
    assert_carried(found, TOY[name])


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("rectifier", ["Relu", "Clip from 0", "ReLU6"])
def test_what_passes_a_rectifier_of_images(rectifier: str, name: str) -> None:
    rng = np.random.default_rng(0)
    x, r = rng.normal(size=(2, 32, 3, 3)).astype(np.float32), rng.normal(size=(2, 32, 3, 3))
    found = carried(parsed(net(RECTIFIERS[rectifier], "N,32,3,3")), TABLES[name], r, x=x)["x"]
    passes = {
        "gradient": r * (x > 0),
        "guided_backprop": np.maximum(r, 0) * (x > 0),
        "deconvnet": np.maximum(r, 0),
    }
    assert_carried(found, passes[name])


def test_what_passes_a_relu6_above_6_is_what_the_deconvnet_lets_pass() -> None:
    x, weight = np.array([[7, 5, -1, 8]]), np.array([[1, 1, 1, -1]])
    found = {n: carried(parsed(net(RECTIFIERS["ReLU6"])), t, weight, x=x)["x"] for n, t in TABLES.items()}
    assert_carried(found["guided_backprop"], [[0, 1, 0, 0]])
    assert_carried(found["deconvnet"], [[1, 1, 1, 0]])


OTHERS = {
    "LeakyRelu": "z = LeakyRelu <alpha = 0.1> (x)",
    "PRelu": "z = PRelu(x, six)",
    "Elu": "z = Elu(x)",
    "Gelu": "z = Gelu(x)",
    "Sigmoid": "z = Sigmoid(x)",
    "Clip from below 0": "low = Neg(six) z = Clip(x, low, six)",
    "Max of two": "y = Neg(x) z = Max(x, y)",
    "HardSwish": "z = HardSwish(x)",
    "HardSwish with a Clip": "m = Add(x, three) c = Clip(m, zero, six) p = Mul(x, c) z = Div(p, six)",
}


@pytest.mark.parametrize("table", [GUIDED_BACKPROP, DECONVNET], ids=["guided_backprop", "deconvnet"])
@pytest.mark.parametrize("other", OTHERS)
def test_every_other_function_keeps_its_gradient(other: str, table: RuleTable) -> None:
    text = net(OTHERS[other])
    x = np.array([[-2.5, -1, 1, 3.5]])
    assert_carried(carried(parsed(text), table, -R, x=x)["x"], carried(parsed(text), VJP, -R, x=x)["x"])


BRANCH = """
    g (float[N,4] x, float[1] y) => (float[N,4] z) {
        c0 = Cast <to = 9> (y)
        c = Squeeze(c0)
        z = If(c) <
            then_branch = t () => (float[N,4] a) { a = Relu(x) },
            else_branch = e () => (float[N,4] b) { b = Neg(x) }
        >
    }"""


def test_a_rectifier_inside_of_a_branch_is_one() -> None:
    found = carried(parsed(BRANCH), GUIDED_BACKPROP, R, x=X, y=np.ones(1))["x"]
    assert_carried(found, TOY["guided_backprop"])


def test_a_rectifier_inside_of_an_operator_of_several_is_one() -> None:
    text = """g (float[N,1,4,1] x) => (float[N,1,4,1] z) <float[1,1,1,1] w = {1}> {
        z = com.microsoft.FusedConv <activation = "Relu"> (x, w)
    }"""
    x, r = X.reshape(1, 1, 4, 1), R.reshape(1, 1, 4, 1)
    for name, table in TABLES.items():
        assert_carried(carried(parsed(text), table, r, x=x)["x"], TOY[name].reshape(1, 1, 4, 1))


def test_of_weights_and_relevance_above_0_all_are_the_gradient() -> None:
    rng = np.random.default_rng(1)
    v, w = rng.uniform(0.1, 1, (5, 4)), rng.uniform(0.1, 1, (4, 3))
    text = "(float[N,5] x) => (float[N,3] z) { a = MatMul(x, v) h = Relu(a) z = MatMul(h, w) }"
    small = model(text, v=v.astype(np.float32), w=w.astype(np.float32))
    x, weight = rng.uniform(0.1, 1, (2, 5)), rng.uniform(0.1, 1, (2, 3))
    found = [carried(small, table, weight, x=x)["x"] for table in TABLES.values()]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_a_rule_that_is_a_twentieth_of_a_percent_wrong_fails() -> None:
    right = GUIDED_BACKPROP["", "Relu"]
    wrong = replace(right, vjp=lambda op, node, g: [op("Mul", x, 1.0005) for x in right.vjp(op, node, g)])
    found = carried(parsed(net("z = Relu(x)")), {**GUIDED_BACKPROP, ("", "Relu"): wrong}, R, x=X)["x"]
    with pytest.raises(AssertionError):
        assert_carried(found, TOY["guided_backprop"])
