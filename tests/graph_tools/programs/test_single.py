"""Models of float64 in float32: nothing stays in float64; numbers beyond its range become neither 0 nor infinite."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from onnx_attribution.graph_tools.programs.single import in_float32, is_double, narrowed
from tests.server.cli.commands import run
from tests.server.cli.test_expose import outputs

NET = """
net (double[N,3] x) => (double[N,2] y) <double[3,2] w = {1.0, -2.0, 0.5, 3.0, -1.5, 0.25}>
{
    s = Mul(x, x)
    c = Mul(s, x)
    y = MatMul(c, w)
}
"""
W = np.array([[1, -2], [0.5, 3], [-1.5, 0.25]])


def model(body: str) -> onnx.ModelProto:
    made: onnx.ModelProto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {body}')
    return made


def test_a_file_in_float32_has_the_numbers_of_mathematics(tmp_path: Path) -> None:
    file, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(model(NET), file)
    told = ("--method", "integrated-gradients", "--steps", "8", "--baseline", "0", "--json", "-o", out)
    result = run("build", file, *told, "--float32")
    assert result.exit_code == 0, result.output
    assert not is_double(onnx.load(out))
    x = np.random.default_rng(0).normal(size=(4, 3))
    index = np.array([0, 1, 1, 0])
    found = outputs(out, x=x.astype(np.float32), target=index)
    # the trapezoid of 3 a^2 with n steps is 1 + 1 / (2 n^2)
    wanted = W.T[index] * x**3 * (1 + 1 / 128)
    apart = np.abs(found["attribution/x"] - wanted).sum() / np.abs(wanted).sum()
    assert apart <= 1e-6
    (note,) = [one for one in json.loads(result.stdout)["notes"] if one.startswith("float32 in place")]
    said = float(note.split(" by ")[1].split()[0])
    assert 0 < said <= 1e-6


def test_a_file_in_float64_says_that_it_is(tmp_path: Path) -> None:
    onnx.save(model(NET), tmp_path / "net.onnx")
    result = run("build", tmp_path / "net.onnx", "-o", tmp_path / "out.onnx", "--steps", "2")
    assert result.exit_code == 0, result.output
    assert "--float32 does without" in result.output
    assert is_double(onnx.load(tmp_path / "out.onnx"))


def test_a_model_that_has_no_float64_is_as_without_the_option(tmp_path: Path, digits_path: Path) -> None:
    files = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for out, option in zip(files, ([], ["--float32"]), strict=True):
        assert run("build", digits_path, "--method", "gradient", "-o", out, *option).exit_code == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_types_in_attributes_branches_and_bodies_are_narrowed() -> None:
    body = """net (bool c, float[2] x, double[2] z) => (float[2] y)
    {
        t = If (c) <then_branch = yes () => (double[2] p) { k = Constant <value = double[2] {1.0, 2.0}> ()
                                                            w = Cast <to = 11> (x) p = Add(w, k) },
                    else_branch = no () => (double[2] q) { q = Identity(z) }>
        y = Cast <to = 1> (t)
    }"""
    made = in_float32(model(body))
    assert not is_double(made)
    onnx.checker.check_model(made, full_check=True)
    x = np.array([3, 4], np.float32)
    for chosen, wanted in ((True, [4, 6]), (False, [3, 4])):
        (found,) = ReferenceEvaluator(made).run(None, {"c": np.array(chosen), "x": x, "z": x})
        np.testing.assert_array_equal(found, wanted)


def test_sequences_and_their_elements_are_narrowed() -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.DOUBLE, [2]))
    made = onnx.ModelProto()
    made.graph.input.append(helper.make_value_info("s", kind))
    assert is_double(made)
    assert not is_double(in_float32(made))


@pytest.mark.parametrize("value", [1e300, -1e300, 1e-300, -1e-300, 0.0, np.inf, -np.inf, 0.1])
def test_finite_numbers_stay_finite_and_only_0_becomes_0(value: float) -> None:
    found = narrowed(np.array([value]))
    assert found.dtype == np.float32
    assert np.isfinite(found[0]) == np.isfinite(value)
    assert (found[0] == 0) == (value == 0)
    assert np.sign(found[0]) == np.sign(value)
    assert np.isnan(narrowed(np.array([np.nan])))[0]
    assert numpy_helper.from_array(found).data_type == TensorProto.FLOAT
