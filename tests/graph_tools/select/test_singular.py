"""Normalisations of what is zero where the sources are zero are found, written in one node or in several."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_attribution.graph_tools.ir.convert import graph_of
from onnx_attribution.graph_tools.select.singular import width_at_zero
from tests.graph_tools.select.test_layers import parsed

WEIGHTS = (
    "float[4,4] w = {1,-2,3,4, -1,2,0,1, 0,3,-2,1, 2,2,-1,-1}, float[4] b = {1,2,3,4}, float e = {0.0004}"
)
TURNING = {
    "a layer norm": ("n = LayerNormalization <epsilon: float = 0.0009> (x, b)  y = Tanh(n)", 0.03),
    "behind what is linear": (
        "h = MatMul(x, w)  y = LayerNormalization <epsilon: float = 0.0001> (h, b, b)",
        0.01,
    ),
    "by default": ("y = LayerNormalization (x, b)", 1e-5**0.5),
    "the first of two": (
        "n = LayerNormalization <epsilon: float = 0.01> (x, b)  m = Tanh(n)  y = LayerNormalization (m, b)",
        0.1,
    ),
    "a root mean square in nodes": (
        "s = Mul(x, x)  m = ReduceMean <keepdims: int = 1> (s)  a = Add(m, e)  r = Sqrt(a)  y = Div(x, r)",
        0.02,
    ),
    "the constant first": (
        "c = Constant <value: tensor = float {2}> ()  s = Pow(x, c)  m = ReduceMean (s)  a = Add(e, m)  r = Sqrt(a)  "
        "y = Div(x, r)",
        0.02,
    ),
}
OTHERS = {
    "a bias before": "h = Add(x, b)  y = LayerNormalization (h, b)",
    "beside the way": "n = LayerNormalization (w, b)  y = MatMul(x, n)",
    "behind the target": "y = Tanh(x)  z = LayerNormalization (x, b)",
    "none": "y = Tanh(x)",
    "a root of something else": "t = Tanh(x)  s = Mul(t, t)  a = Add(s, e)  y = Sqrt(a)",
}


@pytest.mark.parametrize(("body", "width"), TURNING.values(), ids=TURNING)
def test_what_turns_at_zero_is_found_with_its_width(body: str, width: float) -> None:
    graph = graph_of(parsed(f"(float[4,4] x) => (float[4,4] y) <{WEIGHTS}> {{ {body} }}"))
    assert width_at_zero(graph, ["x"], "y") == pytest.approx(width)


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_what_does_not_turn_at_zero_is_left_alone(body: str) -> None:
    graph = graph_of(parsed(f"(float[4,4] x) => (float[4,4] y) <{WEIGHTS}> {{ {body} }}"))
    assert width_at_zero(graph, ["x"], "y") == 0


def test_what_lies_before_a_source_is_not_on_the_way() -> None:
    body = "n = LayerNormalization (x, b)  y = Tanh(n)"
    graph = graph_of(parsed(f"(float[4,4] x) => (float[4,4] y) <{WEIGHTS}> {{ {body} }}"))
    assert width_at_zero(graph, ["n"], "y") == 0


def test_a_normalisation_with_a_skip_takes_the_sum() -> None:
    text = """
        <ir_version: 9, opset_import: ["": 20, "com.microsoft": 1]>
        net (float[4,4] x) => (float[4,4] y) <float[4,4] h> {
            h = Neg(x)  y = com.microsoft.SkipLayerNormalization <epsilon: float = 0.0004> (h, x, b, b)
        }
    """
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), "b"))
    assert width_at_zero(graph_of(model), ["x"], "y") == pytest.approx(0.02)
    assert width_at_zero(graph_of(model), ["h"], "y") == 0  # x is held, and is not zero
