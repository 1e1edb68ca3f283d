"""Unrolled sequences: the same outputs, no sequence left, and a gradient that agrees with finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from onnx_attribution.graph_tools.sequences import unrolled
from tests.checks import assert_gradient


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


def test_position_that_is_not_known_keeps_the_sequence() -> None:
    model = parsed("""=> (float[4, 2] z) {
        i = Shape <start = 0, end = 1> (x) k = Squeeze(i) s = SequenceConstruct(w, w) z = SequenceAt(s, k) }""")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    assert "SequenceAt" in [node.op_type for node in unrolled(model).graph.node]


def test_sequence_that_leaves_the_graph_is_kept() -> None:
    model = parsed("""=> (seq(float[4, 2]) s, float[4, 2] z) <int64 k = {0}> {
        s = SequenceConstruct(w, w) z = SequenceAt(s, k) }""")
    assert [node.op_type for node in unrolled(model).graph.node] == ["SequenceConstruct", "Identity"]


def test_model_without_sequences_is_itself() -> None:
    model = parsed("=> (float[4, 6] z) { z = Sin(x) }")
    assert unrolled(model) is model
