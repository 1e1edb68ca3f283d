"""The gradient of a length where it is 0: the middle of its kink, not NaN; other roots stay infinite there."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_attribution.graph_tools.ir.convert import graph_of
from onnx_attribution.graph_tools.operators.squares import is_sum_of_squares
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.method_names import PATH_METHODS
from tests.methods.toys import model, values
from tests.programs import gradients

LENGTHS = {
    "of two parts": "a = Mul(x, x) b = Mul(y, y) s = Add(a, b) z = Sqrt(s)",
    "by powers": "a = Pow(x, two) b = Pow(y, two) s = Sum(a, b) z = Pow(s, half)",
    "of a list": (
        "c = Concat<axis=1>(x, y) d = Reshape(c, pairs) a = Mul(d, d) s = ReduceSum<keepdims=0>(a, last) z = Sqrt(s)"
    ),
    "reduced": "c = Concat<axis=1>(x, y) d = Reshape(c, pairs) s = ReduceSumSquare<keepdims=0>(d, last) z = Sqrt(s)",
    "of a mean": (
        "c = Concat<axis=1>(x, y) d = Reshape(c, pairs) a = Abs(d) q = Mul(a, a) m = ReduceMean<keepdims=0>(q, last) "
        "s = Mul(m, two) z = Sqrt(s)"
    ),
}
NEVER = "m = ReduceMax<keepdims=0>(x) c = Less(m, m)"
HERE = "p = Constant<value = double {2}>() h = Constant<value = double {0.5}>()"
LENGTHS |= {
    "in a branch": f"""{NEVER} z = If(c) <then_branch = t () => (double[M,4] q) {{ q = Tanh(x) }},
        else_branch = e () => (double[M,4] r) {{ {HERE} a = Pow(x, p) b = Pow(y, p) s = Add(a, b) r = Sqrt(s) }}>""",
    "by powers in a branch": f"""{NEVER} z = If(c) <then_branch = t () => (double[M,4] q) {{ q = Tanh(x) }},
        else_branch = e () => (double[M,4] r) {{ {HERE} a = Pow(x, two) b = Pow(y, p) s = Add(a, b)
            r = Pow(s, h) }}>""",
    "of squares outside of the branch": f"""{NEVER} a = Mul(x, x) b = Mul(y, y) s = Add(a, b)
        z = If(c) <then_branch = t () => (double[M,4] q) {{ q = Tanh(x) }},
                   else_branch = e () => (double[M,4] r) {{ r = Sqrt(s) }}>""",
    "in a loop": f"""n = Constant<value = int64 {{1}}>() k = Constant<value = bool {{1}}>() o = Sub(x, x)
        z = Loop(n, k, o) <body = l (int64 i, bool g, double[M,4] v) => (bool d, double[M,4] w) {{ {HERE}
            d = Identity(g) a = Pow(x, p) b = Pow(y, p) s = Add(a, b) r = Sqrt(s) w = Add(v, r) }}>""",
}
CONSTANTS = {"two": 2.0, "half": 0.5, "pairs": [-1, 2, 4], "last": [1]}
X, Y = np.array([[3.0, 0.0, 1.0, 0.0]]), np.array([[4.0, 0.0, -1.0, 2.0]])


def text(nodes: str) -> str:
    return f"(double[N,4] x, double[N,4] y) => (double[N,4] z) {{ {nodes} }}"


@pytest.mark.parametrize("nodes", LENGTHS.values(), ids=LENGTHS)
def test_the_gradient_of_a_length_of_0_is_0(nodes: str) -> None:
    found = gradients(model(text(nodes), **CONSTANTS), {"x": X, "y": Y}, ["x", "y"], np.ones((1, 4)))
    length = np.hypot(X, Y)
    for name, part in (("x", X), ("y", Y)):
        expected = np.divide(part, length, out=np.zeros_like(part), where=length > 0)
        np.testing.assert_allclose(found[name], expected, rtol=1e-12)


@pytest.mark.parametrize("method", sorted(PATH_METHODS))
@pytest.mark.parametrize("nodes", LENGTHS.values(), ids=LENGTHS)
def test_a_path_from_silence_is_finite(nodes: str, method: str) -> None:
    """On the line from 0 a length grows evenly: x^2 and y^2 over it, less half a segment at the kink."""
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("length", model(text(nodes), **CONSTANTS))
        asked = AttributionRequest("length", {"x": X, "y": Y}, method, target=Target(index=0), steps=64)
        answer = engine.attribute(asked)
    assert not [w for w in answer.warnings if "NaN" in w]
    for name, share in (("x", 9 / 5), ("y", 16 / 5)):
        np.testing.assert_allclose(values(answer, name)[0, 0], share, rtol=1 / 64)


@pytest.mark.parametrize(
    "nodes",
    [
        "z = Sqrt(x)",
        "a = Mul(x, y) z = Sqrt(a)",
        "a = Mul(x, x) b = Sub(a, y) z = Sqrt(b)",
        "z = Pow(x, half)",
    ],
)
def test_other_roots_are_no_lengths(nodes: str) -> None:
    graph = graph_of(model(text(nodes), **CONSTANTS))
    root = graph.nodes[-1]
    assert not is_sum_of_squares(root.inputs[0])
