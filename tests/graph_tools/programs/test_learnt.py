"""Which constants of a model were learnt, and in which blocks they lie."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.graph_tools.programs.learnt import blocks_of
from onnx_attribution.graph_tools.read.load import load
from tests.graph_tools.programs.learnt import model, names
from tests.graph_tools.programs.learnt import network as made_network


@pytest.fixture
def network(rng: np.random.Generator) -> onnx.ModelProto:
    return made_network(rng)


def test_weights_open_blocks_and_what_follows_belongs_to_them(network: onnx.ModelProto) -> None:
    assert names(blocks_of(network)) == [
        ["w3", "b3"],
        ["w2", "b2"],
        ["w1", "b1", "scale", "offset", "running_mean", "running_var"],
    ]
    fans = {p.name: p.fan_in for block in blocks_of(network) for p in block.parameters if p.role == "weight"}
    assert fans == {"w3": 6, "w2": 5, "w1": 27}


def test_at_most_so_many_blocks_hold_all_parameters(network: onnx.ModelProto) -> None:
    found = blocks_of(network, most=2)
    assert len(found) == 2
    assert list(chain(*names(found))) == list(chain(*names(blocks_of(network))))
    assert "…" in found[-1].name or "…" in found[0].name
    with pytest.raises(InvalidArgument, match="most"):
        blocks_of(network, most=0)


def test_heads_that_the_target_does_not_depend_on_are_left_out(rng: np.random.Generator) -> None:
    made = model(
        """net (float[N, 3] x) => (float[N, 2] y, float[N, 2] z) {
            h = MatMul (x, w)
            y = MatMul (h, u)
            z = MatMul (h, v)
        }""",
        **{
            name: rng.normal(size=shape).astype(np.float32)
            for name, shape in [("w", (3, 3)), ("u", (3, 2)), ("v", (3, 2))]
        },
    )
    assert names(blocks_of(made, ["y"])) == [["u"], ["w"]]
    assert names(blocks_of(made)) == [["v"], ["u"], ["w"]]


def test_a_tensor_that_two_operators_share_is_drawn_once_with_the_upper_one(rng: np.random.Generator) -> None:
    made = model(
        """net (int64[N, 4] ids) => (float[N, 4, 9] y) {
            e = Gather (table, ids)
            h = MatMul (e, w)
            t = Transpose <perm = [1, 0]> (table)
            y = MatMul (h, t)
        }""",
        table=rng.normal(size=(9, 5)).astype(np.float32),
        w=rng.normal(size=(5, 5)).astype(np.float32),
    )
    assert names(blocks_of(made)) == [["table"], ["w"]]


def test_weights_are_found_through_gates_of_concat_branches_and_sums_of_constants(
    rng: np.random.Generator,
) -> None:
    made = model(
        """net (float[T, N, 3] x, bool c) => (float[T, N, 2] y) {
            w = Concat <axis = 1> (w1, w2)
            h, last = RNN <hidden_size = 4> (x, w, r)
            axis = Constant <value_ints = [1]> ()
            s = Squeeze (h, axis)
            u = If (c) <
                then_branch = a () => (float[4, 2] p) { p = Transpose <perm = [1, 0]> (v) },
                else_branch = b () => (float[4, 2] q) { q = Transpose <perm = [1, 0]> (v) }
            >
            m = MatMul (s, u)
            one = Constant <value_float = 1.0> ()
            shift = Mul (mean, one)
            y = Sub (m, shift)
        }""",
        w1=rng.normal(size=(1, 1, 3)).astype(np.float32),
        w2=rng.normal(size=(1, 3, 3)).astype(np.float32),
        r=rng.normal(size=(1, 4, 4)).astype(np.float32),
        v=rng.normal(size=(2, 4)).astype(np.float32),
        mean=rng.normal(size=3).astype(np.float32)[:2],
    )
    top, bottom = blocks_of(made)
    assert [(p.name, p.role, p.fan_in) for p in top.parameters] == [("v", "weight", 4), ("mean", "bias", 1)]
    assert [(p.name, p.role, p.fan_in) for p in bottom.parameters] == [
        ("w1", "gate", 3), ("w2", "gate", 3), ("r", "gate", 4),
    ]  # fmt: skip


def test_nodes_may_stand_in_any_order(network: onnx.ModelProto) -> None:
    mixed = onnx.ModelProto()
    mixed.CopyFrom(network)
    del mixed.graph.node[:]
    mixed.graph.node.extend(reversed(network.graph.node))
    assert names(blocks_of(mixed)) == names(blocks_of(network))


def test_masks_are_none(rng: np.random.Generator) -> None:
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    finite = np.where(mask < 0, np.float32(-100), np.float32(0))
    for one in (mask, finite):
        made = model(
            "net (float[N, 4, 4] x) => (float[N, 4, 4] y) { h = MatMul (x, w) m = Add (h, mask) y = Softmax (m) }",
            w=rng.normal(size=(4, 4)).astype(np.float32), mask=one,
        )  # fmt: skip
        assert names(blocks_of(made)) == [["w"]]


def test_recurrent_weights_have_the_fan_in_of_inputs_and_of_states(rng: np.random.Generator) -> None:
    made = model(
        "net (float[T, N, 3] x) => (float[T, 1, N, 5] y) { y = LSTM <hidden_size = 5> (x, w, r, b) }",
        w=rng.normal(size=(1, 20, 3)).astype(np.float32),
        r=rng.normal(size=(1, 20, 5)).astype(np.float32),
        b=rng.normal(size=(1, 40)).astype(np.float32),
    )
    (block,) = blocks_of(made)
    assert [(p.name, p.role, p.fan_in) for p in block.parameters] == [
        ("w", "gate", 3),
        ("r", "gate", 5),
        ("b", "bias", 1),
    ]


def test_local_functions_are_opened(rng: np.random.Generator) -> None:
    made = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20, "own" : 1]>
        net (float[N, 2] x) => (float[N, 2] y) { y = own.dense (x, w) }
        <domain: "own", opset_import: ["" : 20]> dense (a, b) => (c) { c = MatMul (a, b) }"""
    )
    made.graph.initializer.append(numpy_helper.from_array(rng.normal(size=(2, 2)).astype(np.float32), "w"))
    assert names(blocks_of(made)) == [["w"]]


def test_the_digits_network_has_four_blocks(digits_path: Path) -> None:
    assert [b.name for b in blocks_of(load(digits_path))] == [
        "/dense2/Gemm",
        "/dense1/Gemm",
        "/conv2/Conv",
        "/conv1/Conv",
    ]
