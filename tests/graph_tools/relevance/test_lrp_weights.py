"""Every rule of LRP at every operator with weights, beside its definition with the operator as a matrix.

The matrix is read off onnx's reference evaluator, column by column.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.relevance.lrp import Lrp, lrp
from onnx_attribution.graph_tools.relevance.weights import Chosen, Numbers
from tests.definitions.lrp import shared
from tests.graph_tools.relevance.carried import Array, assert_carried, carried
from tests.methods.toys import model


def numbers(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def channels(count: int) -> dict[str, Array]:
    """A normalisation's numbers."""
    scale, offset, mean = numbers(count), numbers(count, 1)[:, 0], numbers(count, 2)[:, 0]
    return {"g": scale, "o": offset, "m": mean, "v": np.abs(numbers(count, 3)[:, 0]) + np.float32(0.5)}


NETS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Array]]] = {
    "MatMul": ("z = MatMul(x, w)", (4,), (3,), {"w": numbers(4, 3)}),
    "MatMul with its bias": ("y = MatMul(x, w) z = Add(y, b)", (4,), (3,), {"w": numbers(4, 3), "b": numbers(3)}),
    "bias first": ("y = MatMul(x, w) z = Add(b, y)", (4,), (3,), {"w": numbers(4, 3), "b": numbers(3)}),
    "MatMul of rows": ("y = MatMul(x, w) z = Add(y, b)", (5, 4), (5, 3), {"w": numbers(4, 3), "b": numbers(3)}),
    "weights on the left": ("z = MatMul(w, x)", (4, 2), (3, 2), {"w": numbers(3, 4)}),
    "Gemm": ("z = Gemm(x, w, b)", (4,), (3,), {"w": numbers(4, 3), "b": numbers(3)}),
    "Gemm, turned": (
        "z = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b)", (4,), (3,), {"w": numbers(3, 4), "b": numbers(3)}
    ),
    "Einsum": ('z = Einsum <equation = "ni,ij->nj"> (x, w)', (4,), (3,), {"w": numbers(4, 3)}),
    "Conv1d": ("z = Conv <pads = [1, 1]> (x, w, b)", (2, 5), (3, 5), {"w": numbers(3, 2, 3), "b": numbers(3)}),
    "Conv2d": (
        "z = Conv <strides = [2, 2], pads = [1, 0, 1, 0]> (x, w, b)", (2, 5, 4), (3, 3, 1),
        {"w": numbers(3, 2, 3, 3), "b": numbers(3)},
    ),
    "Conv3d": ("z = Conv (x, w)", (1, 3, 3, 3), (2, 2, 2, 2), {"w": numbers(2, 1, 2, 2, 2)}),
    "in groups": ("z = Conv <group = 2> (x, w, b)", (4, 4), (4, 3), {"w": numbers(4, 2, 2), "b": numbers(4)}),
    "ConvTranspose": (
        "z = ConvTranspose <strides = [2]> (x, w, b)", (2, 3), (3, 6), {"w": numbers(2, 3, 2), "b": numbers(3)}
    ),
    "Conv with its BatchNormalization": (
        "y = Conv (x, w, b) z = BatchNormalization(y, g, o, m, v)", (2, 5), (3, 3),
        {"w": numbers(3, 2, 3), "b": numbers(3), **channels(3)},
    ),
    "ConvTranspose with its BatchNormalization": (
        "y = ConvTranspose (x, w) z = BatchNormalization(y, g, o, m, v)", (2, 3), (3, 4),
        {"w": numbers(2, 3, 2), **channels(3)},
    ),
}  # fmt: skip
RULES: dict[str, dict[str, Any]] = {
    "epsilon": {"rule": "epsilon", "epsilon": 0.1},
    "gamma": {"rule": "gamma", "gamma": 0.5},
    "zplus": {"rule": "zplus"},
    "alpha_beta": {"rule": "alpha_beta"},
    "w2": {"rule": "w2"},
    "flat": {"rule": "flat"},
    "box": {"rule": "box", "low": -2.0, "high": 2.5},
    "gamma of Captum": {"rule": "gamma", "form": "captum"},
    "zplus of Captum": {"rule": "zplus", "form": "captum"},
    "zplus without the bias": {"rule": "zplus", "zero_bias": True, "epsilon": 0.01},
    "epsilon without the bias": {"rule": "epsilon", "zero_bias": True},
}


def asked(rule: str, **given: Any) -> Lrp:
    given = {**given}
    form = given.pop("form", "general")
    return Lrp(Chosen(rule), Chosen(rule), numbers=Numbers(**given, captum=form == "captum"))


def built(name: str) -> onnx.ModelProto:
    body, shape, made, weights = NETS[name]
    text = "(float[N,{}] x) => (float[N,{}] z) {{ {} }}"
    return model(text.format(",".join(map(str, shape)), ",".join(map(str, made)), body), **weights)


def matrix(net: onnx.ModelProto, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """W and b of z = x W + b."""
    size, run = int(np.prod(shape)), ReferenceEvaluator(net).run
    points = [np.zeros((1, *shape), np.float32), *np.eye(size, dtype=np.float32).reshape(size, 1, *shape)]
    made: list[Any] = [next(iter(run(None, {"x": one}))) for one in points]
    offset, *rows = (np.asarray(one, np.float64) for one in made)
    offset = offset.reshape(-1)
    return np.stack([one.reshape(-1) - offset for one in rows]), offset


EVERYWHERE = ("epsilon", "gamma", "alpha_beta", "flat", "zplus without the bias")
SOME = ("Gemm, turned", "Conv2d", "Conv with its BatchNormalization")
BOTH = [(name, rule) for name in NETS for rule in RULES if rule in EVERYWHERE or name in SOME]


@pytest.mark.parametrize(("name", "rule"), BOTH)
def test_a_rule_is_its_definition(name: str, rule: str) -> None:
    net, shape, made, given = built(name), NETS[name][1], NETS[name][2], RULES[rule]
    rng = np.random.default_rng(1)
    x, weight = rng.normal(size=(2, *shape)).astype(np.float32), rng.uniform(0.5, 2, (2, *made))
    w, b = matrix(net, shape)
    w[np.abs(w) < 1e-6] = 0  # what rounding leaves beyond the kernel
    flat = x.reshape(2, -1).astype(np.float64)
    wanted = shared(flat, w, b, (flat @ w + b) * weight.reshape(2, -1), **given)
    found = carried(net, lrp(asked(**given)), weight, relevance=True, x=x)["x"]
    assert_carried(found.reshape(2, -1), wanted)


@pytest.mark.parametrize("rule", ["zplus", "gamma", "alpha_beta", "epsilon"])
def test_behind_a_relu_where_no_element_is_below_0_a_rule_is_its_definition(rule: str) -> None:
    net = model(
        "(float[N,5] x) => (float[N,3] z) { a = Relu(x) y = Gemm(a, w, b) z = Relu(y) }",
        w=numbers(5, 3),
        b=numbers(3),
    )
    x, weight = np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32), np.ones((3, 3))
    a, w, b = (
        np.maximum(x.astype(np.float64), 0),
        numbers(5, 3).astype(np.float64),
        numbers(3).astype(np.float64),
    )
    wanted = shared(a, w, b, np.maximum(a @ w + b, 0), rule)
    assert_carried(carried(net, lrp(asked(rule)), weight, relevance=True, x=x)["x"], wanted)


def test_identity_passes_relevance_as_it_is_where_shapes_allow() -> None:
    square = model("(float[N,3] x) => (float[N,3] z) { z = MatMul(x, w) }", w=numbers(3, 3))
    x = np.array([[1.0, 0.0, -2.0]])
    found = carried(square, lrp(asked("identity")), np.ones((1, 3)), relevance=True, x=x)["x"]
    assert_carried(found, x @ numbers(3, 3))
    with pytest.raises(NotDifferentiable, match=r"identity passes relevance as it is; MatMul .* makes"):
        carried(built("MatMul"), lrp(asked("identity")), np.ones((1, 3)), relevance=True, x=np.ones((1, 4)))


def test_a_rule_that_is_a_twentieth_of_a_percent_wrong_fails() -> None:
    x, weight = numbers(2, 4), np.ones((2, 3))
    table, w = lrp(asked("zplus")), numbers(4, 3).astype(np.float64)
    right = table["", "MatMul"]
    wrong = replace(
        right, vjp=lambda op, node, r: [g and op("Mul", g, 1.0005) for g in right.vjp(op, node, r)]
    )
    found = carried(built("MatMul"), {**table, ("", "MatMul"): wrong}, weight, relevance=True, x=x)["x"]
    wide = x.astype(np.float64)
    with pytest.raises(AssertionError):
        assert_carried(found, shared(wide, w, np.zeros(3), wide @ w, "zplus"))
