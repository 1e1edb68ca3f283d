"""The one form of a model: what each step does, and that none changes the outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_attribution.errors import ModelError
from onnx_attribution.graph_tools.ir.nodes import opset_of
from onnx_attribution.graph_tools.ir.outer_constants import hoist
from onnx_attribution.graph_tools.normalise import flatten, plain_form
from onnx_attribution.graph_tools.normalise import pipeline as steps
from onnx_attribution.graph_tools.normalise.comparison import same_values
from onnx_attribution.graph_tools.normalise.pipeline import normalise
from onnx_attribution.graph_tools.normalise.plain_form import declared
from onnx_attribution.graph_tools.read.example_inputs import example_inputs
from onnx_attribution.server.engine.backend import Backend

BACKEND = Backend("cpu", 1)


def normal_form(model: onnx.ModelProto) -> steps.Normalised:
    """The normal form on one random input."""
    return normalise(model, BACKEND.run, [example_inputs(declared(model), BACKEND.run)])


def parsed(text: str, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')


def test_an_old_model_comes_to_opset_21_under_its_old_names() -> None:
    model = parsed("net (float[N,3,4] x) => (float[N,12] y) { h = Relu(x) y = Flatten<axis=1>(h) }", 9)
    found = normal_form(model)
    assert opset_of(found.model) == 21
    assert [node.output[0] for node in found.model.graph.node] == ["h", "y"]


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_an_upsample_keeps_its_sampling_and_its_name(mode: str) -> None:
    """The version converter of onnx 1.23.2 changes both."""
    scales = numpy_helper.from_array(np.asarray([1, 1, 2, 3], dtype=np.float32), "scales")
    graph = helper.make_graph(
        [
            helper.make_node("Upsample", ["x", "scales"], ["up"], mode=mode),
            helper.make_node("Relu", ["up"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 3, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 6, 15])],
        [scales],
    )
    found = normal_form(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4))
    assert opset_of(found.model) == 21
    assert found.notes == ()
    assert found.model.graph.node[0].output[0] == "up"


def test_a_step_that_changes_the_outputs_is_undone_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: onnx.ModelProto) -> onnx.ModelProto:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        changed.graph.node[0].op_type = "Tanh"
        return changed

    monkeypatch.setattr(steps, "folded", wrong)
    found = normal_form(parsed("net (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"))
    assert found.model.graph.node[0].op_type == "Relu"
    assert found.notes == ("folding changes the outputs and was undone",)


def test_constants_that_are_wrong_once_outside_of_inner_graphs_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(graph: onnx.GraphProto) -> None:
        hoist(graph)
        held = graph.initializer[0]
        held.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(held), held.name))

    monkeypatch.setattr(flatten, "hoist", wrong)
    model = parsed(
        """net (float[N,2] x) => (float[N,2] y) {
        yes = Constant<value = bool {1}>()
        y = If(yes)<then_branch = a () => (float[N,2] b) <float[2] w = {2, 3}> { b = Mul(x, w) },
                    else_branch = c () => (float[N,2] d) { d = Tanh(x) }> }"""
    )
    with pytest.raises(ModelError, match="differs from the file"):
        normal_form(model)


def test_only_constants_of_inner_graphs_that_no_message_holds_move_before_the_comparison(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = parsed(
        """net (bool b, float[N,2] x) => (float[N,2] y) {
        y = If(b)<then_branch = f () => (float[N,2] g) <float[2] w = {2, 3}> { g = Mul(x, w) },
                  else_branch = h () => (float[N,2] i) { i = Tanh(x) }> }"""
    )
    assert not declared(model).graph.initializer
    monkeypatch.setattr(plain_form, "MESSAGE", 8)
    assert [t.name for t in declared(model).graph.initializer] == ["w"]


@pytest.mark.parametrize("indices", [[0, 5, 11], [[0, 0], [1, 1], [2, 3]]])
@pytest.mark.parametrize("as_node", [True, False])
def test_sparse_constants_become_dense(indices: list[int], as_node: bool) -> None:
    values = numpy_helper.from_array(np.asarray([1, 2, 3], np.float32), "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.asarray(indices), "at"), [3, 4])
    model = parsed("net (float[N,3] x) => (float[N,4] y) { y = MatMul(x, w) }")
    if as_node:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    else:
        model.graph.sparse_initializer.append(sparse)
    (dense,) = normal_form(model).model.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(dense), [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 3]])


def test_unsorted_and_unnamed_nodes_are_sorted_and_named() -> None:
    model = parsed("net (float[N,4] x) => (float[N,4] y) { h = Relu(x) y = Tanh(h) }")
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    sorted_model = declared(model)
    assert [node.op_type for node in sorted_model.graph.node] == ["Relu", "Tanh"]
    assert all(node.name for node in sorted_model.graph.node)


def test_local_functions_are_inlined() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        net (float[N,4] x) => (float[N,4] y) { y = own.twice(x) }
        <opset_import: ["" : 17], domain: "own"> twice (a) => (b) { b = Add(a, a) }"""
    )
    found = normal_form(model)
    assert [node.op_type for node in found.model.graph.node] == ["Add"]
    assert not found.model.functions


def test_constants_that_are_made_twice_count_as_the_last_one() -> None:
    """Some exporters repeat names; onnxruntime takes the later value."""
    model = parsed(
        """net (float[N,2] x) => (float[N,2] y) {
        c = Constant<value = float {2}>() y = Mul(x, c) c = Constant<value = float {3}>() }"""
    )
    inputs = {"x": np.ones((1, 2), dtype=np.float32)}
    expected = BACKEND.run(model, inputs, ["y"])["y"]
    found = normal_form(model)
    np.testing.assert_array_equal(BACKEND.run(found.model, inputs, ["y"])["y"], expected)


def test_initializers_that_are_inputs_too_are_constants() -> None:
    model = parsed("net (float[N,2] x, float[2] w) => (float[N,2] y) { y = Mul(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([2, 3], dtype=np.float32), "w"))
    assert [x.name for x in declared(model).graph.input] == ["x"]


def test_missing_imports_of_operator_sets_are_added() -> None:
    model = parsed("net (float[N,4] x) => (float[N,4] y) { y = com.microsoft.Gelu(x) }")
    assert {e.domain for e in declared(model).opset_import} == {"", "com.microsoft"}


def test_early_operators_that_onnxruntime_still_runs_are_rewritten() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("ImageScaler", ["x"], ["scaled"], bias=[1.0, -1.0], scale=0.5),
            helper.make_node("Affine", ["scaled"], ["moved"], alpha=2.0, beta=0.25),
            helper.make_node("Crop", ["moved"], ["y"], border=[1, 0, 1, 2]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 3, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)], ir_version=3)
    found = normal_form(model)
    assert opset_of(found.model) == 21
    assert {node.op_type for node in found.model.graph.node} <= {"Mul", "Add", "Slice"}


def test_every_tensor_has_a_type_and_a_rank_also_behind_operators_unknown_to_the_standard() -> None:
    model = parsed(
        "net (float[N,4] x) => (float[N,4] y) { h = com.microsoft.Gelu(x) z = Relu(h) y = Tanh(z) }"
    )
    found = normal_form(model)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in found.model.graph.value_info}
    assert ranks["h"] == 2


def test_a_model_that_cannot_run_is_refused() -> None:
    model = parsed("net (float[N,4] x) => (float[N,4] y) { y = Add(x, w) }")
    with pytest.raises(ModelError):
        normalise(model, BACKEND.run, [{"x": np.ones((1, 4), dtype=np.float32)}])


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ([1.0, 2.0], [1.0, 2.00001], True),
        ([1.0, 2.0], [1.0, 2.001], False),
        ([np.nan, 1.0], [np.nan, 1.0], True),
        ([np.nan, 1.0], [0.0, 1.0], False),
        ([np.inf, 1.0], [np.inf, 1.0], True),
        ([np.inf, 1.0], [-np.inf, 1.0], False),
    ],
)
def test_outputs_are_compared_by_value_and_by_what_is_not_finite(
    found: list[float], wanted: list[float], same: bool
) -> None:
    assert same_values(np.asarray(found, np.float32), np.asarray(wanted, np.float32)) is same


def test_outputs_of_other_shape_or_type_differ() -> None:
    ones = np.ones((2, 1), dtype=np.float32)
    assert not same_values(ones, ones.reshape(1, 2))
    assert not same_values(ones, ones.astype(np.float64))


def test_folding_logs_no_warning_about_what_it_leaves_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A Split of a constant has two outputs, which onnxscript does not fold."""
    normal_form(
        parsed(
            """net (float[N,2] x) => (float[N,2] y) {
            c = Constant<value = float[4] {1, 2, 3, 4}>() a, b = Split<axis=0>(c) h = Mul(x, a) y = Add(h, b) }"""
        )
    )
    assert not caplog.records


def test_shapes_that_are_made_of_fillings_are_folded() -> None:
    """What torch exports of `x.expand(-1, 3)`: a -1 means that the size stays."""
    found = normal_form(
        parsed(
            """net (float[2,1] x) => (float[2,3] y) {
            n = Constant<value = int64[1] {2}>() ones = ConstantOfShape<value = int64[1] {1}>(n)
            minus = Constant<value = int64 {-1}>() all = Mul(ones, minus) s = Constant<value = int64[2] {-1, 3}>()
            same = Equal(s, all) sizes = Where(same, ones, s) y = Expand(x, sizes) }"""
        )
    )
    assert [node.op_type for node in found.model.graph.node] == ["Expand"]


def test_a_large_filling_stays_computed() -> None:
    found = normal_form(
        parsed(
            """net (float[N,1] x) => (float[N,100000] y) {
            n = Constant<value = int64[1] {100000}>() c = ConstantOfShape<value = float[1] {2}>(n) y = Mul(x, c) }"""
        )
    )
    assert [node.op_type for node in found.model.graph.node] == ["ConstantOfShape", "Mul"]
