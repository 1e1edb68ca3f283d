"""The oracle for real models: its operators give onnxruntime's values, its surrogate is straight-through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.normalise.comparison import same_values
from onnx_attribution.graph_tools.operators import VJP, NodeView
from onnx_attribution.graph_tools.operators.registry import Gradients
from onnx_attribution.server.engine.backend import Backend
from tests.conformance import cases, gradients
from tests.conformance.float64 import Float64Network, run_double
from tests.conformance.operators import OPERATORS
from tests.data.examples import example_of, usable
from tests.graph_tools.operators.test_quantised_recurrent import FORMS, X, model_of

OFFICIAL = sorted({kind.__name__ for kind in OPERATORS if not kind.op_domain} & set(cases.TABLE))
ROUNDS = """<ir_version: 8, opset_import: ["" : 17]> test (float[5] x) => (float[5] y)
    <float step = {0.5}, uint8 zero = {128}> {
    q = QuantizeLinear(x, step, zero)
    y = DequantizeLinear(q, step, zero)
}"""
SCAN = """<ir_version: 8, opset_import: ["" : 17]> test (float[2] s, float[4, 2] x) => (float[2] last, float[4, 2] y) {
    last, y = Scan<num_scan_inputs = 1, scan_input_directions = [1], scan_output_directions = [1],
        body = step (float[2] before, float[2] a) => (float[2] after, float[2] made) {
            after = Sub(a, before)
            made = Identity(before)
        }>(s, x)
}"""


@pytest.mark.parametrize("operator", OFFICIAL)
def test_operators_have_the_values_of_onnxruntime(operator: str) -> None:
    compared = 0
    for name, _ in cases.TABLE[operator]:
        case = cases.official(operator, name, 1)
        wanted = Backend("cpu", 1).run(case.model, case.inputs, [z.name for z in case.model.graph.output])
        try:
            found = run_double(case.model, case.inputs)
        except NotImplementedError:  # a form that no real model has
            continue
        for z, value in wanted.items():
            assert same_values(np.asarray(found[z]).astype(value.dtype), value), f"{name}: {z}"
        compared += 1
    assert compared


def test_backward_scan_has_the_values_of_onnxruntime(rng: np.random.Generator) -> None:
    model = onnx.parser.parse_model(SCAN)
    inputs = {
        "s": rng.normal(size=2).astype(np.float32),
        "x": rng.normal(size=(4, 2)).astype(np.float32),
    }
    wanted, found = Backend("cpu", 1).run(model, inputs, ["last", "y"]), run_double(model, inputs)
    assert all(same_values(found[z].astype(np.float32), value, 1e-6) for z, value in wanted.items())


def test_surrogate_has_the_rounded_values_and_a_slope_of_one_inside_the_range() -> None:
    model = onnx.parser.parse_model(ROUNDS)
    x: NDArray[Any] = np.array([-70, -3.3, 0.1, 3.3, 70], dtype=np.float32)
    rounded = Backend("cpu", 1).run(model, {"x": x}, ["q", "y"])
    network = Float64Network(model, {"x": x}, ["x", "y"], rounded)
    np.testing.assert_array_equal(network.values["y"], [-64, -3.5, 0, 3.5, 63.5])
    moved = network.moved("x", "y", x.astype(np.float64) + 1e-3)
    np.testing.assert_allclose((moved - network.values["y"]) / 1e-3, [0, 1, 1, 1, 0], atol=1e-9)


@pytest.mark.parametrize("form", [f for f in FORMS if not {"lengths", "peepholes"} & set(f)], ids=str)
def test_the_quantised_lstm_in_float64_changes_as_the_float_lstm_of_onnxruntime(form: dict[str, Any]) -> None:
    quantised, whole = (model_of(quantised=q, **{"zero": True, **form}) for q in (True, False))
    names, moved = ["z", "h", "c"], 1.01 * X
    rounded, here, there = (
        Backend("cpu", 1).run(m, {"x": x}, names) for m, x in ((quantised, X), (whole, X), (whole, moved))
    )
    exact = Float64Network(quantised, {"x": X}, ["x", *names], rounded)
    for name in names:
        change = exact.moved("x", name, moved.astype(np.float64)) - exact.values[name]
        np.testing.assert_array_equal(exact.values[name], rounded[name])
        ends = (np.asarray(a[name], np.float64) for a in (there, here))
        np.testing.assert_allclose(change, np.subtract(*ends), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "operator"), [("qdq-multi-consumer", "QuantizeLinear"), ("light-squeezenet", "Concat")]
)
def test_a_rule_that_is_wrong_by_a_thousandth_differs(
    name: str, operator: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = VJP["", operator]

    def wrong(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
        found = right.vjp(op, node, *gradients)
        return [g and op("Mul", g, op.like(g, 1.001)) for g in found]

    monkeypatch.setitem(VJP, ("", operator), replace(right, vjp=wrong))
    path = usable(shared / "models" / name / "model.onnx", tmp_path)
    row = gradients.compare(path, Backend("cpu"), *example_of(path))
    assert not row.agrees
    assert not row.refused
    assert not row.broken
