"""Unrolled sequences: the same outputs, no sequence left, and a gradient that agrees with finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from onnx_attribution.graph_tools.normalise.unroll_sequences import unrolled
from tests.checks import assert_gradient
from tests.programs import contributions, gradients, slope


def parsed(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> f (float[4, 6] x, float[4, 2] w) {body}'
    )


BODIES = {
    "split into given sizes": """=> (float[4, 2] z) <int64[3] n = {2, 1, 3}, int64 first = {0}, int64 last = {-1}> {
        s = SplitToSequence <axis = 1> (x, n) a = SequenceAt(s, first) b = SequenceAt(s, last)
        c = ReduceSum(b) d = Mul(a, c) z = Mul(d, w) }""",
    "split into equal parts with a rest": """=> (float[4, 2] z) <int64 n = {4}, int64 k = {1}> {
        s = SplitToSequence <axis = -1> (x, n) a = SequenceAt(s, k) z = Mul(a, w) }""",
    "split into rows, without the axis": """=> (float[6] z) <int64 k = {2}> {
        s = SplitToSequence <axis = 0, keepdims = 0> (x) a = SequenceAt(s, k) z = Sin(a) }""",
    "split into rows, and joined along a new axis": """=> (float[6, 4] z) {
        s = SplitToSequence <keepdims = 0> (x) t = ConcatFromSequence <axis = -1, new_axis = 1> (s) z = Sin(t) }""",
    "made, changed and joined": """=> (float[4, 10] z) <int64 k = {0}, int64 j = {-1}> {
        a = Sin(x) s = SequenceConstruct(a, w) t = SequenceInsert(s, w, k) u = SequenceInsert(t, x)
        v = SequenceErase(u, j) y = Identity(v) z = ConcatFromSequence <axis = 1> (y) }""",
    "empty at first, and its length": """=> (float[4, 2] z) {
        s = SequenceEmpty() t = SequenceInsert(s, w) n = SequenceLength(t) m = Cast <to = 1> (n)
        y = ConcatFromSequence <axis = 0> (t) z = Mul(y, m) }""",
}


def outputs(model: onnx.ModelProto, values: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    run = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = run.run(None, values)
    return found


@pytest.mark.parametrize("name", BODIES)
def test_unrolled_sequence_has_the_same_outputs_and_a_gradient(name: str, rng: np.random.Generator) -> None:
    model = parsed(BODIES[name])
    values = {n: rng.standard_normal(s).astype(np.float32) for n, s in (("x", (4, 6)), ("w", (4, 2)))}
    plain = unrolled(model)
    assert not [node.op_type for node in plain.graph.node if "Sequence" in node.op_type]
    for found, expected in zip(outputs(plain, values), outputs(model, values), strict=True):
        np.testing.assert_array_equal(found, expected)
    wrt = [n for n in values if any(n in node.input for node in plain.graph.node)]
    assert_gradient(plain, values, wrt=wrt, forms=["fixed"])


def test_position_that_is_not_known_keeps_a_sequence_of_different_sizes() -> None:
    model = parsed("""=> (float[M] z) {
        i = Shape <start = 0, end = 1> (x) k = Squeeze(i) s = SequenceConstruct(x, w) z = SequenceAt(s, k) }""")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    assert "SequenceAt" in [node.op_type for node in unrolled(model).graph.node]


def test_sequence_that_leaves_the_graph_is_kept() -> None:
    model = parsed("""=> (seq(float[4, 2]) s, float[4, 2] z) <int64 k = {0}> {
        s = SequenceConstruct(w, w) z = SequenceAt(s, k) }""")
    assert [node.op_type for node in unrolled(model).graph.node] == ["SequenceConstruct", "Identity"]


def test_model_without_sequences_is_itself() -> None:
    model = parsed("=> (float[4, 6] z) { z = Sin(x) }")
    assert unrolled(model) is model


RUN_TIME = {
    "split of an unknown size, along a new axis": """(float[N,6] x) => (float[M,K] z) {
        s = SplitToSequence <keepdims = 0> (x) t = ConcatFromSequence <axis = 1, new_axis = 1> (s) z = Sin(t) }""",
    "split of an unknown size, side by side": """(float[N,6] x) => (float[M] z) {
        s = SplitToSequence <keepdims = 0> (x) t = ConcatFromSequence <axis = -1> (s) z = Sin(t) }""",
    "split of an unknown size that keeps the axis": """(float[N,6] x) => (float[M,K] z) {
        s = SplitToSequence (x) t = ConcatFromSequence <axis = 1> (s) z = Sin(t) }""",
    "split of unknown columns, with another axis before": """(float[4,N] x) => (float[M,K,L] z) {
        s = SplitToSequence <axis = 1> (x) t = ConcatFromSequence <axis = 1, new_axis = 1> (s) z = Sin(t) }""",
    "split into pieces of three with a rest": """(float[N,6] x) => (float[M,K] z) <int64 n = {3}> {
        s = SplitToSequence (x, n) t = ConcatFromSequence <axis = 0> (s) z = Sin(t) }""",
    "the last of an unknown number, times that number": """(float[N,6] x) => (float[6] z) <int64 n = {-1}> {
        s = SplitToSequence <keepdims = 0> (x) t = SequenceAt(s, n) l = SequenceLength(s) f = Cast <to = 1> (l)
        q = Sin(t) z = Mul(q, f) }""",
    "appended turn by turn": """(float[N,6] x) => (float[M,K] z) <int64 n = {3}> { e = SequenceEmpty()
        s = Loop (n, , e) <body = b (int64 i, bool c, seq(float[6]) q) => (bool d, seq(float[6]) r) {
            d = Identity(c) g = Gather(x, i) h = Sin(g) r = SequenceInsert(q, h) }>
        z = ConcatFromSequence <axis = 0, new_axis = 1> (s) }""",
    "appended turn by turn, side by side": """(float[4,6] x) => (float[M,K] z) <int64 n = {3}, int64[1] o = {0}> {
        e = SequenceEmpty()
        s = Loop (n, , e) <body = b (int64 i, bool c, seq(float[2,6]) q) => (bool d, seq(float[2,6]) r) {
            d = Identity(c) j = Unsqueeze(i, o) g = Gather(x, j) h = Sin(g) f = Concat <axis = 0> (h, g)
            r = SequenceInsert(q, f) }>
        z = ConcatFromSequence <axis = 0> (s) }""",
    "put in front, beside a state, before one that was there": """(float[4,6] x) => (float[M,K] z)
        <int64 n = {3}, float[6] st = {1, 2, 3, 4, 5, 6}, int64[1] one = {1}> {
        f = Identity(st) e = SequenceConstruct(f)
        u, s = Loop (n, , st, e) <
            body = b (int64 i, bool c, float[6] v, seq(float[6]) q) => (bool d, float[6] k, seq(float[6]) r)
            <int64 zero = {0}> { d = Identity(c) g = Gather(x, i) k = Mul(g, v) r = SequenceInsert(q, k, zero) }>
        a = ConcatFromSequence <axis = 1, new_axis = 1> (s) w = Unsqueeze(u, one) z = Mul(a, w) }""",
    "made by a branch": """(float[4,6] x) => (float[M,K] z) {
        t = ReduceSum <keepdims = 0> (x) on = GreaterOrEqual(t, t)
        s = If (on) <then_branch = p () => (seq(float[4,6]) a) { y = Sin(x) a = SequenceConstruct(y, x) },
            else_branch = q () => (seq(float[4,6]) b) { b = SequenceConstruct(x) }>
        z = ConcatFromSequence <axis = 0> (s) }""",
    "appended in a branch": """(float[N,6] x) => (float[M,K] z) <int64 n = {3}> {
        t = ReduceSum <keepdims = 0> (x) on = GreaterOrEqual(t, t)
        s = If (on) <
            then_branch = p () => (seq(float[6]) a) { e = SequenceEmpty()
                a = Loop (n, , e) <body = b (int64 i, bool c, seq(float[6]) q) => (bool d, seq(float[6]) r) {
                    d = Identity(c) g = Gather(x, i) h = Sin(g) r = SequenceInsert(q, h) }> },
            else_branch = o () => (seq(float[6]) y) { k = Constant <value_int = 0> () f = Gather(x, k)
                y = SequenceConstruct(f) }>
        z = ConcatFromSequence <axis = 0, new_axis = 1> (s) }""",
    "inside of a body, inserted at a constant": """(float[4,6] x) => (float[4,6] z) <int64 n = {2}> {
        z = Loop (n, , x) <body = b (int64 i, bool c, float[4,6] q) => (bool d, float[4,6] r) {
            d = Identity(c) s = SplitToSequence <axis = 1> (q) k = Constant <value_int = 2> () a = SequenceAt(s, k)
            m = Mul(q, a) l = SequenceConstruct(m, q) o = Constant <value_int = 0> () w = SequenceInsert(l, q, o)
            j = Constant <value_int = 1> () v = SequenceAt(w, j) r = Tanh(v) }> }""",
    "captured, at the number of the turn": """(float[4,6] x) => (float[6] z)
        <int64 n = {3}, float[6] st = {1, 2, 3, 4, 5, 6}> { s = SplitToSequence <keepdims = 0> (x)
        z = Loop (n, , st) <body = b (int64 i, bool c, float[6] q) => (bool d, float[6] r) {
            d = Identity(c) a = SequenceAt(s, i) r = Mul(a, q) }> }""",
}


@pytest.mark.parametrize("name", RUN_TIME)
def test_list_that_is_known_only_in_a_run_is_one_tensor(name: str, rng: np.random.Generator) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> f {RUN_TIME[name]}')
    x = rng.standard_normal((4, 6)).astype(np.float32)
    plain = unrolled(model)
    assert "Sequence" not in str(plain.graph.node)
    for found, expected in zip(outputs(plain, {"x": x}), outputs(model, {"x": x}), strict=True):
        np.testing.assert_array_equal(found, expected)
    z = outputs(model, {"x": x})[0]
    v, direction = rng.standard_normal(z.shape), rng.standard_normal(x.shape)
    gradient = gradients(model, {"x": x}, ["x"], v)["x"]
    measured = slope(model, {"x": x}, {"x": direction}, v, "z", 1e-2)
    np.testing.assert_allclose(
        (gradient * direction).sum(), measured, rtol=5e-3, atol=1e-2
    )  # curvature, float32
    total, change, size = contributions(model, {"x": x}, {"x": x / 2}, v)
    assert abs(total - change) <= 1e-5 * size


def test_list_that_cannot_be_read_as_a_tensor_leaves_the_model_as_it_was() -> None:
    """Of a list with one item before those that a Loop appends, an item at a place that only a run knows."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        f (float[4,6] x, int64 k) => (float[6] z)
        <int64 n = {3}, float[6] st = {1, 2, 3, 4, 5, 6}> { f = Identity(st) e = SequenceConstruct(f)
        s = Loop (n, , e) <body = b (int64 i, bool c, seq(float[6]) q) => (bool d, seq(float[6]) r) {
            d = Identity(c) g = Gather(x, i) r = SequenceInsert(q, g) }>
        z = SequenceAt(s, k) }""")
    assert unrolled(model) is model
