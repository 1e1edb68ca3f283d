"""If, Loop and Scan against finite differences: captured values, nesting, directions, axes and run-time trip counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.ir.convert import graph_of, model_of
from onnx_attribution.graph_tools.ir.reach import ancestors, dependents, reachable
from onnx_attribution.graph_tools.select.cuts import cut_tensors
from onnx_attribution.graph_tools.walk.differentiate import missing_rules
from tests.checks import FORMS, assert_gradient, gradient_model
from tests.programs import gradients

Array = NDArray[Any]


def parsed(text: str, opset: int = 21) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')


def normal(*shape: int) -> Array:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


def yes(value: bool) -> Array:
    return np.asarray(value)


def trips(count: int) -> Array:
    return np.asarray(count, dtype=np.int64)


MODELS: dict[str, tuple[str, Callable[[], dict[str, Array]]]] = {
    "if takes the then branch": (
        """f (bool c, float[2, 3] x, float[3] w) => (float[2, 3] z) {
          z = If (c) <then_branch = a () => (float[2, 3] p) { p = Mul(x, w) },
                      else_branch = b () => (float[2, 3] q) { q = Exp(x) }> }""",
        lambda: {"c": yes(True), "x": normal(2, 3), "w": normal(3)},
    ),
    "if takes the else branch, which reads one of the values": (
        """f (bool c, float[2, 3] x, float[3] w) => (float[2, 3] z) {
          z = If (c) <then_branch = a () => (float[2, 3] p) { p = Mul(x, w) },
                      else_branch = b () => (float[2, 3] q) { q = Exp(x) }> }""",
        lambda: {"c": yes(False), "x": normal(2, 3), "w": normal(3)},
    ),
    "if with two outputs, one of them not used, and constants inside": (
        """f (bool c, float[2, 3] x) => (float[2, 3] z) {
          h = Tanh(x)
          u, v = If (c) <
            then_branch = a () => (float[2, 3] p, float[2, 3] q) <float[3] k = {1, 2, 3}> { p = Mul(h, k) q = Sin(h) },
            else_branch = b () => (float[2, 3] r, float[2, 3] s) { r = Identity(h) s = Identity(h) }>
          z = Mul(u, h) }""",
        lambda: {"c": yes(True), "x": normal(2, 3)},
    ),
    "if whose branches have equal names inside": (
        """f (bool c, float[2] x) => (float[2] z) {
          z = If (c) <then_branch = a () => (float[2] p) { t = Sin(x) p = Mul(t, x) },
                      else_branch = b () => (float[2] p) { t = Cos(x) p = Mul(t, x) }> }""",
        lambda: {"c": yes(False), "x": normal(2)},
    ),
    "if in if": (
        """f (bool c, bool d, float[2] x, float[2] w) => (float[2] z) {
          z = If (c) <
            then_branch = a () => (float[2] p) {
              t = Mul(x, w)
              p = If (d) <then_branch = aa () => (float[2] y) { y = Mul(t, w) },
                          else_branch = ab () => (float[2] y) { y = Exp(t) }> },
            else_branch = b () => (float[2] q) { q = Identity(x) }> }""",
        lambda: {"c": yes(True), "d": yes(True), "x": normal(2), "w": normal(2)},
    ),
    "loop with a fixed number of trips, a captured weight and a stacked output": (
        """f (int64 m, float[2, 3] x, float[3, 3] w) => (float[2, 3] z, float[n, 2, 3] s) {
          z, s = Loop (m, , x) <body = b (int64 i, bool c, float[2, 3] h) => (bool d, float[2, 3] k, float[2, 3] o) {
            d = Identity(c) t = MatMul(h, w) k = Tanh(t) o = Mul(k, k) }> }""",
        lambda: {"m": trips(4), "x": normal(2, 3), "w": normal(3, 3)},
    ),
    "loop that no trip runs": (
        """f (int64 m, float[2, 3] x, float[3, 3] w) => (float[2, 3] z) {
          z = Loop (m, , x) <body = b (int64 i, bool c, float[2, 3] h) => (bool d, float[2, 3] k) {
            d = Identity(c) t = MatMul(h, w) k = Tanh(t) }> }""",
        lambda: {"m": trips(0), "x": normal(2, 3), "w": normal(3, 3)},
    ),
    "while loop that ends by its state, and reads the number of the trip": (
        """f (float[2] x, float[2] w) => (float[2] z) <int64 m = {100}, bool on = {1}, float top = {6.0}> {
          z, n = Loop (m, on, x, top) <
            body = b (int64 i, bool c, float[2] h, float r) => (bool d, float[2] k, float q) <float one = {1.0}> {
              t = Cast <to = 1> (i) u = Add(t, one) v = Mul(w, u) k = Add(h, v) q = Sub(r, one)
              e = ReduceSum <keepdims = 0> (q) d = Greater(e, one) }> }""",
        lambda: {"x": normal(2), "w": normal(2)},
    ),
    "loop without states": (
        """f (int64 m, float[4, 3] x, float[3] w) => (float[n, 3] s) <bool on = {1}> {
          s = Loop (m, on) <body = b (int64 i, bool c) => (bool d, float[3] o) {
            d = Identity(c) r = Gather(x, i) o = Mul(r, w) }> }""",
        lambda: {"m": trips(3), "x": normal(4, 3), "w": normal(3)},
    ),
    "if in loop": (
        """f (int64 m, float[2] x, float[2] w) => (float[2] z) <int64 two = {2}> {
          z = Loop (m, , x) <body = b (int64 i, bool c, float[2] h) => (bool d, float[2] k) {
            d = Identity(c) e = Less(i, two)
            k = If (e) <then_branch = p () => (float[2] y) { y = Mul(h, w) },
                        else_branch = q () => (float[2] y) { t = Sin(h) y = Mul(t, x) }> }> }""",
        lambda: {"m": trips(4), "x": normal(2), "w": normal(2)},
    ),
    "loop in loop": (
        """f (int64 m, float[2] x, float[2] w) => (float[2] z) <int64 two = {2}> {
          z = Loop (m, , x) <body = b (int64 i, bool c, float[2] h) => (bool d, float[2] k) {
            d = Identity(c)
            k = Loop (two, , h) <body = p (int64 j, bool e, float[2] g) => (bool a, float[2] y) {
              a = Identity(e) t = Mul(g, w) v = Sin(t) y = Add(v, h) }> }> }""",
        lambda: {"m": trips(3), "x": normal(2), "w": normal(2)},
    ),
    "scan with a captured weight, states and two outputs": (
        """f (float[2] h0, float[5, 3] x, float[3, 2] w) => (float[2] z, float[5, 2] s, float[5, 3] r) {
          z, s, r = Scan <num_scan_inputs = 1,
            body = b (float[2] h, float[3] v) => (float[2] k, float[2] o, float[3] p) {
            t = MatMul(v, w) u = Add(t, h) k = Tanh(u) o = Identity(k) p = Mul(v, v) }> (h0, x) }""",
        lambda: {"h0": normal(2), "x": normal(5, 3), "w": normal(3, 2)},
    ),
    "scan that reads one input backwards, and stacks one output backwards": (
        """f (float[2] h0, float[5, 2] x, float[5, 2] y) => (float[2] z, float[5, 2] s, float[5, 2] r) {
          z, s, r = Scan <num_scan_inputs = 2, scan_input_directions = [1, 0], scan_output_directions = [0, 1],
            body = b (float[2] h, float[2] v, float[2] u) => (float[2] k, float[2] o, float[2] p) {
              t = Mul(v, h) k = Sin(t) a = Add(k, u) o = Mul(a, v) p = Mul(u, h) }> (h0, x, y) }""",
        lambda: {"h0": normal(2), "x": normal(5, 2), "y": normal(5, 2) + 1},
    ),
    "scan along other axes": (
        """f (float[2] h0, float[2, 5] x) => (float[2] z, float[2, 5] s) {
          z, s = Scan <num_scan_inputs = 1, scan_input_axes = [-1], scan_output_axes = [1], scan_input_directions = [1],
            body = b (float[2] h, float[2] v) => (float[2] k, float[2] o) {
              t = Mul(v, h) k = Tanh(t) o = Exp(k) }> (h0, x) }""",
        lambda: {"h0": normal(2), "x": normal(2, 5)},
    ),
    "scan without states": (
        """f (float[5, 2] x, float[2] w) => (float[5, 2] s) {
          s = Scan <num_scan_inputs = 1, body = b (float[2] v) => (float[2] o) {
            t = Mul(v, w) o = Sin(t) }> (x) }""",
        lambda: {"x": normal(5, 2), "w": normal(2)},
    ),
    "scan in scan": (
        """f (float[2] h0, float[3, 4, 2] x, float[2] w) => (float[2] z, float[3, 4, 2] s) {
          z, s = Scan <num_scan_inputs = 1, body = b (float[2] h, float[4, 2] v) => (float[2] k, float[4, 2] o) {
            k, o = Scan <num_scan_inputs = 1, body = p (float[2] g, float[2] u) => (float[2] y, float[2] q) {
              t = Mul(g, w) a = Add(t, u) y = Tanh(a) q = Mul(y, h) }> (h, v) }> (h0, x) }""",
        lambda: {"h0": normal(2), "x": normal(3, 4, 2), "w": normal(2)},
    ),
    "scan with a state of integers": (
        """f (float[2] h0, float[5, 2] x) => (float[2] z) <int64 zero = {0}> {
          z, n = Scan <num_scan_inputs = 1, body = b (float[2] h, int64 c, float[2] v) => (float[2] k, int64 d) <
            int64 one = {1}> { d = Add(c, one) e = Cast <to = 1> (d) t = Mul(v, e) k = Add(h, t) }> (h0, zero, x) }""",
        lambda: {"h0": normal(2), "x": normal(5, 2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    text, values = MODELS[name]
    assert_gradient(parsed(text), values(), forms=("free",) if "one of the values" in name else FORMS)


@pytest.mark.parametrize("name", MODELS)
def test_gradient_needs_no_types_inside(name: str) -> None:
    """Inner graphs whose outputs and values have no declared types are inferred."""
    text, values = MODELS[name]
    model = parsed(text)
    for node in model.graph.node:
        for attribute in node.attribute:
            for info in attribute.g.output:
                info.ClearField("type")
    assert_gradient(model, values(), forms=["free"])


def test_second_derivative_of_a_loop_is_the_gradient_of_its_gradient() -> None:
    text, values = MODELS["loop with a fixed number of trips, a captured weight and a stacked output"]
    graph, _ = gradient_model(parsed(text), ["x"])
    graph.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    inputs = {**values(), "v/z": normal(2, 3), "v/s": normal(4, 2, 3)}
    assert_gradient(graph, inputs, wrt=["x", "w"], forms=["fixed"])


CAPTURING = """f (bool c, float[2] x, float[2] w) => (float[2] z) {
  a = Sin(x) b = Exp(w)
  z = If (c) <then_branch = p () => (float[2] y) {
                y = If (c) <then_branch = pp () => (float[2] q) { q = Mul(a, a) },
                            else_branch = pq () => (float[2] q) { q = Identity(a) }> },
              else_branch = r () => (float[2] y) { y = Neg(a) }> }"""


def test_captured_values_count_as_read() -> None:
    graph = graph_of(onnx.shape_inference.infer_shapes(parsed(CAPTURING)))
    nodes = list(graph.nodes)
    assert dependents(nodes, ["x"]) == {"x", "a", "z"}
    assert ancestors(nodes, ["z"]) == {"c", "x", "a", "z"}
    assert reachable(nodes, ["x"]) == {"x", "a", "z"}
    assert cut_tensors(nodes, ["x"], "z") == {"x", "a", "z"}


def test_captured_values_survive_pruning() -> None:
    model = model_of(graph_of(parsed(CAPTURING)))
    assert [node.op_type for node in model.graph.node] == ["Sin", "If"]
    run = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = normal(2)
    (found,) = run.run(None, {"c": yes(False), "x": x, "w": x})
    np.testing.assert_allclose(found, -np.sin(x), rtol=1e-6)


def test_value_that_no_branch_passes_on_has_no_way() -> None:
    text = """f (bool c, float[2] x, float[2] w) => (float[2] z) {
      z = If (c) <then_branch = p () => (float[2] y) { u = Round(w) y = Add(u, x) },
                  else_branch = q () => (float[2] y) { y = Identity(x) }> }"""
    with pytest.raises(NotDifferentiable, match="'w'"):
        gradient_model(parsed(text), ["x", "w"])


INNER_WITHOUT_RULE = """f (int64 m, float[2, 2] x) => (float[2, 2] z) {
  z = Loop (m, , x) <body = b (int64 i, bool c, float[2, 2] h) => (bool d, float[2, 2] k) {
    d = Identity(c) e = NonZero(h) t = Unheard(h) k = Mul(t, h) }> }"""


def test_operator_without_a_rule_inside_is_named() -> None:
    model = onnx.shape_inference.infer_shapes(parsed(INNER_WITHOUT_RULE))
    graph = graph_of(model)
    missing = missing_rules(list(graph.nodes), ["x"], "z")
    assert [node.op for node in missing] == ["Unheard"]


def test_state_that_is_a_sequence_is_refused_by_name() -> None:
    text = """f (int64 m, float[2] x) => (float[2] z) {
      s0 = SequenceConstruct(x)
      s1, z = Loop (m, , s0, x) <
        body = b (int64 i, bool c, seq(float[2]) s, float[2] h) => (bool d, seq(float[2]) t, float[2] k) {
          d = Identity(c) k = Mul(h, h) t = SequenceInsert(s, h) }> }"""
    with pytest.raises(NotDifferentiable, match="sequence"):
        gradient_model(parsed(text), ["x"])


ROUNDING = {
    "state": """{
        n = Constant<value_int=2>()
        go = Constant<value=bool {1}>()
        y = Loop(n, go, x)<body: graph = b (int64 i, bool c, float[2,4] h) => (bool co, float[2,4] ho) {
            co = Identity(c)
            [cut] ho = Round(h)
        }>
    }""",
    "output": """{
        n = Constant<value_int=2>()
        go = Constant<value=bool {1}>()
        h, ys = Loop(n, go, x)<
            body: graph = b (int64 i, bool c, float[2,4] h0) => (bool co, float[2,4] ho, float[2,4] o) {
                co = Identity(c)
                ho = Identity(h0)
                [cut] o = Round(h0)
            }
        >
        first = Constant<value_int=0>()
        y = Gather(ys, first)
    }""",
    "scan": """{
        s0 = Constant<value_float=0.0>()
        s, y0 = Scan(s0, x)<num_scan_inputs: int = 1, body: graph = b (float t, float[4] e) => (float to, float[4] o) {
            to = Identity(t)
            [cut] o = Round(e)
        }>
        y = Mul(y0, y0)
    }""",
}


@pytest.mark.parametrize("name", ROUNDING)
def test_an_iteration_that_derivatives_do_not_pass_is_no_zero_but_named(name: str) -> None:
    model = parsed(f"net (float[2,4] x) => (float[2,4] y) {ROUNDING[name]}")
    with pytest.raises(
        NotDifferentiable, match=r"is zero: every way goes through Round \(node 'cut'\) in (Loop|Scan)"
    ):
        gradients(model, {"x": normal(2, 4)}, ["x"], normal(2, 4))
