"""`expose` writes the same model with more outputs: every tensor is what onnx's reference evaluator computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from onnx_attribution.graph_tools.programs import export
from tests.server.cli.commands import model, run

Array = NDArray[Any]
NET = """net (float[N,3] x) => (float[N,2] y)
    <float[3,4] w = {1,-2,3,-4, 5,-6,7,-8, 9,1,-2,3}, float[4,2] v = {1,-2,3,-4,5,-6,7,-8}> {
        [lower] h = MatMul(x, w)
        [bend] a = Tanh(h)
        [upper] y = MatMul(a, v)
    }"""
X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32) / 10


def outputs(file: Path, **feeds: Array) -> dict[str, Array]:
    """Returns what a session with onnxruntime's default settings makes."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return dict(zip([z.name for z in session.get_outputs()], session.run(None, feeds), strict=True))


def expected(file: Path, name: str, **feeds: Array) -> Array:
    """Returns a tensor of a file as the reference evaluator computes it."""
    proto = onnx.load(file)
    if name not in {z.name for z in proto.graph.output}:
        proto.graph.output.extend([onnx.ValueInfoProto(name=name)])
    found: Any = ReferenceEvaluator(proto).run([name], feeds)
    return np.asarray(found[0])


@pytest.mark.parametrize("name", ["h", "lower", "a", "bend"])
def test_a_tensor_or_node_becomes_an_output_of_the_same_model(tmp_path: Path, name: str) -> None:
    file, out = model(tmp_path, NET), tmp_path / "out.onnx"
    result = run("expose", file, "--layer", name, "-o", out)
    assert result.exit_code == 0, result.output
    tensor = {"lower": "h", "bend": "a"}.get(name, name)
    assert f"output {tensor}: float32 [N, 4]" in result.stdout
    before, after = onnx.load(file), onnx.load(out)
    onnx.checker.check_model(after, full_check=True)
    assert [z.name for z in after.graph.output] == ["y", tensor]
    del after.graph.output[1:]
    assert after == before
    found = outputs(out, x=X)
    for each in ("y", tensor):
        np.testing.assert_allclose(found[each], expected(file, each, x=X), rtol=1e-5, atol=1e-6)


def test_outputs_and_inputs_may_be_named_and_stand_once(tmp_path: Path) -> None:
    file, out = model(tmp_path, NET), tmp_path / "out.onnx"
    layers = [word for name in ("y", "x", "h", "lower") for word in ("--layer", name)]
    assert run("expose", file, "-o", out, *layers).exit_code == 0
    found = outputs(out, x=X)
    assert list(found) == ["y", "x", "h"]
    np.testing.assert_array_equal(found["x"], X)


def test_a_layer_inside_a_function_is_one_of_the_model_with_functions_inlined(tmp_path: Path) -> None:
    file, out = tmp_path / "functions.onnx", tmp_path / "out.onnx"
    text = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        net (float[N,3] x) => (float[N,3] y) { h = own.twice(x) y = Relu(h) }
        <domain: "own", opset_import: ["": 17]> twice (a) => (b) { c = Sin(a) b = Add(c, c) }"""
    onnx.save(parser.parse_model(text), file)
    assert run("expose", file, "--layer", "h", "-o", out).exit_code == 0
    assert len(onnx.load(out).functions) == 1
    result = json.loads(run("expose", file, "--layer", "c__1", "-o", out, "--force", "--json").stdout)
    (inner,) = result["layers"]
    np.testing.assert_allclose(outputs(out, x=X)[inner], np.sin(X), rtol=1e-5, atol=1e-6)
    assert not onnx.load(out).functions
    assert "inlined" in result["notes"][0]


def test_what_only_onnxruntime_knows_gets_its_type_from_there(tmp_path: Path) -> None:
    file, out = tmp_path / "gelu.onnx", tmp_path / "out.onnx"
    text = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        net (float[N,3] x) => (float[N,3] y) { h = com.microsoft.Gelu(x) y = Neg(h) }"""
    onnx.save(parser.parse_model(text), file)
    assert "output h: float32 [N, 3]" in run("expose", file, "--layer", "h", "-o", out).stdout
    np.testing.assert_allclose(outputs(out, x=X)["h"], -outputs(out, x=X)["y"])


def test_what_nobody_runs_here_gets_its_type_from_onnx(tmp_path: Path) -> None:
    file, out = tmp_path / "own.onnx", tmp_path / "out.onnx"
    text = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        net (float[N,3] x) => (float[N,3] y) { h = Sin(x) i = own.Twist(h) y = Neg(i) }"""
    onnx.save(parser.parse_model(text), file)
    assert "output h: float32 [N, 3]" in run("expose", file, "--layer", "h", "-o", out).stdout
    result = run("expose", file, "--layer", "i", "-o", out, "--force")
    assert result.exit_code == 2
    assert "Twist" in result.output


def test_a_scalar_is_told_from_a_shape_that_nobody_knows(tmp_path: Path) -> None:
    text = """net (float[N,3] x, int64[K] s) => (float y) {
        h = ReduceMax<keepdims = 0>(x) r = Reshape(x, s) t = ReduceMax<keepdims = 0>(r) y = Add(h, t) }"""
    out = tmp_path / "out.onnx"
    result = run("expose", model(tmp_path, text), "--layer", "h", "--layer", "r", "-o", out)
    assert "output h: float32 []\noutput r: float32 ?" in result.stdout
    scalar, unknown = (z.type.tensor_type for z in onnx.load(out).graph.output[1:])
    assert scalar.HasField("shape")
    assert not scalar.shape.dim
    assert not unknown.HasField("shape")


@pytest.mark.parametrize(
    ("kind", "op", "told"),
    [
        ("map(string, float)", 'ai.onnx.ml.DictVectorizer<string_vocabulary = ["a", "b"]>', "map(string, float32)"),
        ("map(int64, double)", "ai.onnx.ml.DictVectorizer<int64_vocabulary = [1, 2]>", "map(int64, float64)"),
        ("seq(float[N,2])", "ConcatFromSequence<axis = 0>", "sequence(float32)"),
    ],
)  # fmt: skip
def test_an_input_that_is_no_tensor_is_called_what_it_is(
    tmp_path: Path, kind: str, op: str, told: str
) -> None:
    file, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    number = "double" if "double" in kind else "float"
    header = '<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]>'
    text = (
        f"net ({'float[N,2]' if 'map' in kind else kind} x) => ({number}[A,2] y) {{ h = {op}(x) y = Neg(h) }}"
    )
    proto = parser.parse_model(f"{header} {text}")
    if "map" in kind:  # which the text has no word for
        of_map = proto.graph.input[0].type.map_type
        of_map.key_type = onnx.TensorProto.STRING if "string" in kind else onnx.TensorProto.INT64
        of_map.value_type.tensor_type.elem_type = 11 if "double" in kind else 1
    onnx.save(proto, file)
    result = run("expose", file, "--layer", "h", "-o", out)
    assert result.exit_code == 0, result.output
    assert f"input x: {told}\n" in result.stdout
    result = run("expose", file, "--layer", "h", "-o", out, "--force", "--json")
    assert json.loads(result.stdout)["inputs"][0] == {
        "name": "x",
        "dtype": told,
        "shape": None,
        "batch_axis": None,
    }


@pytest.mark.parametrize("apart", [False, True])
def test_weights_in_another_file_come_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[N,200] x) => (float[N,200] y) '
        "{ h = MatMul(x, w) y = MatMul(h, v) }"
    )
    rng = np.random.default_rng(1)
    weights: dict[str, Array] = {n: rng.normal(size=(200, 200)).astype(np.float32) for n in "wv"}
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    (tmp_path / "in").mkdir()
    onnx.save(proto, tmp_path / "in/m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    if apart:  # as a model is written that takes more than a message holds
        monkeypatch.setattr(export, "MESSAGE", 1000)
    out = tmp_path / "out.onnx"
    result = run("expose", tmp_path / "in/m.onnx", "--layer", "h", "-o", out)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out.onnx.data").exists() == ("out.onnx.data" in result.stdout) == apart
    x = rng.normal(size=(2, 200)).astype(np.float32)
    found = outputs(out, x=x)
    np.testing.assert_allclose(found["h"], x @ weights["w"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["y"], x @ weights["w"] @ weights["v"], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("b*q", "no tensor or node"),
        ("nothing", "close names"),
        ("*", "ambiguous; it matches: a, h, x, y"),
        ("w", "'w' is a constant"),
    ],
)
def test_names_that_mean_no_layer_are_refused(tmp_path: Path, layer: str, said: str) -> None:
    result = run("expose", model(tmp_path, NET), "--layer", layer, "-o", tmp_path / "out.onnx")
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "out.onnx").exists()


def test_a_layer_inside_a_branch_is_refused_with_the_name_of_its_node(tmp_path: Path) -> None:
    text = """net (float[N,3] x, bool c) => (float[N,3] y) {
        [fork] y = If (c) <
            then_branch = t () => (float[N,3] a) { inner = Sin(x) a = Neg(inner) },
            else_branch = e () => (float[N,3] b) { b = Cos(x) }> }"""
    result = run("expose", model(tmp_path, text), "--layer", "inner", "-o", tmp_path / "out.onnx")
    assert result.exit_code == 2
    assert "lies inside the If 'fork'" in result.output


@pytest.mark.parametrize("command", ["expose", "gradient"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, command: str) -> None:
    file = model(tmp_path, NET)
    before = file.read_bytes()
    there = tmp_path / "there.onnx"
    there.write_bytes(b"mine")
    link = tmp_path / "link.onnx"
    link.symlink_to(file)
    for out, said in (
        (there, "exists; --force replaces it"),
        (file, "is the model itself"),
        (link, "is the model itself"),
        (tmp_path, "a folder itself"),
        (tmp_path / "no/such.onnx", "no such folder"),
        (Path("/proc/x.onnx"), "cannot be written"),
    ):
        result = run(command, file, "--layer", "h", "-o", out)
        assert result.exit_code == 2
        assert said in result.output
    assert file.read_bytes() == before
    assert there.read_bytes() == b"mine"
    assert run(command, file, "--layer", "h", "-o", there, "--force").exit_code == 0
    assert "is the model itself" in run(command, file, "--layer", "h", "-o", file, "--force").output
