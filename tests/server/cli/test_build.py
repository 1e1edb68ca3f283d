"""`build` writes files that plain onnxruntime runs, and folders for Triton."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.server.cli.commands import model, run
from tests.server.cli.test_expose import NET, Array, X, outputs
from tests.server.cli.test_gradient_file import close, slopes

ROOT = Path(__file__).parents[3]


def written(file: Path, *options: str) -> Path:
    """Returns the file that the command writes."""
    out = file.with_name("built.onnx")
    result = run("build", file, "-o", out, "--force", *options)
    assert result.exit_code == 0, result.output
    assert "warning" not in result.output
    return out


def test_the_gradient_is_that_of_mathematics_at_each_samples_own_index(tmp_path: Path) -> None:
    out = written(model(tmp_path, NET), "--method", "gradient", "--layer", "x", "--layer", "lower")
    index = np.array([0, 1, 1, -2, 0])
    found = outputs(out, x=X, target=index)
    wanted = slopes(np.eye(2)[index])
    close(found["attribution/x"], wanted["x"])
    close(found["attribution/h"], wanted["h"])


def test_the_conductance_sums_to_the_change_that_differences_of_the_file_show(tmp_path: Path) -> None:
    file = model(tmp_path, NET)
    out = written(file, "--layer", "lower", "--target", "1", "--steps-input", "--baseline", "0.5")
    found = outputs(out, x=X, steps=np.array([256]))
    change = outputs(file, x=X)["y"][:, 1] - outputs(file, x=np.full_like(X, 0.5))["y"][:, 1]
    close(found["target/value"] - found["target/baseline"], change)
    close(found["residual/h"], found["attribution/h"].sum(axis=1) - change)
    assert (np.abs(found["residual/h"]) <= found["error_estimate/h"]).all()
    assert (found["error_estimate/h"] <= 0.01 * np.abs(found["attribution/h"]).sum(axis=1)).all()


ALONE = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
x = numpy.ones((2, 3), numpy.float32)
names = [one.name for one in session.get_outputs()]
made = dict(zip(names, session.run(None, {"x": x, "baseline/x": 0 * x[:1], "target": numpy.array([0, 1])})))
assert not any(name.startswith("onnx_") for name in sys.modules if "." not in name), sorted(sys.modules)
print(made["attribution/h"].sum(axis=1) - made["residual/h"])
"""


def test_a_file_runs_where_there_is_nothing_but_onnxruntime(tmp_path: Path) -> None:
    out = written(model(tmp_path, NET), "--layer", "lower", "--method", "deeplift-rescale")
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", ALONE, out], capture_output=True, text=True, env=bare)
    assert done.returncode == 0, done.stderr
    y = outputs(tmp_path / "text.onnx", x=np.stack([np.ones(3), np.zeros(3)]).astype(np.float32))["y"]
    np.testing.assert_allclose(np.array(done.stdout.strip(" []\n").split(), float), y[0] - y[1], rtol=1e-4)


def test_a_folder_for_triton_says_what_goes_in_and_comes_out(tmp_path: Path) -> None:
    folder = tmp_path / "cause"
    options = ("--method", "neuron-ig", "--layer", "lower", "--triton", folder)
    assert run("build", model(tmp_path, NET), *options).exit_code == 0
    text = (folder / "config.pbtxt").read_text()
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"))
    for one in (*session.get_inputs(), *session.get_outputs()):
        sizes = ", ".join(str(d if isinstance(d, int) else -1) for d in one.shape)
        kind = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}[one.type]
        assert f'{{ name: "{one.name}" data_type: {kind} dims: [ {sizes} ] }}' in text
    assert text.startswith('name: "cause"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 0\n')
    again = run("build", tmp_path / "text.onnx", *options)
    assert again.exit_code == 2
    assert "--force replaces it" in again.output
    assert run("build", tmp_path / "text.onnx", *options, "--force").exit_code == 0


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    file, out = model(tmp_path, NET), tmp_path / "built.onnx"
    result = run("build", file, "-o", out, "--steps", "8", "--layer", "lower", "--json")
    told = json.loads(result.stdout)
    assert [one["name"] for one in told["inputs"]] == ["x", "target", "baseline/x"]
    assert told["layers"] == ["h"]
    props = {one.key: one.value for one in onnx.load(out).metadata_props}
    assert props["onnx_attribution.method"] == "neuron_ig"
    assert props["onnx_attribution.steps"] == "8"
    assert props["onnx_attribution.layers"] == "h"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "nothing is to be written"),
        (["-o", "built.onnx", "--method", "occlusion"], "cannot be built into a file"),
        (["-o", "built.onnx", "--method", "no-such"], "no method 'no_such'"),
        (["-o", "built.onnx", "--tolerance", "0.1"], "choose steps instead"),
        (["-o", "built.onnx", "--steps", "8", "--steps-input"], "give one of them"),
        (["-o", "built.onnx", "--target", "1", "--target-weights"], "give one of them"),
        (["-o", "built.onnx", "--target", "0", "--target", "1"], "a file has one for all samples"),
        (["-o", "no/such/built.onnx"], "no such folder"),
        (["--triton", "no/such/built"], "no such folder"),
    ],
)
def test_what_cannot_be_built_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("build", model(tmp_path, NET), *options)
    assert result.exit_code == 2
    assert words in result.output.replace("\n", " ")
    assert not Path("built.onnx").exists()


def test_a_trained_network_is_built_by_the_name_of_its_layer(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.onnx"
    file = shared / "models" / "cifar10-wide-kw" / "model.onnx"
    assert run("build", file, "--method", "neuron-ig", "--layer", "12", "-o", out).exit_code == 0
    x = np.random.default_rng(0).random((2, 3, 32, 32)).astype(np.float32)
    given = {"input": x, "baseline/input": np.zeros_like(x[:1]), "target": np.array([3, 5])}
    found = outputs(out, **given)
    y = np.concatenate([outputs(file, input=row[None])["output"] for row in (*x, 0 * x[0])])
    change = y[[0, 1], [3, 5]] - y[2, [3, 5]]
    close(found["target/value"] - found["target/baseline"], change)
    size = np.abs(found["attribution/12"]).sum(axis=(1, 2, 3))
    assert (np.abs(found["attribution/12"].sum(axis=(1, 2, 3)) - change) <= 0.01 * size).all()


RECURRENT = """
net (float[1,4,2] x) => (float[1,3] y)
    <float[1,12,2] w, float[1,12,3] r, int64[2] sizes = {1, 3}, float[1,3] one = {1.0, 2.0, -1.0}>
{
    turned = Transpose <perm = [1, 0, 2]> (x)
    every, last = LSTM <hidden_size = 3> (turned, w, r)
    flat = Reshape(last, sizes)
    y = Mul(flat, one)
}
"""


def test_what_reads_a_recurrent_layer_is_in_the_loop_with_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    net = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {RECURRENT}')
    values = {"w": rng.normal(size=(1, 12, 2)), "r": rng.normal(size=(1, 12, 3))}
    for tensor in list(net.graph.initializer):
        if tensor.name in values:
            net.graph.initializer.remove(tensor)
    net.graph.initializer.extend(
        onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()
    )
    file = tmp_path / "text.onnx"
    onnx.save(net, file)
    x = rng.normal(size=(1, 4, 2)).astype(np.float32)
    change = outputs(file, x=x)["y"][0, 1] - outputs(file, x=0 * x)["y"][0, 1]
    out = written(file, "--loop", "--steps", "64", "--target", "1", "--baseline", "0")
    found = outputs(out, x=x)
    close(found["target/value"] - found["target/baseline"], np.array([change]))
    assert abs(found["attribution/x"].sum() - change) <= 1e-3 * np.abs(found["attribution/x"]).sum()


def test_the_code_of_the_page_of_built_files_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "built-files.md").read_text()
    command, code = (
        re.findall(rf"^```{kind}\n(.*?)^```$", page, re.M | re.S)[0] for kind in ("sh", "python")
    )
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    assert run(*command.split()[1:]).exit_code == 0
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("(3, 32, 8, 8) ["), done.stderr


@pytest.mark.parametrize(
    ("options", "of_h"), [(["--logit"], np.eye(3)), (["--logit", "--mean-centred"], np.eye(3) - 1 / 3)]
)
def test_logits_and_centred_targets_are_those_of_each_samples_index(
    tmp_path: Path, options: list[str], of_h: Array
) -> None:
    text = "net (float[N,3] x) => (float[N,3] y) { h = Mul(x, x) y = Softmax<axis = 1>(h) }"
    index = np.array([0, 1, 2, -1, 1])
    for method, factor in (("gradient", 2 * X), ("integrated-gradients", X * X)):
        out = written(model(tmp_path, text), "--method", method, *options)
        feeds = {"x": X, "target": index, "baseline/x": 0 * X}
        names = [one.name for one in onnx.load(out).graph.input]
        found = outputs(out, **{name: feeds[name] for name in names})
        close(found["attribution/x"], of_h[index] * factor)
