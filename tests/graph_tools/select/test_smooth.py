"""Networks without kinks, and those of straight pieces, are known by their operators; no other is taken for one."""

from __future__ import annotations

import pytest

from onnx_attribution.graph_tools.ir.convert import graph_of
from onnx_attribution.graph_tools.select.smooth import is_piecewise_linear, is_smooth
from tests.graph_tools.select.test_layers import parsed

WEIGHTS = "float[4,4] w = {1,-2,3,4, -1,2,0,1, 0,3,-2,1, 2,2,-1,-1}, float[4] b = {1,2,3,4}"
SMOOTH = {
    "a plain network": "h = Gemm(x, w, b)  t = Tanh(h)  y = MatMul(t, w)",
    "attention": "q = MatMul(x, w)  k = Transpose(x)  s = MatMul(q, k)  p = Softmax(s)  y = MatMul(p, x)",
    "a normalisation": "n = LayerNormalization(x, b, b)  g = Gelu(n)  y = Add(g, x)",
    "a quotient": "e = Exp(x)  s = ReduceSum <keepdims: int = 1> (e)  y = Div(e, s)",
    "moved around": "t = Transpose(x)  j = Concat <axis: int = 1> (t, t)  y = ReduceMean <keepdims: int = 1> (j)",
    "a kink beside the way": "r = Relu(w)  y = MatMul(x, r)",
    "a kink behind the target": "y = Tanh(x)  z = Relu(y)",
}
OTHERS = {
    "Relu": "h = MatMul(x, w)  y = Relu(h)",
    "an absolute value": "a = Abs(x)  y = Tanh(a)",
    "the greatest": "y = Max(x, b)",
    "a bound": "l = Constant <value: tensor = float {0}> ()  y = Clip(x, l)",
    "a choice": "c = Greater(x, b)  y = Where(c, x, w)",
    "a largest element": "m = ReduceMax <keepdims: int = 1> (x)  y = Sub(x, m)",
    "rounded": "i = Cast <to: int = 6> (x)  f = Cast <to: int = 1> (i)  y = Add(f, x)",
    "an index": "a = ArgMax <keepdims: int = 0> (x)  y = Gather(x, a)",
}


@pytest.mark.parametrize("body", SMOOTH.values(), ids=SMOOTH)
def test_smooth_operators_are_known(body: str) -> None:
    graph = graph_of(parsed(f"(float[4,4] x) => (float[4,4] y) <{WEIGHTS}> {{ {body} }}"))
    assert is_smooth(graph.nodes, ["x"], "y")


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_a_kink_or_a_jump_on_the_way_is_seen(body: str) -> None:
    graph = graph_of(parsed(f"(float[4,4] x) => (float[4,4] y) <{WEIGHTS}> {{ {body} }}"))
    assert not is_smooth(graph.nodes, ["x"], "y")


def test_what_lies_before_a_source_does_not_matter() -> None:
    graph = graph_of(
        parsed(
            f"(float[4,4] x) => (float[4,4] y) <{WEIGHTS}> {{ r = Relu(x)  h = MatMul(r, w)  y = Tanh(h) }}"
        )
    )
    assert not is_smooth(graph.nodes, ["x"], "y")
    assert is_smooth(graph.nodes, ["r"], "y")


STRAIGHT = {
    "rectifiers": "h = Gemm(x, w, b)  r = LeakyRelu(h)  p = Relu(r)  y = MatMul(p, w)",
    "bounds and the greatest": "c = Clip(x, l, u)  m = Max(c, b)  y = ReduceMax <keepdims: int = 1> (m)",
    "linear": "t = Transpose(x)  s = Mul(t, b)  y = Add(s, x)",
    "a curve beside the way": "r = Tanh(w)  y = MatMul(x, r)",
}
BENT = {
    "a curve": "h = Relu(x)  y = Tanh(h)",
    "a product with itself": "r = Relu(x)  y = Mul(r, x)",
    "a quotient": "r = Relu(x)  y = Div(b, r)",
    "a Softmax": "r = Relu(x)  y = Softmax(r)",
    "rounded": "i = Cast <to: int = 6> (x)  f = Cast <to: int = 1> (i)  y = Add(f, x)",
}
BOUNDS = "float l = {-1}, float u = {1}"


@pytest.mark.parametrize("body", STRAIGHT.values(), ids=STRAIGHT)
def test_straight_pieces_are_known(body: str) -> None:
    graph = graph_of(parsed(f"(float[4,4] x) => (float[4,4] y) <{WEIGHTS}, {BOUNDS}> {{ {body} }}"))
    assert is_piecewise_linear(graph.nodes, ["x"], "y")


@pytest.mark.parametrize("body", BENT.values(), ids=BENT)
def test_what_bends_between_kinks_is_not_taken_for_straight(body: str) -> None:
    graph = graph_of(parsed(f"(float[4,4] x) => (float[4,4] y) <{WEIGHTS}> {{ {body} }}"))
    assert not is_piecewise_linear(graph.nodes, ["x"], "y")
