"""Which constants of a file are parameters, how they fall into blocks, and what drawing them anew leaves alone."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_attribution.errors import InvalidArgument, ModelError
from onnx_attribution.graph_tools.programs.learnt import blocks_of
from onnx_attribution.graph_tools.programs.randomise import stages
from tests.graph_tools.programs.learnt import model, names
from tests.graph_tools.programs.learnt import network as made_network


@pytest.fixture
def network(rng: np.random.Generator) -> onnx.ModelProto:
    return made_network(rng)


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
