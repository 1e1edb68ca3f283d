"""What `check` believes: gradients that differences confirm, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators import VJP, NodeView
from onnx_attribution.graph_tools.operators.registry import Gradients
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.check import check_file

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
BEND = "test (float[1, 6] x) => (float[1, 6] y) { a = Tanh(x) y = Exp(a) }"
RATE = """test (float[1, 4] x, int64 rate) => (float[1, 4] y) <int64 wanted = {16000}, int64[1] seven = {7}> {
    known = Equal(rate, wanted)
    y = If (known) <
        then_branch = then () => (float[1, 4] a) { a = Mul(x, x) },
        else_branch = otherwise () => (float[7] b) { b = Reshape(x, seven) }
    >
}"""


def saved(text: str, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(f"{HEADER} {text}"), path)
    return path


@pytest.fixture(scope="module")
def backend() -> Backend:
    return Backend("cpu")


@pytest.mark.parametrize("factor", [0.95, 1.05])
@pytest.mark.parametrize("operator", ["Tanh", "Relu", "Conv"])
def test_a_gradient_that_is_5_percent_wrong_is_refused(
    operator: str,
    factor: float,
    backend: Backend,
    digits_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = saved(BEND, tmp_path) if operator == "Tanh" else digits_path
    assert check_file(path, backend).attributable
    right = VJP["", operator]

    def wrong(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
        found = right.vjp(op, node, *gradients)
        return [g and op("Mul", g, op.like(g, factor)) for g in found]

    monkeypatch.setitem(VJP, ("", operator), replace(right, vjp=wrong))
    verdict = check_file(path, backend)
    assert not verdict.attributable
    assert "the gradient says" in verdict.refused[0]["reason"]
    assert verdict.refused[0]["word"] == "NOT_CONFIRMED"


def test_an_input_is_the_number_that_the_file_compares_it_with(backend: Backend, tmp_path: Path) -> None:
    verdict = check_file(saved(RATE, tmp_path), backend)
    assert verdict.attributable, verdict.refused
    assert verdict.sources == ["x"]
    assert "input 'rate' is 16000, a number that the file compares it with" in verdict.notes


MASKED = """test (float[1, 6] x) => (float[1, 6] y) <float low = {-inf}, float zero = {0}> {
    out = Less(x, zero) z = Mul(x, x) y = Where(out, low, z)
}"""
BAND = """test (float[1, 6] x, float least, float most) => (float[1, 6] y)
<float low = {-inf}, float[6] bins = {1, 2, 3, 4, 5, 6}> {
    above = GreaterOrEqual(bins, least) below = LessOrEqual(bins, most) held = And(above, below)
    z = Mul(x, x) w = Where(held, z, low) y = Softmax(w)
}"""


def test_scores_that_a_mask_takes_away_are_left_out(backend: Backend, tmp_path: Path) -> None:
    verdict = check_file(saved(MASKED, tmp_path), backend)
    assert verdict.attributable, verdict.refused


def test_a_target_without_a_value_at_drawn_inputs_needs_some_of_its_kind(
    backend: Backend, tmp_path: Path
) -> None:
    """Of the bins 1 to 6 none lies between numbers that are drawn near 0."""
    path = saved(BAND, tmp_path)
    (refusal,) = check_file(path, backend).refused
    assert "the target is NaN or infinite at the inputs that were drawn" in refusal["reason"]
    band = {"least": np.float32(2), "most": np.float32(5)}
    verdict = check_file(path, backend, example={n: np.asarray(a) for n, a in band.items()})
    assert verdict.attributable, verdict.refused


@pytest.mark.parametrize("name", ["basic-pitch", "silero-vad-v5"])
def test_steep_and_branching_files_are_confirmed(name: str, shared: Path, backend: Backend) -> None:
    """A spectrogram whose logarithm bends within 1e-6 of the input; a file with a branch for a sample rate."""
    verdict = check_file(shared / "models" / name / "model.onnx", backend)
    assert verdict.attributable, verdict.refused


ZEROS = {
    "a saturated Softmax": "b = Mul(a, s) y = Softmax(b)",
    "a saturated Sigmoid": "b = Abs(a) c = Add(b, s) y = Sigmoid(c)",
    "a sum that is 1": "b = Softmax(a) y = ReduceSum<keepdims = 1>(b)",
    "a sum that is 0": "b = ReduceMean(a) c = Sub(a, b) y = ReduceSum<keepdims = 1>(c)",
}


@pytest.mark.parametrize("zero", ZEROS)
def test_a_zero_that_rounding_leaves_is_no_reason_to_refuse(
    zero: str, backend: Backend, tmp_path: Path
) -> None:
    shape = "float[1, 1]" if "sum" in zero else "float[1, 3]"
    text = (
        f"test (float[1, 4] x) => ({shape} y) <float[4, 3] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}}, "
        f"float s = {{60}}> {{ a = MatMul(x, w) {ZEROS[zero]} }}"
    )
    verdict = check_file(saved(text, tmp_path), backend)
    assert verdict.attributable, verdict.refused


def test_what_a_file_draws_is_held_while_its_gradient_is_compared(backend: Backend, tmp_path: Path) -> None:
    text = "test (float[1, 6] x) => (float[1, 6] y) { h = Tanh(x) e = RandomNormalLike(h) y = Mul(h, e) }"
    verdict = check_file(saved(text, tmp_path), backend)
    assert verdict.attributable, verdict.refused
    assert verdict.sources == ["x"]
    assert any("'y' is random" in note for note in verdict.notes)


def test_a_pool_over_less_than_its_window_divides_by_what_is_there(backend: Backend, tmp_path: Path) -> None:
    text = (
        "test (float[N, 2, 1, 6] x) => (float[N, 2, 1, 3] y) "
        "{ a = Tanh(x) y = AveragePool<kernel_shape = [3, 2], strides = [3, 2]>(a) }"
    )
    verdict = check_file(saved(text, tmp_path), backend)
    assert verdict.attributable, verdict.refused
