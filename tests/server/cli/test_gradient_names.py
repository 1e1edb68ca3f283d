"""Names in a file of `gradient`: of its tensors, and one for the number of samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_attribution.graph_tools.ir.shapes import dims_of
from tests.server.cli.commands import model, run
from tests.server.cli.test_expose import outputs

Shape = list[int | str]
X = np.random.default_rng(3).normal(size=(4, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["target/value", "target/weight", "gradient/x"])
def test_a_tensor_of_the_name_of_a_new_one_is_refused_in_one_line_that_says_what_helps(
    tmp_path: Path, name: str
) -> None:
    file = model(tmp_path, "net (float[N,3] x) => (float[N,3] y) { h = Sin(x) y = Neg(h) }")
    proto = onnx.load(file)
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = name
    onnx.save(proto, file)
    result = run("gradient", file, "-o", tmp_path / "out.onnx")
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert f"called '{name}'" in result.output
    assert "onnx.compose.add_prefix(onnx.load(FILE), 'own/')" in result.output
    onnx.save(onnx.compose.add_prefix(onnx.load(file), "own/"), file)
    assert run("gradient", file, "-o", tmp_path / "out.onnx").exit_code == 0
    found = outputs(tmp_path / "out.onnx", **{"own/x": X[:, 0], "target/weight": np.ones_like(X[:, 0])})
    np.testing.assert_allclose(found["gradient/own/x"], -np.cos(X[:, 0].astype(float)), rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "axes", "shapes"),
    [
        (  # freed: the name of the rows is new, and what follows from it has none of its own
            """net (float[1,2,3] x) => (float[1,6] y) { f = Flatten(x) y = Sin(f) }""",
            (),
            {"x": ["rows", 2, 3], "target/weight": ["rows", 6], "y": ["rows", 6]},
        ),
        (
            """net (float[N,2,3] x, float[M,6] z) => (float[A,6] y, float[B,6] w) {
                f = Flatten(x) y = Mul(f, z) w = Sin(z) }""",
            (),
            {
                "x": ["N", 2, 3], "z": ["N", 6], "target/weight": ["N", 6], "y": ["N", 6], "w": ["N", 6],
                "gradient/z": ["N", 6],
            },
        ),
        (  # samples that cannot share a run
            """net (float[N,3] x) => (float[N,3] y, float[3] s) <int64[1] a = {0}> {
                s = ReduceSum<keepdims = 0>(x, a) y = Mul(x, s) }""",
            ("--batch-axis", "x=0"),
            {"x": [1, 3], "target/weight": [1, 3], "y": [1, 3], "s": [3], "target/value": [1]},
        ),
        (
            "net (float[N,3] x) => (float[N,N] y) { t = Transpose<perm = [1, 0]>(x) y = MatMul(x, t) }",
            ("--batch-axis", "x=0"),
            {"x": [1, 3], "target/weight": [1, 1], "y": [1, 1], "target/value": [1]},
        ),
        (
            "net (float[S,N,3] x) => (float[S,N,3] y) { y = Sin(x) }",
            ("--batch-axis", "x=1"),
            {"x": ["S", "N", 3], "target/weight": ["S", "N", 3], "target/value": ["N"]},
        ),
    ],
)  # fmt: skip
def test_the_number_of_samples_has_one_name(
    tmp_path: Path, text: str, axes: tuple[str, ...], shapes: dict[str, Shape]
) -> None:
    out = tmp_path / "out.onnx"
    result = run("gradient", model(tmp_path, text), "-o", out, "--target", "y:", "--json", *axes)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    graph = onnx.load(out).graph
    told = {one["name"]: one["shape"] for one in (*told["inputs"], *told["outputs"])}
    written = {value.name: list(dims_of(value) or ()) for value in (*graph.input, *graph.output)}
    rows = shapes["x"]["S" in shapes["x"]]
    wanted = {"target/value": [rows], "gradient/x": shapes["x"], **shapes}
    assert {name: written[name] for name in wanted} == wanted
    assert {name: told[name] for name in wanted} == wanted


@pytest.mark.parametrize("name", ["yolox-nano", "tfbert-qa-random", "mnist-cntk", "silero-vad-v5"])
def test_the_samples_of_real_models_have_one_name(shared: Path, tmp_path: Path, name: str) -> None:
    (path,) = (shared / "models" / name).glob("*.onnx")
    out = tmp_path / "out.onnx"
    first = onnx.load(path, load_external_data=False).graph.output[0].name
    assert run("gradient", path, "-o", out, "--target", f"{first}:").exit_code == 0
    graph = onnx.load(out).graph
    shapes = {value.name: dims_of(value) or () for value in (*graph.input, *graph.output)}
    assert isinstance(shapes["target/value"][0], str)
    assert {shapes[n][0] for n in (graph.input[0].name, "target/weight", "target/value", first)} == set(
        shapes["target/value"]
    )


def test_several_neighbours_that_are_one_sample_have_weights_each(tmp_path: Path) -> None:
    text = (
        """net (float[N,2,3] x) => (float[K,3] y) <int64[2] a = {-1, 3}> { h = Reshape(x, a) y = Sin(h) }"""
    )
    out = tmp_path / "out.onnx"
    assert run("gradient", model(tmp_path, text), "-o", out, "--target", "1,2").exit_code == 0
    found, wanted = outputs(out, x=X), np.zeros(X.shape)
    wanted[:, 1, 2] = np.cos(X[:, 1, 2].astype(float))
    np.testing.assert_allclose(found["gradient/x"], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["target/value"], np.sin(X[:, 1, 2].astype(float)), rtol=1e-5)
