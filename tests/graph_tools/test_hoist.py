"""Constants of inner graphs move out of them: the model computes the same, and programs hold them once."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_attribution.graph_tools.hoist import hoist
from onnx_attribution.graph_tools.normalise import declared
from onnx_attribution.graph_tools.program import Choice, rows_program
from onnx_attribution.server.backend import Backend
from onnx_attribution.server.loaded import LoadedModel

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


def test_a_gradient_holds_the_weights_of_a_branch_once(rng: np.random.Generator) -> None:
    first, second = matrix(rng), matrix(rng)
    model = choosing(
        branch("then", "a", multiply("v", "a"), v=first), branch("else", "b", multiply("w", "b"), w=second)
    )
    assert {t.name for t in declared(model).graph.initializer} == {"zero", "v", "w"}
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
