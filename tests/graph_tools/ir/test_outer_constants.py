"""Constants of inner graphs move out of them: the model computes the same, and programs hold them once."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_attribution.errors import ModelError
from onnx_attribution.graph_tools.ir.nodes import inner_graphs
from onnx_attribution.graph_tools.ir.outer_constants import hoist
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel

Floats = NDArray[np.float32]


def vector(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 40])


def branch(name: str, result: str, *nodes: onnx.NodeProto, **constants: Floats) -> onnx.GraphProto:
    held = [numpy_helper.from_array(array, n) for n, array in constants.items()]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(result, 1, [1, 40])], held)


def choosing(then: onnx.GraphProto, otherwise: onnx.GraphProto) -> onnx.ModelProto:
    """`y = then if sum(x) > 0 else otherwise`."""
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], "choose", then_branch=then, else_branch=otherwise),
    ]
    graph = helper.make_graph(nodes, "choosing", [vector("x")], [vector("y")], [zero])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def matrix(rng: np.random.Generator) -> Floats:
    return rng.normal(size=(40, 40)).astype(np.float32)


def multiply(weight: str, result: str) -> onnx.NodeProto:
    return helper.make_node("MatMul", ["x", weight], [result])


def hoisted(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with constants outside, which has to compute the same in both branches."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    hoist(copy.graph)
    for sign in (1, -1):
        x = sign * np.ones((1, 40), np.float32)
        (wanted,), (found,) = (ReferenceEvaluator(m).run(None, {"x": x}) for m in (model, copy))
        np.testing.assert_array_equal(found, wanted)
    return copy


def test_weights_of_branches_that_have_one_name_become_two(rng: np.random.Generator) -> None:
    first, second = matrix(rng), matrix(rng)
    model = hoisted(
        choosing(
            branch("then", "a", multiply("w", "a"), w=first),
            branch("else", "b", multiply("w", "b"), w=second),
        )
    )
    arrays = [numpy_helper.to_array(t) for t in model.graph.initializer[1:]]
    arrays.sort(key=lambda a: not np.array_equal(a, first))
    np.testing.assert_array_equal(arrays, [first, second])
    assert not any(a.g.initializer for a in model.graph.node[-1].attribute)


def test_equal_weights_of_branches_become_one(rng: np.random.Generator) -> None:
    both = matrix(rng)
    model = hoisted(
        choosing(
            branch("then", "a", multiply("w", "a"), w=both), branch("else", "b", multiply("v", "b"), v=both)
        )
    )
    assert len(model.graph.initializer) == 2


def test_a_constant_that_a_branch_returns_is_still_made_there(rng: np.random.Generator) -> None:
    held = rng.normal(size=(1, 40)).astype(np.float32)
    model = hoisted(
        choosing(branch("then", "a", multiply("w", "a"), w=matrix(rng)), branch("else", "b", b=held))
    )
    assert [n.op_type for n in model.graph.node[-1].attribute[0].g.node] in (["MatMul"], ["Identity"])
    onnx.checker.check_model(model)


def test_large_constant_nodes_move_and_small_ones_stay(rng: np.random.Generator) -> None:
    large = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(matrix(rng)))
    small = helper.make_node(
        "Constant", [], ["two"], value=numpy_helper.from_array(np.full(1, 2, np.float32))
    )
    then = branch("then", "a", large, multiply("w", "a"))
    otherwise = branch("else", "b", small, helper.make_node("Mul", ["x", "two"], ["b"]))
    model = hoisted(choosing(then, otherwise))
    kinds = [sorted(n.op_type for n in a.g.node) for a in model.graph.node[-1].attribute]
    assert sorted(kinds) == [["Constant", "Mul"], ["MatMul"]]


def test_constants_of_graphs_in_graphs_move_all_the_way_out(rng: np.random.Generator) -> None:
    inner = choosing(
        branch("then", "a", multiply("w", "a"), w=matrix(rng)),
        branch(
            "else", "b", helper.make_node("Add", ["x", "w"], ["b"]), w=rng.normal(size=40).astype(np.float32)
        ),
    ).graph
    inner.node[-1].output[0] = "inner_y"
    inner.node[0].output[0] = inner.node[1].input[0] = "inner_sum"
    inner.node[1].output[0] = inner.node[2].input[0] = "inner_positive"
    then = branch("outer_then", "inner_y", *inner.node, zero=np.zeros((), np.float32))
    model = hoisted(choosing(then, branch("outer_else", "c", multiply("w", "c"), w=matrix(rng))))
    assert len(model.graph.initializer) == 4  # both zeros are one
    onnx.checker.check_model(model)


def graphs_in(graph: onnx.GraphProto) -> dict[str, onnx.GraphProto]:
    """The inner graphs by name, however deep."""
    inside = {inner.name: inner for node in graph.node for inner in inner_graphs(node)}
    return inside | {name: found for inner in inside.values() for name, found in graphs_in(inner).items()}


LOOP = """y = Loop(n, true, x)<body = outer (int64 i, bool c, float[1,5] k) => (bool d, float[1,5] z) {
    d = Identity(c) BODY }>"""
INNER = """z = Loop(n, c, k)<body = inner (int64 j, bool e, float[1,5] g) => (bool f, float[1,5] o) {
    f = Identity(e) p = Mul(g, own) s = Add(p, k) o = Sin(s) }>"""


@pytest.mark.parametrize(("body", "graph"), [("q = Mul(k, own) z = Tanh(q)", "outer"), (INNER, "inner")])
def test_a_constant_equal_to_one_that_an_input_hides_keeps_a_name_of_its_own(
    body: str, graph: str, rng: np.random.Generator
) -> None:
    loop = LOOP.replace("BODY", body)
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> hiding (float[1,5] x) => (float[1,5] y)'
        f" {{ n = Constant<value_int = 2>() true = Constant<value = bool {{1}}>() {loop} }}"
    )
    k = rng.normal(size=5).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(k, "k"))
    graphs_in(model.graph)[graph].initializer.append(numpy_helper.from_array(k, "own"))
    backend, x = Backend("cpu"), {"x": rng.normal(size=(1, 5)).astype(np.float32)}
    wanted: Any = backend.run(model, x, ["y"])["y"]
    loaded = LoadedModel(model, backend)
    hoist(model.graph)
    assert {t.name for t in model.graph.initializer} == {"k", "own"}
    for changed in (model, loaded.network.model):
        found: Any = backend.run(changed, x, ["y"])["y"]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_constant_equal_to_one_whose_name_a_node_of_its_branch_has_keeps_its_own(
    rng: np.random.Generator,
) -> None:
    both = matrix(rng)
    nodes = (helper.make_node("Sin", ["x"], ["k"]), helper.make_node("MatMul", ["k", "own"], ["b"]))
    hoisted(choosing(branch("then", "a", multiply("k", "a"), k=both), branch("else", "b", *nodes, own=both)))


def test_a_constant_of_another_value_between_two_equal_ones_is_not_mistaken(rng: np.random.Generator) -> None:
    first, second = matrix(rng), matrix(rng)
    inner = choosing(
        branch("then", "a", multiply("own", "a"), own=first), branch("else", "b", multiply("k", "b"))
    ).graph
    for node in inner.node:
        for names in (node.input, node.output):
            names[:] = [name if name in ("x", "zero") else f"inner_{name}" for name in names]
    between = branch("between", "inner_y", *inner.node, k=second)
    model = choosing(between, branch("outer_else", "c", multiply("k", "c")))
    model.graph.initializer.append(numpy_helper.from_array(first, "k"))
    hoisted(model)


def test_a_returned_constant_is_made_under_its_name_also_where_an_outer_one_equals_it(
    rng: np.random.Generator,
) -> None:
    held = rng.normal(size=(1, 40)).astype(np.float32)
    model = choosing(branch("then", "a", multiply("w", "a"), w=matrix(rng)), branch("else", "b", b=held))
    model.graph.initializer.append(numpy_helper.from_array(held, "b"))
    hoisted(model)


def test_a_copy_of_an_outer_constant_under_its_name_becomes_that_one(rng: np.random.Generator) -> None:
    both = matrix(rng)
    model = choosing(branch("then", "a", multiply("w", "a"), w=both), branch("else", "b", multiply("w", "b")))
    model.graph.initializer.append(numpy_helper.from_array(both, "w"))
    assert [t.name for t in hoisted(model).graph.initializer] == ["zero", "w"]


def test_a_constant_without_a_value_is_left_to_the_runtime(rng: np.random.Generator) -> None:
    empty = helper.make_node("Constant", [], ["w"])
    then, otherwise = (
        branch("then", "a", empty, multiply("w", "a")),
        branch("else", "b", multiply("v", "b"), v=matrix(rng)),
    )
    with pytest.raises(ModelError, match="has no data attributes"):
        LoadedModel(choosing(then, otherwise), Backend("cpu"))


def test_a_gradient_holds_the_weights_of_a_branch_once(rng: np.random.Generator) -> None:
    first, second = matrix(rng), matrix(rng)
    model = choosing(
        branch("then", "a", multiply("v", "a"), v=first), branch("else", "b", multiply("w", "b"), w=second)
    )
    assert {t.name for t in hoisted(model).graph.initializer} == {"zero", "v", "w"}
    backend = Backend("cpu")
    loaded = LoadedModel(model, backend)
    program = rows_program(loaded.network, Choice(("x",), ("x",), "y"))
    size = program.model.ByteSize()
    assert first.nbytes + second.nbytes < size < 1.2 * (first.nbytes + second.nbytes)
    weight = np.zeros((1, 40), np.float32)
    weight[0, 7] = 1
    session = backend.session(program.model)
    for sign, W in ((1, first), (-1, second)):
        x = sign * np.ones((1, 40), np.float32)
        found = session.run({"x": x, "target/weight": weight})
        np.testing.assert_allclose(found["gradient/x"][0], W[:, 7], rtol=1e-6)
