"""Shapes: what is dropped, what inference and runs put in its place."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_attribution.graph_tools.ir.shapes import Dims, dims_of
from onnx_attribution.graph_tools.normalise import observed, types
from onnx_attribution.graph_tools.normalise.declarations import forget
from onnx_attribution.graph_tools.normalise.plain_form import declared
from onnx_attribution.server.engine.backend import Backend

BACKEND = Backend("cpu", 1)


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')


def found(model: onnx.ModelProto, **inputs: list[object]) -> dict[str, Dims | None]:
    arrays = {name: np.asarray(value, np.float32) for name, value in inputs.items()}
    typed = types.typed(declared(model), BACKEND.run, arrays)
    return {v.name: dims_of(v) for v in [*typed.graph.value_info, *typed.graph.output]}


def test_a_state_that_grows_in_a_loop_has_no_size_and_one_that_does_not_has_its_own() -> None:
    model = parsed(
        """n (float[N,2] x) => (float y, float z) <int64 three = {3}, bool yes = {1}> {
        y, z = Loop(three, yes, x, x) <body = b (int64 i, bool c, float[1,2] s, float[1,2] t) =>
            (bool d, float[1,2] u, float[1,2] v) { d = Identity(c) u = Concat<axis = 0>(s, x) v = Tanh(t) }> }"""
    )
    settled = types.inferred(declared(model))
    body = next(a.g for node in settled.graph.node for a in node.attribute if a.HasField("g"))
    grows, stays = (dims_of(x) for x in body.input[2:])
    assert grows is not None
    assert grows[0] != "N"
    assert stays == ("N", 2)


def test_a_number_that_the_values_decide_is_not_taken_for_fixed() -> None:
    model = parsed(
        "n (float[4] x) => (float[1,K] y, float[4] z) { i = NonZero(x) y = Cast<to = 1>(i) z = Tanh(x) }"
    )
    known = found(model, x=[1.0, 0.0, 2.0, 3.0])
    assert known["z"] == (4,)
    assert known["y"] is not None
    assert known["y"][1] != 3


def test_a_cut_that_fits_the_example_only_has_no_size() -> None:
    """The first 8 of a length: 8 at 8 and at 16, and 5 at 5."""
    model = parsed(
        """n (float[N,S] x) => (float[N,K] y) <int64[1] zero = {0}, int64[1] eight = {8}, int64[1] one = {1}> {
        y = Slice(x, zero, eight, one) }"""
    )
    known = found(model, x=[[float(k) for k in range(8)]])["y"]
    assert known is not None
    assert known[1] != 8


@pytest.mark.parametrize("half", [True, False])
def test_a_branch_that_takes_half_the_size_is_seen_at_that(
    monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    """At another rate the other branch is taken, which has weights for half as much sound: the rank of what it reshapes
    is known from a run of that size only.
    """
    if not half:
        monkeypatch.setattr(observed, "_halved", lambda model, sample: [])
    model = parsed(
        """n (float[1,S] x, int64 rate) => (float[P,Q] y) <int64 known = {16}, bool[5] here = {0,0,0,1,1},
        int64[1] zero = {0}> { c = Equal(rate, known) i = NonZero(here) k = Squeeze(i, zero)
        y = If(c) <then_branch = t () => (float[A,B] a) { a = MatMul(x, whole) },
                   else_branch = e () => (float[C,D] b) { p = MatMul(x, part) r = Reshape(p, k) b = Tanh(r) }> }"""
    )
    for name, shape in (("whole", (8, 4)), ("part", (4, 12))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    sample = {"x": np.ones((1, 8), np.float32), "rate": np.array(16)}
    settled = types.typed(declared(model), BACKEND.run, sample)
    branch = next(a.g for node in settled.graph.node for a in node.attribute if a.name == "else_branch")
    dims = {v.name: dims_of(v) for v in branch.value_info}
    assert dims["r"] == ((None, None) if half else None)


def test_what_a_search_declares_of_its_decoder_stays() -> None:
    inner = onnx.parser.parse_graph("g (float[1,4] a) => (float[1,4] b) { b = Tanh(a) }")
    model = parsed("n (float[N,4] x) => (float[N,4] y) { y = Tanh(x) }")
    model.graph.node[0].op_type, model.graph.node[0].domain = "BeamSearch", "com.microsoft"
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("decoder", inner))
    forget(model)
    assert dims_of(model.graph.node[0].attribute[0].g.input[0]) == (1, 4)
