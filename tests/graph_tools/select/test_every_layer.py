"""Which layers `*` and `**` stand for, and which sets of layers are cuts together."""

from __future__ import annotations

import itertools
import math

import onnx
import onnx_graphsurgeon as gs
import pytest

from onnx_attribution.graph_tools.ir.convert import graph_of
from onnx_attribution.graph_tools.select.cuts import cut_sets, is_joint_cut
from onnx_attribution.graph_tools.select.layers import every_layer
from tests.programs import parsed

KINDS = """(float[N,4,8,8] x) => (float[N,4] y, float[N,4,8,8] other) {
    c = Conv<kernel_shape = [1,1]>(x, W)
    n = BatchNormalization(c, one, zero, zero, one)
    r = Relu(n)
    p = MaxPool<kernel_shape = [1,1]>(r)
    e = Erf(p)
    shifted = Add(e, zeros)
    gate = Sigmoid(shifted)
    silu = Mul(shifted, gate)
    scaled = Mul(silu, r)
    twice = Add(scaled, scaled)
    sum = Sum(twice, p, zeros)
    ln = LayerNormalization(sum, gamma)
    positive = Greater(ln, zeros)
    g = GlobalAveragePool(ln)
    y = Flatten(g)
    side = Tanh(r)
    other = Add(side, r)
}"""


def graph(body: str) -> gs.Graph:
    model = parsed(f"layers {body}")
    shapes = {"W": (4, 4, 1, 1), "one": (4,), "zero": (4,), "zeros": (1,), "gamma": (8,)}
    for name, shape in shapes.items():
        values = [1.0] * math.prod(shape)
        model.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, shape, values))
    return graph_of(onnx.shape_inference.infer_shapes(model))


def test_one_star_stands_for_activations_pools_norms_and_residual_additions_only() -> None:
    found = every_layer(graph(KINDS), ["x"], ["y"], "*")
    assert found == ["n", "r", "p", "gate", "silu", "sum", "ln", "g"]


def test_two_stars_stand_for_every_float_tensor_between() -> None:
    found = every_layer(graph(KINDS), ["x"], ["y"], "**")
    between = [
        "x",
        "c",
        "n",
        "r",
        "p",
        "e",
        "shifted",
        "gate",
        "silu",
        "scaled",
        "twice",
        "sum",
        "ln",
        "g",
        "y",
    ]
    assert found == between


def test_layers_lie_before_all_targets_and_behind_the_source() -> None:
    assert every_layer(graph(KINDS), ["x"], ["y", "other"], "*") == ["n", "r"]
    assert every_layer(graph(KINDS), ["sum"], ["y"], "*") == ["ln", "g"]


def test_branches_of_a_residual_network_are_cuts_together() -> None:
    nodes = list(
        graph(
            """(float[N] x) => (float[N] y) {
                stem = Relu(x)
                a = Tanh(stem)
                b = Sigmoid(a)
                skip = Elu(stem)
                add = Add(b, skip)
                y = Relu(add)
            }"""
        ).nodes
    )
    assert cut_sets(nodes, ["x"], "y", ["stem", "a", "b", "skip", "add", "y"]) == [
        ("a", "skip"),
        ("b", "skip"),
    ]
    assert cut_sets(nodes, ["x"], "y", ["stem", "b", "add"]) == []


def test_an_identity_skip_and_a_dense_block_have_no_joint_cut_inside() -> None:
    nodes = list(
        graph(
            """(float[N,4] x) => (float[N,12] y) {
                a = Relu(x)
                b = Tanh(a)
                ab = Concat<axis = 1>(a, b)
                c = Sigmoid(ab)
                y = Concat<axis = 1>(a, ab, c)
            }"""
        ).nodes
    )
    assert cut_sets(nodes, ["x"], "y", ["a", "b", "c"]) == []
    # through what reads the tensors that are put together the same block is cut at each depth
    nodes = list(
        graph(
            """(float[N,4] x) => (float[N,12] y) {
                a = Relu(x)
                a1 = Neg(a)
                b = Tanh(a)
                ab = Concat<axis = 1>(a1, b)
                ab1 = Neg(ab)
                c = Sigmoid(ab)
                y = Concat<axis = 1>(ab1, c)
            }"""
        ).nodes
    )
    assert cut_sets(nodes, ["x"], "y", ["a", "a1", "b", "ab1", "c"]) == [("a1", "b"), ("ab1", "c")]


@pytest.mark.parametrize("sources", [["x"], ["x", "z"]])
def test_sets_are_what_enumeration_of_ways_says(sources: list[str]) -> None:
    nodes = list(
        graph(
            """(float[N] x, float[N] z) => (float[N] y) {
                a = Relu(x)
                b = Tanh(z)
                c = Add(a, b)
                d = Mul(a, c)
                e = Sub(d, b)
                f = Neg(c)
                y = Add(e, f)
            }"""
        ).nodes
    )
    names = [z.name for node in nodes for z in node.outputs]
    ways = [way for source in sources for way in _ways(nodes, source, "y")]
    for size in (2, 3):
        for layers in itertools.combinations([*sources, *names], size):
            once = all(len(set(layers) & set(way)) == 1 for way in ways)
            assert is_joint_cut(nodes, sources, "y", layers) == once, layers
    for found in cut_sets(nodes, sources, "y", names):
        assert all(len(set(found) & set(way)) == 1 for way in ways)


def _ways(nodes: list[gs.Node], start: str, end: str) -> list[list[str]]:
    if start == end:
        return [[end]]
    following = [z.name for node in nodes if any(x.name == start for x in node.inputs) for z in node.outputs]
    return [[start, *way] for name in following for way in _ways(nodes, name, end)]
