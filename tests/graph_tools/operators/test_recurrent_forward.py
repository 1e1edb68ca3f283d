"""What the Scan of a recurrent operator makes stands for the outputs of its kernel, in the program of a gradient."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnx_attribution.graph_tools.ir.convert import graph_of, model_of
from onnx_attribution.graph_tools.ir.emit import Emitter
from onnx_attribution.graph_tools.walk.differentiate import differentiate
from tests.graph_tools.operators.test_recurrent import CASES, GATES, OUTPUTS, Case, inputs_of, session
from tests.graph_tools.operators.test_recurrent import model_of as model_with


def with_gradient(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its gradient beside its own outputs."""
    graph = graph_of(onnx.shape_inference.infer_shapes(model))
    seeds = {z.name: gs.Variable(f"v/{z.name}", dtype=z.dtype, shape=z.shape) for z in graph.outputs}
    graph.inputs.extend(seeds.values())
    graph.outputs = [*graph.outputs, *differentiate(Emitter(graph), seeds, ["X"]).values()]
    return model_of(graph)


@pytest.mark.parametrize("case", [c for c in CASES if "lengths" not in c.given], ids=str)
def test_outputs_are_those_of_the_kernel(case: Case) -> None:
    inputs = inputs_of(case)
    model = model_with(case, inputs)
    program = with_gradient(model)
    assert case.operator not in {node.op_type for node in program.graph.node}
    kernel, ours = session(model), session(program)
    expected = kernel.run(list(case.made), {x.name: inputs[x.name] for x in kernel.get_inputs()})
    given = {**inputs, **{f"v/{n}": np.ones_like(a) for n, a in zip(case.made, expected, strict=True)}}
    found = ours.run(list(case.made), {x.name: given[x.name] for x in ours.get_inputs()})
    for ours_, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours_, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operator", GATES)
def test_a_direction_is_one_small_scan_there_and_one_back(operator: str) -> None:
    case = Case(operator, {"linear_before_reset": 1} if operator == "GRU" else {}, ("B", "initial_h"))
    program = with_gradient(model_with(case, inputs_of(case)))
    there, back = (node for node in program.graph.node if node.op_type == "Scan")
    for scan, products, nodes in ((there, 1 + (operator == "GRU"), 16), (back, 1, 8)):
        body = next(a.g for a in scan.attribute if a.name == "body")
        assert sum(node.op_type in ("Gemm", "MatMul") for node in body.node) == products
        assert len(body.node) <= nodes


def test_sequences_without_a_step_keep_the_final_states_of_the_kernel() -> None:
    case = Case("LSTM", {}, ("B", "lengths", "initial_h", "initial_c"), OUTPUTS)
    inputs = inputs_of(case)
    inputs["lengths"] = np.zeros_like(inputs["lengths"])
    assert "LSTM" in {node.op_type for node in with_gradient(model_with(case, inputs)).graph.node}
