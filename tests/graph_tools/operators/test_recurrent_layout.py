"""LSTM, GRU and RNN with the batch first: by their attribute, and between transposes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.checks import gradient_model
from tests.graph_tools.operators.test_recurrent import (
    GATES,
    Array,
    Case,
    assert_right,
    inputs_of,
    model_of,
    session,
    slopes,
)
from tests.programs import contributions, gradients


def in_layout_0(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with operators of layout 1, which the runtime lacks, as transposed ones of layout 0."""
    nodes = []
    for node in model.graph.node:
        layout = next((a for a in node.attribute if a.name == "layout"), None)
        nodes.append(node)
        if layout is None:
            continue
        node.attribute.remove(layout)
        for index in (0, 5, 6):
            if index < len(node.input) and node.input[index]:
                name = f"turned/{node.input[index]}"
                nodes.insert(-1, helper.make_node("Transpose", [node.input[index]], [name], perm=[1, 0, 2]))
                node.input[index] = name
        for index, perm in ((0, [2, 0, 1, 3]), (1, [1, 0, 2]), (2, [1, 0, 2])):
            if index < len(node.output) and node.output[index]:
                name = f"straight/{node.output[index]}"
                nodes.append(helper.make_node("Transpose", [name], [node.output[index]], perm=perm))
                node.output[index] = name
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(kept)
    return model


@pytest.mark.parametrize("made", [("Y",), ("Y_h",), ("Y", "Y_h")], ids=str)
@pytest.mark.parametrize("operator", GATES)
def test_layout_1_has_the_gradient_of_layout_0_with_axes_swapped(
    operator: str, made: tuple[str, ...]
) -> None:
    case = Case(operator, {"direction": "bidirectional"}, ("B", "initial_h", "initial_c", "lengths"), made)
    inputs = inputs_of(case)
    swapped = {k: v.swapaxes(0, 1) if k in ("X", "initial_h", "initial_c") else v for k, v in inputs.items()}
    model = model_of(Case(operator, {**case.attributes, "layout": 1}, case.given, made), swapped)
    graph, names = gradient_model(model, [n for n in inputs if n != "lengths"])
    backward = session(in_layout_0(graph))
    wanted = {x.name for x in backward.get_inputs()}

    def run(feeds: dict[str, Array]) -> dict[str, Array]:
        turned = {
            k: v.swapaxes(0, 1) if k in (*swapped, "v/Y_h") and v.ndim == 3 else v for k, v in feeds.items()
        }
        turned |= {k: inputs[k] for k in ("W", "R", "B")}
        turned |= {k: v.transpose(2, 0, 1, 3) for k, v in feeds.items() if k == "v/Y"}
        found = backward.run(list(names.values()), {k: np.ascontiguousarray(turned[k]) for k in wanted})
        pairs = zip(names, found, strict=True)
        return {n: g.swapaxes(0, 1) if n in ("X", "initial_h", "initial_c") else g for n, g in pairs}

    assert_right(case, inputs, run)


def batch_first(case: Case, inputs: Mapping[str, Array]) -> onnx.ModelProto:
    """The operator in float16 between transposes that put the sequences first, as torch exports `batch_first`."""
    held = [onnx.numpy_helper.from_array(inputs[n].astype(np.float16), n) for n in ("W", "R", "B")]
    size = inputs["R"].shape[2]
    nodes = [
        helper.make_node("Transpose", ["x"], ["X"], perm=[1, 0, 2]),
        helper.make_node(case.operator, ["X", "W", "R", "B"], ["", "Y_h"], hidden_size=size),
        helper.make_node("Transpose", ["Y_h"], ["z"], perm=[1, 0, 2]),
    ]
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["batch", *shape])
        for name, shape in (("x", [inputs["X"].shape[0], inputs["X"].shape[2]]), ("z", [1, size]))
    ]
    graph = helper.make_graph(nodes, "case", infos[:1], infos[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("operator", GATES)
def test_half_precision_with_the_batch_first_agrees_with_the_definition(operator: str) -> None:
    case = Case(operator, made=("Y_h",))
    inputs = {k: v.astype(np.float16) for k, v in inputs_of(case).items()}
    rng = np.random.default_rng(2)
    v = rng.standard_normal((3, 1, 5)).astype(np.float16)
    model, x = batch_first(case, inputs), np.ascontiguousarray(inputs["X"].swapaxes(0, 1))
    found = gradients(model, {"x": x}, ["x"], v)["x"].swapaxes(0, 1)
    for _ in range(3):
        direction = rng.standard_normal(found.shape)
        expected = slopes(case, inputs, {"Y_h": v.swapaxes(0, 1).astype(np.float64)}, "X", direction)
        assert np.sum(found * direction) == pytest.approx(expected, abs=1e-4 * float(np.linalg.norm(found)))
    total, change, size = contributions(model, {"x": x}, {"x": np.zeros_like(x)}, v)
    assert abs(total - change) <= 2e-3 * size  # eleven bits of the outputs
