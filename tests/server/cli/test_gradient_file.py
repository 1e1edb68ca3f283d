"""`gradient` writes files whose numbers are those of mathematics in float64, in a session with default settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from onnx_attribution.graph_tools.programs.export import save
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.export import gradient_model, plain_told
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import Target
from tests.server.cli.commands import model, run
from tests.server.cli.test_expose import NET, Array, X, outputs

W = np.array([[1, -2, 3, -4], [5, -6, 7, -8], [9, 1, -2, 3]], np.float64)
V = np.array([[1, -2], [3, -4], [5, -6], [7, -8]], np.float64)


def written(file: Path, *options: str) -> Path:
    """Returns the file that the command writes."""
    out = file.with_name("gradient.onnx")
    result = run("gradient", file, "-o", out, "--force", *options)
    assert result.exit_code == 0, result.output
    assert "warning" not in result.output
    return out


def slopes(u: Array) -> dict[str, Array]:
    """Returns the gradients of `u @ y` of NET at each of its tensors, u being `[samples, 2]`."""
    a = np.tanh(X.astype(np.float64) @ W)
    of_h = (u @ V.T) * (1 - a * a)
    return {"y": u, "a": u @ V.T, "h": of_h, "x": of_h @ W.T}


def close(found: Array, wanted: Array) -> None:
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "u"),
    [
        (["--target", "1"], [0, 1]),
        (["--target", "y:0"], [1, 0]),
        (["--target", "-1", "--minus", "0"], [-1, 1]),
        (["--target", ":"], [1, 1]),
        (["--target", "0", "--mean-centred"], [0.5, -0.5]),
        (["--target", "@mask.npy"], [1, 0]),
        (["--target", "@weights.npy"], [0.25, -3]),
    ],
)
def test_the_gradient_is_that_of_mathematics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], u: list[float]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("mask.npy", np.array([True, False]))
    np.save("weights.npy", np.array([0.25, -3]))
    file = model(tmp_path, NET)
    found = outputs(written(file, *options, "--layer", "x", "--layer", "lower", "--layer", "a"), x=X)
    wanted = slopes(np.tile(np.array(u, np.float64), (len(X), 1)))
    assert list(found) == ["y", "target/value", "gradient/x", "gradient/h", "gradient/a"]
    y = np.tanh(X.astype(np.float64) @ W) @ V
    close(found["y"], y)
    close(found["target/value"], y @ np.array(u))
    for name in ("x", "h", "a"):
        close(found[f"gradient/{name}"], wanted[name])


def test_without_an_index_the_weights_of_each_sample_are_an_input(tmp_path: Path) -> None:
    out = written(model(tmp_path, NET), "--layer", "h")
    u = np.random.default_rng(2).normal(size=(len(X), 2))
    found = outputs(out, x=X, **{"target/weight": u.astype(np.float32)})
    close(found["gradient/h"], slopes(u)["h"])
    close(found["target/value"], np.sum(np.tanh(X.astype(np.float64) @ W) @ V * u, axis=1))


def test_the_default_layers_are_the_float_inputs_and_one_element_needs_no_index(tmp_path: Path) -> None:
    text = "net (float[N,3] x, float[N,3] y) => (float[N,1] z) { p = Mul(x, y) z = ReduceSum(p, a) }"
    text = text.replace("=> (float[N,1] z) {", "=> (float[N,1] z) <int64[1] a = {1}> {")
    found = outputs(written(model(tmp_path, text)), x=X, y=2 * X)
    np.testing.assert_array_equal(found["gradient/x"], 2 * X)
    np.testing.assert_array_equal(found["gradient/y"], X)


def test_a_hidden_tensor_may_be_the_target(tmp_path: Path) -> None:
    found = outputs(written(model(tmp_path, NET), "--target", "bend:2"), x=X)
    a = np.tanh(X.astype(np.float64) @ W)[:, 2]
    close(found["gradient/x"], (1 - a * a)[:, None] * W[:, 2])


def test_the_logit_takes_the_place_of_a_softmax(tmp_path: Path) -> None:
    text = "net (float[N,3] x) => (float[N,3] y) { h = Mul(x, x) y = Softmax<axis = 1>(h) }"
    found = outputs(written(model(tmp_path, text), "--target", "1", "--logit"), x=X)
    close(found["gradient/x"], 2 * X * np.array([0, 1, 0]))
    softmax = np.exp(X * X) / np.exp(X * X).sum(axis=1, keepdims=True)
    of_h = softmax[:, 1:2] * (np.array([0, 1, 0]) - softmax)
    close(outputs(written(model(tmp_path, text), "--target", "1"), x=X)["gradient/x"], of_h * 2 * X)


OPEN = "net (float[N,S,4] x) => (float[N,S,4] y) { h = Mul(x, x) y = Mul(h, x) }"


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("0,1", np.s_[:, 0, 1]),
        ("-1,2", np.s_[:, -1, 2]),
        ("1:,0", np.s_[:, 1:, 0]),
        ("::-2,1:3", np.s_[:, ::-2, 1:3]),
    ],
)
def test_an_index_into_axes_of_any_size(tmp_path: Path, target: str, place: tuple[slice, ...]) -> None:
    out = written(model(tmp_path, OPEN), "--target", target)
    for size in (3, 6):
        x = np.random.default_rng(size).normal(size=(2, size, 4)).astype(np.float32)
        wanted = np.zeros(x.shape)
        wanted[place] = (3 * x.astype(np.float64) ** 2)[place]
        close(outputs(out, x=x)["gradient/x"], wanted)


def test_an_index_that_is_not_there_ends_the_run_or_is_refused(tmp_path: Path) -> None:
    out = written(model(tmp_path, OPEN), "--target", "5,1")
    with pytest.raises(Exception, match="out of data bounds"):
        outputs(out, x=np.zeros((2, 3, 4), np.float32))
    for target, said in (("0,4", "out of range"), ("1", "needs 2 parts")):
        result = run("gradient", model(tmp_path, OPEN), "--target", target, "-o", tmp_path / "no.onnx")
        assert result.exit_code == 2
        assert said in result.output


def test_several_targets_are_refused_with_what_does_it(tmp_path: Path) -> None:
    targets = ("--target", "0", "--target", "1")
    result = run("gradient", model(tmp_path, NET), *targets, "-o", tmp_path / "no.onnx")
    assert result.exit_code == 2
    assert "`target/weight` becomes an input" in result.output


def test_a_fixed_batch_is_freed(tmp_path: Path) -> None:
    text = NET.replace("[N,", "[1,")
    found = outputs(written(model(tmp_path, text), "--target", "1"), x=X)
    close(found["gradient/x"], slopes(np.tile([0.0, 1.0], (len(X), 1)))["x"])


def test_samples_that_cannot_share_a_run_have_room_for_one(tmp_path: Path) -> None:
    text = """net (float[N,3] x) => (float[N,3] y) <int64[1] a = {0}> {
        s = ReduceSum(x, a) y = Mul(x, s) }"""
    out = written(model(tmp_path, text), "--target", "1", "--batch-axis", "x=0")
    close(outputs(out, x=X[:1])["gradient/x"], 2 * X[:1] * np.array([0, 1, 0]))
    with pytest.raises(Exception, match="Got invalid dimensions"):
        outputs(out, x=X)


def test_rows_that_do_not_lie_first(tmp_path: Path) -> None:
    text = """net (float[S,N,3] x) => (float[S,N,2] y) <float[3,2] w = {1,2,3,4,5,6}> {
        h = Mul(x, x) y = MatMul(h, w) }"""
    out = written(model(tmp_path, text), "--target", "0,1", "--batch-axis", "x=1")
    x = np.random.default_rng(5).normal(size=(4, 3, 3)).astype(np.float32)
    found, wanted = outputs(out, x=x), np.zeros(x.shape)
    wanted[0] = 2 * x[0] * np.array([2, 4, 6])
    close(found["gradient/x"], wanted)
    assert found["target/value"].shape == (3,)


def test_old_opsets_functions_and_halves(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    old = """<ir_version: 4, opset_import: ["": 9]> net (float[N,3] x) => (float[N,1] y) {
        h = Sin(x) y = ReduceSum<axes = [1]>(h) }"""
    called = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        net (float[N,3] x) => (float[N,3] y) { y = own.sine(x) }
        <domain: "own", opset_import: ["": 17]> sine (a) => (b) { b = Sin(a) }"""
    half = '<ir_version: 8, opset_import: ["": 17]> net (float16[N,3] x) => (float16[N,3] y) { y = Sin(x) }'
    for text, kind in ((old, np.float32), (called, np.float32), (half, np.float16)):
        onnx.save(parser.parse_model(text), file)
        found = outputs(written(file, "--target", ":"), x=X.astype(kind))
        np.testing.assert_allclose(found["gradient/x"], np.cos(X.astype(kind).astype(float)), rtol=1e-3)
        assert found["gradient/x"].dtype == np.float32


def test_inputs_that_nothing_reads_and_outputs_of_other_kinds(tmp_path: Path) -> None:
    text = """net (float[N,3] x, float[N,3] unused) => (float[N,3] y, seq(float[N,3]) s, int64[N] k) {
        y = Sin(x) s = SequenceConstruct(y, x) k = ArgMax<axis = 1, keepdims = 0>(y) }"""
    out = written(model(tmp_path, text), "--target", "0")
    session = onnxruntime.InferenceSession(str(out))
    assert [x.name for x in session.get_inputs()] == ["x", "unused"]
    found = outputs(out, x=X, unused=X)
    assert list(found) == ["y", "k", "target/value", "gradient/x"]
    np.testing.assert_array_equal(found["k"], np.sin(X).argmax(axis=1))


def test_a_file_of_which_a_default_session_makes_something_else_is_told_of(tmp_path: Path) -> None:
    original = model(tmp_path, NET)
    loaded = LoadedModel(original, Backend("cpu", 1))
    found = gradient_model(loaded, ["h"], Target(index=1))
    file = tmp_path / "g.onnx"
    save(found.model, file)
    assert plain_told(loaded, found, file, original) == ("", "")
    save(gradient_model(loaded, ["h"], Target(index=0)).model, file)
    said, _ = plain_told(loaded, found, file, original)
    assert (
        "gives other numbers for target/value, gradient/h; give onnxruntime.InferenceSession disabled_op"
        in said
    )
    file.write_bytes(b"nothing")
    assert "cannot run the file" in plain_told(loaded, found, file, original)[0]


def test_a_layer_behind_the_target_is_refused_with_both_names(tmp_path: Path) -> None:
    refused = ("--layer", "y", "--target", "h:1")
    result = run("gradient", model(tmp_path, NET), *refused, "-o", tmp_path / "out.onnx")
    assert result.exit_code == 3
    assert "no way leads from 'y' to 'h'" in result.output


def test_no_derivative_is_a_refusal_with_its_status(tmp_path: Path, sign: Path) -> None:
    result = run("gradient", sign, "--target", "1", "-o", tmp_path / "out.onnx")
    assert result.exit_code == 3
    assert "Sign" in result.output
    assert not (tmp_path / "out.onnx").exists()
