from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.server.engine.answer.nan_origin import origin
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import Array

NET = '<ir_version: 8, opset_import: ["" : 17]> net (float[N, 3] x) => (float[N, 3] y) '


def origin_at(body: str, x: list[float]) -> str | None:
    model = LoadedModel(onnx.parser.parse_model(NET + body), Backend("cpu", 1))
    row: Array = np.array([x], dtype=np.float32)
    weight = np.array([[1, 1, 1]], dtype=np.float32)
    return origin(model, Choice(("x",), ("x",), "y"), [{"x": row, "target/weight": weight}])


@pytest.mark.parametrize(
    ("body", "x", "words"),
    [
        ("{ [root] a = Sqrt(x) y = Tanh(a) }", [-1, 1, 2], "NaN begins in the forward pass, at Sqrt (node 'root'"),
        ("{ a = Identity(x) [root] b = Sqrt(a) y = Tanh(b) }", [0, 1, 2], "in the backward pass, at Sqrt (node 'root'"),
        ("{ [grow] a = Exp(x) y = Identity(a) }", [1000, 1, 2], "in the backward pass, at Exp (node 'grow'"),
        ("{ [grow] a = Exp(x) [flat] y = Tanh(a) }", [100, 1, 2], "at Exp (node 'grow', output 'a')"),
    ],
)  # fmt: skip
def test_the_first_node_that_loses_the_number_is_named(body: str, x: list[float], words: str) -> None:
    assert words in (origin_at(body, x) or "")


BRANCHES = """{
    s = ReduceSum<keepdims=0>(x)
    zero = Constant<value = float {0}>()
    c = Greater(s, zero)
    [choice] r = If(c) <
        then_branch = inner () => (float[N, 3] t) {
            far = Constant<value = float {9}>()
            d = Greater(s, far)
            [deep] t = If(d) <
                then_branch = deepest () => (float[N, 3] u) { e = Exp(x) [quotient] u = Div(e, e) },
                else_branch = other () => (float[N, 3] w) { e = Exp(x) w = Identity(e) }
            >
        },
        else_branch = outer () => (float[N, 3] v) { e = Neg(x) [root] f = Sqrt(x) v = Add(e, f) }
    >
    y = Tanh(r)
}"""


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([-1, -1, -1], "NaN begins in the forward pass, at Sqrt (node 'root', output 'f')"),
        ([1000, 0, 0], "NaN begins in the forward pass, at Div (node 'quotient'"),
    ],
)
def test_a_node_in_a_branch_that_is_taken_is_named(x: list[float], words: str) -> None:
    assert (origin_at(BRANCHES, x) or "").startswith(words)
    assert origin_at(BRANCHES, [1, 1, 1]) is None


def test_finite_numbers_have_no_origin() -> None:
    assert origin_at("{ a = Exp(x) y = Tanh(a) }", [0, 1, 2]) is None
