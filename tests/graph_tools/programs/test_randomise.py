"""Which constants of a file are parameters, how they fall into blocks, and what drawing them anew leaves alone."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_attribution.errors import InvalidArgument, ModelError
from onnx_attribution.graph_tools.programs.randomise import Block, blocks_of, stages
from onnx_attribution.graph_tools.read.load import load


def model(text: str, **constants: NDArray[np.generic]) -> onnx.ModelProto:
    """A model of onnx's text, with these initializers."""
    made = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20, "com.microsoft" : 1]> {text}')
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return made


def held(made: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    found = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def changed(before: onnx.ModelProto, after: onnx.ModelProto) -> set[str]:
    one, other = held(before), held(after)
    assert one.keys() == other.keys()
    return {name for name in one if not np.array_equal(one[name], other[name])}


def names(blocks: list[Block]) -> list[list[str]]:
    return [[one.name for one in block.parameters] for block in blocks]


@pytest.fixture
def network(rng: np.random.Generator) -> onnx.ModelProto:
    return model(
        """net (float[N, 3, 8, 8] x) => (float[N, 4] y) {
            centred = Sub (x, mean)
            a = Conv <pads = [1, 1, 1, 1]> (centred, w1, b1)
            n = BatchNormalization (a, scale, offset, running_mean, running_var)
            r = Relu (n)
            p = GlobalAveragePool (r)
            shape = Constant <value = int64[2] {0, -1}> ()
            f = Reshape (p, shape)
            m = MatMul (f, w2)
            h = Add (m, b2)
            t = Tanh (h)
            half = Mul (t, factor)
            y = Gemm <transB = 1> (half, w3, b3)
        }""",
        mean=np.array([0.4, 0.5, 0.6], np.float32).reshape(1, 3, 1, 1),
        w1=rng.normal(size=(5, 3, 3, 3)).astype(np.float32),
        b1=rng.normal(size=5).astype(np.float32),
        scale=rng.normal(size=5).astype(np.float32),
        offset=rng.normal(size=5).astype(np.float32),
        running_mean=rng.normal(size=5).astype(np.float32),
        running_var=rng.uniform(0.5, 2, 5).astype(np.float32),
        w2=rng.normal(size=(5, 6)).astype(np.float32),
        b2=rng.normal(size=6).astype(np.float32),
        factor=np.array(0.5, np.float32),
        w3=rng.normal(size=(4, 6)).astype(np.float32),
        b3=rng.normal(size=4).astype(np.float32),
    )


def test_weights_open_blocks_and_what_follows_belongs_to_them(network: onnx.ModelProto) -> None:
    assert names(blocks_of(network)) == [
        ["w3", "b3"],
        ["w2", "b2"],
        ["w1", "b1", "scale", "offset", "running_mean", "running_var"],
    ]
    fans = {p.name: p.fan_in for block in blocks_of(network) for p in block.parameters if p.role == "weight"}
    assert fans == {"w3": 6, "w2": 5, "w1": 27}


def test_means_of_inputs_shapes_and_single_factors_are_left_alone(network: onnx.ModelProto) -> None:
    *_, last = stages(network)
    assert not {"mean", "shape", "factor"} & changed(network, last.model)


def test_cascading_adds_blocks_from_the_top_and_independent_takes_each_alone(
    network: onnx.ModelProto,
) -> None:
    own = [set(block) for block in names(blocks_of(network))]
    cascading = [changed(network, stage.model) for stage in stages(network, "cascading", "shuffle")]
    alone = [changed(network, stage.model) for stage in stages(network, "independent", "shuffle")]
    assert cascading == [own[0], own[0] | own[1], own[0] | own[1] | own[2]]
    assert alone == own


def test_a_parameter_is_drawn_alike_in_every_stage_and_by_every_call(network: onnx.ModelProto) -> None:
    *_, last = stages(network)
    again = [stage.model for stage in stages(network, "independent")][1]
    np.testing.assert_array_equal(held(last.model)["w2"], held(again)["w2"])
    *_, other = stages(network, seed=1)
    assert not np.array_equal(held(last.model)["w2"], held(other.model)["w2"])


def test_the_given_model_is_not_changed(network: onnx.ModelProto) -> None:
    before = network.SerializeToString(deterministic=True)
    list(stages(network))
    assert network.SerializeToString(deterministic=True) == before


def test_he_normal_has_the_variance_of_its_fan_in_and_begins_the_rest_again(rng: np.random.Generator) -> None:
    made = model(
        "net (float[N, 200] x) => (float[N, 300] y) { h = Gemm (x, w, b) y = Relu (h) }",
        w=rng.normal(size=(200, 300)).astype(np.float32),
        b=rng.normal(size=300).astype(np.float32),
    )
    (stage,) = stages(made)
    drawn = held(stage.model)
    assert drawn["w"].dtype == np.float32
    # 60000 draws: the standard deviation of the estimate is 0.3 %
    assert drawn["w"].astype(np.float64).std() == pytest.approx(math.sqrt(2 / 200), rel=0.015)
    assert not drawn["b"].any()
    (cut,) = stages(made, draw="truncated_normal")
    weights = held(cut.model)["w"].astype(np.float64)
    assert np.abs(weights).max() <= 0.02
    # the standard deviation of a normal one that is cut at two of its own
    assert weights.std() == pytest.approx(0.01 * 0.8796, rel=0.015)


def test_shuffle_keeps_the_numbers_of_each_parameter(network: onnx.ModelProto) -> None:
    *_, last = stages(network, draw="shuffle")
    for name, array in held(network).items():
        np.testing.assert_array_equal(np.sort(array.reshape(-1)), np.sort(held(last.model)[name].reshape(-1)))


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


def test_weights_behind_transpose_and_constant_nodes_are_found(rng: np.random.Generator) -> None:
    made = model(
        """net (float[N, 7] x) => (float[N, 2] y) {
            t = Transpose <perm = [1, 0]> (w)
            y = MatMul (x, t)
        }""",
        w=rng.normal(size=(2, 7)).astype(np.float32),
    )
    (only,) = blocks_of(made)[0].parameters
    assert (only.name, only.fan_in) == ("w", 7)
    constant = model(
        """net (float[N, 2] x) => (float[N, 2] y) {
            w = Constant <value = float[2, 2] {1, 2, 3, 4}> ()
            y = MatMul (x, w)
        }"""
    )
    assert names(blocks_of(constant)) == [["w"]]
    (stage,) = stages(constant)
    assert changed(constant, stage.model) == {"w"}


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


def test_tables_are_parameters_and_indices_are_none(rng: np.random.Generator) -> None:
    made = model(
        """net (int64[N, 4] ids) => (float[N, 4, 3] y) {
            e = Gather (table, ids)
            with_places = Add (e, places)
            h = MatMul (with_places, w)
            y = LayerNormalization (h, gamma, beta)
        }""",
        table=rng.normal(size=(9, 5)).astype(np.float32),
        places=rng.normal(size=(1, 4, 5)).astype(np.float32),
        w=rng.normal(size=(5, 3)).astype(np.float32),
        gamma=np.ones(3, np.float32),
        beta=np.zeros(3, np.float32),
    )
    assert names(blocks_of(made)) == [["w", "gamma", "beta"], ["table", "places"]]
    *_, last = stages(made)
    drawn, before = held(last.model)["table"], held(made)["table"]
    assert drawn.astype(float).std() == pytest.approx(before.astype(float).std(), rel=0.5)


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


def test_weights_in_the_branch_of_an_if_are_found_and_drawn(rng: np.random.Generator) -> None:
    made = model(
        """net (float[N, 2] x, bool c) => (float[N, 2] y) {
            h = MatMul (x, w)
            y = If (c) <
                then_branch = a () => (float[N, 2] p) {
                    u = Constant <value = float[2, 2] {1, 2, 3, 4}> ()
                    p = MatMul (h, u)
                },
                else_branch = b () => (float[N, 2] q) { q = Identity (h) }
            >
        }""",
        w=rng.normal(size=(2, 2)).astype(np.float32),
    )
    assert names(blocks_of(made)) == [["u"], ["w"]]
    first, _ = stages(made)
    assert first.model.graph.node[1].attribute != made.graph.node[1].attribute


def quantised(rng: np.random.Generator) -> onnx.ModelProto:
    return model(
        """net (float[N, 4] x) => (float[N, 3] y) {
            w = DequantizeLinear <axis = 1> (q, scale, zero)
            y = MatMul (x, w)
        }""",
        q=rng.integers(-90, 90, (4, 3)).astype(np.int8),
        scale=np.array([0.1, 0.2, 0.3], np.float32),
        zero=np.zeros(3, np.int8),
    )


def test_quantised_weights_are_refused_by_name_and_can_be_shuffled(rng: np.random.Generator) -> None:
    made = quantised(rng)
    with pytest.raises(InvalidArgument, match=r"'q'.*int8.*shuffle"):
        stages(made)
    (stage,) = stages(made, draw="shuffle")
    assert changed(made, stage.model) == {"q"}


def test_what_has_no_parameters_is_refused() -> None:
    with pytest.raises(ModelError, match="no parameters"):
        stages(model("net (float[N] x) => (float[N] y) { y = Relu (x) }"))
    trees = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml")
    made = model("net (float[N] x) => (float[N] y) { y = Relu (x) }")
    made.graph.node[0].CopyFrom(trees)
    with pytest.raises(ModelError, match="TreeEnsembleRegressor"):
        stages(made)


def test_unknown_words_are_refused(network: onnx.ModelProto) -> None:
    with pytest.raises(InvalidArgument, match="cascading, independent"):
        stages(network, "bottom_up")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="he_normal"):
        stages(network, draw="uniform")  # type: ignore[arg-type]


def test_halves_stay_halves(rng: np.random.Generator) -> None:
    made = model(
        "net (float16[N, 4] x) => (float16[N, 3] y) { y = MatMul (x, w) }",
        w=rng.normal(size=(4, 3)).astype(np.float16),
    )
    (stage,) = stages(made)
    assert stage.model.graph.initializer[0].data_type == TensorProto.FLOAT16
    assert changed(made, stage.model) == {"w"}


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
