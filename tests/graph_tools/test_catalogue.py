"""The table of operators says what the records hold."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_attribution.graph_tools.catalogue import catalogue
from onnx_attribution.graph_tools.normalise.function_bodies import expanded, has_body
from onnx_attribution.graph_tools.normalise.pipeline import normalise
from onnx_attribution.graph_tools.operators import VJP, ZERO_DERIVATIVE
from onnx_attribution.server.engine.backend import Backend
from tests.checks import assert_gradient

TABLE = {(entry.domain, entry.operator): entry for entry in catalogue()}


def test_every_operator_with_a_rule_or_a_reason_is_listed_once() -> None:
    assert set(VJP) | set(ZERO_DERIVATIVE) <= set(TABLE)
    assert len(TABLE) == len(catalogue())


def test_every_live_operator_of_the_standard_is_listed() -> None:
    live = {s.name for s in onnx.defs.get_all_schemas() if s.domain == "" and not s.deprecated}
    assert live <= {operator for domain, operator in TABLE if domain == ""}


@pytest.mark.parametrize(
    ("operator", "gradient", "deeplift"),
    [
        ("MatMul", "rule", "product"),
        ("Reshape", "rule", "linear"),
        ("Sinh", "rule", "secant"),
        ("Relu", "rule", "own rule"),
        ("Attention", "function body", "function body"),
        ("QuantizeLinear", "straight-through", "own rule"),
        ("Round", "zero", "own rule"),
        ("Shape", "zero", "zero"),
        ("SequenceAt", "unrolled", "unrolled"),
        ("Affine", "rewritten", "rewritten"),
        ("SequenceMap", "refused", "refused"),
    ],
)
def test_operator_is_of_its_kind(operator: str, gradient: str, deeplift: str) -> None:
    entry = TABLE["", operator]
    assert (entry.gradient, entry.deeplift) == (gradient, deeplift)


def test_operators_of_one_name_in_two_domains_have_records_of_their_own() -> None:
    assert TABLE["", "GatherND"].deeplift == "own rule"
    assert TABLE["com.microsoft", "GatherND"].deeplift == "function body"


def test_no_operator_that_onnx_tags_differentiable_is_refused() -> None:
    tagged = [entry for entry in TABLE.values() if entry.tagged]
    assert len(tagged) == 120
    assert [entry.operator for entry in tagged if entry.gradient == "refused"] == []


def test_zero_derivative_says_why() -> None:
    assert all(bool(entry.reason) == (entry.gradient == "zero") for entry in TABLE.values())


# --- bodies


def test_body_within_a_body_is_expanded_at_the_opset_of_the_model() -> None:
    text = """<ir_version: 10, opset_import: ["" : 22]>
        g (float[2,3] x, int64[2] t) => (float z) { z = SoftmaxCrossEntropyLoss(x, t) }"""
    made = expanded(onnx.parser.parse_model(text))
    assert [(e.domain, e.version) for e in made.opset_import] == [("", 22)]
    assert not [n.op_type for n in made.graph.node if n.op_type.endswith("Loss")]
    onnx.checker.check_model(made, full_check=True)


def test_body_reads_the_default_of_an_attribute_and_absent_inputs() -> None:
    text = '<ir_version: 10, opset_import: ["" : 28]> g (float[2,3] x, float[2,3] y) => (float[2,3] z) {'
    made = expanded(onnx.parser.parse_model(text + " z = SwiGLU(x, y) }"))
    assert [n.attribute[0].f for n in made.graph.node if n.op_type == "Constant"] == [1.0]
    text = """<ir_version: 10, opset_import: ["" : 24]>
        g (float[1,2,4,8] q, float[1,2,6,8] k, float[1,2,6,8] v, int64[1] n) => (float[1,2,4,8] z)
        { z = Attention(q, k, v, "", "", "", n) }"""
    made = expanded(onnx.parser.parse_model(text))
    assert "Attention" not in {n.op_type for n in made.graph.node}


def test_body_inside_a_branch_is_expanded() -> None:
    text = """<ir_version: 10, opset_import: ["" : 24]>
        g (bool c, float[2,4] x) => (float[2,4] z) {
          z = If(c) <then_branch = t () => (float[2,4] a) { a = SoftmaxCrossEntropyLoss<reduction = "none">(x, k) },
                     else_branch = e () => (float[2,4] b) { b = Identity(x) }>
        }"""
    made = expanded(onnx.parser.parse_model(text.replace("float[2,4] x", "float[2,4,4] x, int64[2,4] k")))
    branch = made.graph.node[-1].attribute[0].g
    assert not [n.op_type for n in branch.node if n.op_type.endswith("Loss")]
    assert len(branch.node) > 1


def test_operators_with_a_rule_stay_whole() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[2,3] x) => (float[2,3] z) { z = Softmax(x) }'
    model = onnx.parser.parse_model(text)
    assert has_body("", "Softmax", 21)
    assert expanded(model) is model


def test_optional_that_holds_a_tensor_is_opened() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[2,3] x) => (float[2,3] z, bool there) {
        o = Optional(x)  y = OptionalGetElement(o)  z = Exp(y)  there = OptionalHasElement(o) }"""
    model = onnx.parser.parse_model(text)
    x = np.ones((2, 3), np.float32)
    made = normalise(model, Backend("cpu").run, [{"x": x}])
    assert not [n.op_type for n in made.model.graph.node if n.op_type.startswith("Optional")]
    found = Backend("cpu").run(made.model, {"x": x}, ["z", "there"])
    np.testing.assert_allclose(np.asarray(found["z"], np.float32), np.exp(x), rtol=1e-6)
    assert found["there"]
    assert_gradient(made.model, {"x": x}, forms=["fixed"])
