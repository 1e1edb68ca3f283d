"""The command line: what it prints, its exit statuses, and never a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.server.cli.commands import explained, model, run

ROOT = Path(__file__).parents[2]
Data = tuple[NDArray[np.float32], NDArray[np.int64]]


# --- layers


def test_layers_are_listed_with_node_operator_shape_type_and_cut(digits_path: Path) -> None:
    found = json.loads(run("layers", digits_path, "--json").stdout)
    assert found["layers"][3] == {
        "name": "conv2",
        "node": "/conv2/Conv",
        "operator": "Conv",
        "dtype": "float32",
        "shape": ["N", 32, 8, 8],
        "cut": True,
        "after": ["relu1"],
        "channel_axis": 1,
    }
    assert found["batch"] == "dynamic"
    assert found["sources"] == ["image"]


def test_layers_of_a_pattern_are_a_table_for_people(digits_path: Path) -> None:
    shown = run("layers", digits_path, "--pattern", "Conv").stdout
    assert re.search(r"conv2 +/conv2/Conv +Conv +\[N, 32, 8, 8\] +float32 +yes", shown)
    assert "dense1" not in shown


# --- check


def test_check_prints_a_line_a_file_and_status_0_if_all_are_attributable(
    digits_path: Path, digits_fixed_path: Path
) -> None:
    result = run("check", digits_path, digits_fixed_path, "--json")
    assert result.exit_code == 0
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["file"] == str(digits_path)
    assert (first["attributable"], first["sources"], first["refused"]) == (True, ["image"], [])
    assert (first["batch"], second["batch"]) == ("dynamic", "freed")


def test_check_is_3_if_one_file_is_refused(digits_path: Path, sign: Path) -> None:
    result = run("check", sign, digits_path, "--json")
    assert result.exit_code == 3
    refused = json.loads(result.stdout.splitlines()[0])
    assert refused["attributable"] is False
    assert set(refused["refused"][0]) == {"node", "operator", "tensor", "reason", "word"}


def test_check_is_2_if_one_file_cannot_be_read_and_still_checks_the_others(
    digits_path: Path, sign: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    result = run("check", broken, tmp_path / "missing.onnx", sign, digits_path, "--json")
    assert result.exit_code == 2
    objects = [json.loads(line) for line in result.stdout.splitlines()]
    assert [bool(one.get("error")) for one in objects] == [True, True, False, False]
    assert objects[3]["attributable"] is True
    assert all({"file", "attributable", "sources", "batch", "refused"} <= set(one) for one in objects)


def test_check_for_people_names_the_verdicts(digits_path: Path, sign: Path, tmp_path: Path) -> None:
    shown = run("check", digits_path, sign, tmp_path / "missing.onnx").stdout
    for word in ("attributable", "refused", "unusable"):
        assert re.search(rf"^{word} ", shown, re.MULTILINE)


# --- explain


def test_explain_json_has_one_entry_a_sample(digits_path: Path, image: Path) -> None:
    found = explained(
        digits_path, "--input", f"image={image}", "--method", "neuron-ig", "--layer", "conv2", "--layer", "dense1",
        "--steps", "16", "--target", "3",
    )  # fmt: skip
    assert (found["method"], found["batch"]) == ("neuron_ig", "dynamic")
    assert found["target"]["tensor"] == "logits"
    assert found["target"]["index"] == ["3", "3"]
    layer = found["layers"]["conv2"]
    assert layer["shape"] == [2, 32, 8, 8]
    assert layer["cut"] is True
    for name in ("sum", "residual", "error_estimate"):
        assert len(layer[name]) == 2
    change = np.subtract(found["target"]["value"], found["target"]["baseline_value"])
    np.testing.assert_allclose(np.subtract(layer["sum"], layer["residual"]), change)
    assert found["evaluations"] > 0
    assert found["seconds"] > 0


def test_numbers_that_do_not_exist_are_null(digits_path: Path, image: Path) -> None:
    found = explained(digits_path, "--input", image, "--method", "gradient")
    assert found["layers"]["image"]["residual"] == [None, None]


def test_explain_for_people_is_a_table(digits_path: Path, image: Path) -> None:
    result = run("explain", digits_path, "--input", image, "--layer", "pool", "--steps", "8")
    assert result.exit_code == 0
    assert re.search(r"pool +1 +\[32, 4, 4\] +\d", result.stdout)
    assert "logits[7]" in result.stdout


@pytest.mark.parametrize(
    "method", ["neuron_ig", "integrated-gradients", "deeplift-rescale", "gradient_x_activation"]
)
def test_methods_are_written_with_hyphens_or_underscores(method: str, digits_path: Path, image: Path) -> None:
    assert explained(digits_path, "--input", image, "--method", method)["method"] == method.replace("-", "_")


def test_output_holds_one_array_a_layer(digits_path: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    found = explained(digits_path, "--input", image, "--layer", "conv2", "--layer", "relu3", "--output", out)
    with np.load(out) as data:
        assert sorted(data.files) == ["conv2", "relu3"]
        for name in data.files:
            sums = data[name].reshape(2, -1).sum(axis=1, dtype=np.float64)
            np.testing.assert_allclose(sums, found["layers"][name]["sum"], rtol=1e-4)


def test_layers_may_be_called_like_the_arguments_of_savez(tmp_path: Path) -> None:
    text = 'm (float[N,3] x) => (float[N] y) { file = Relu(x) "/a/b:0" = Sigmoid(file) y = ReduceSum<keepdims=0>(c) }'
    text = text.replace('"/a/b:0" = Sigmoid(file)', "allow_pickle = Sigmoid(file)").replace(
        "(c)", "(allow_pickle, k)"
    )
    text = text.replace("{ file", "<int64[1] k = {1}> { file")
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    out = tmp_path / "out.npz"
    explained(
        model(tmp_path, text), "--input", tmp_path / "x.npy", "--layer", "file", "--layer", "allow_pickle",
        "--output", out,
    )  # fmt: skip
    with np.load(out) as data:
        assert sorted(data.files) == ["allow_pickle", "file"]


def test_plot_is_written(digits_path: Path, image: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "out.png"
    explained(digits_path, "--input", image, "--layer", "conv2", "--baseline", "0.5", "--plot", plot)
    with Image.open(plot) as picture:
        assert picture.width > 500


def test_tolerance_doubles_the_steps(digits_path: Path, image: Path) -> None:
    options = (digits_path, "--input", image, "--layer", "dense1", "--steps", "4")
    found = explained(*options, "--tolerance", "0.05")
    assert found["steps"] > 4
    assert (
        found["layers"]["dense1"]["error_estimate"]
        < explained(*options)["layers"]["dense1"]["error_estimate"]
    )


def test_integer_inputs_come_from_a_path_method_at_a_hidden_source(digits_path: Path, image: Path) -> None:
    found = explained(
        digits_path, "--input", image, "--source", "relu1", "--layer", "conv2", "--baseline", "0.25"
    )
    assert list(found["layers"]) == ["conv2"]


# --- inputs


def test_npz_takes_the_input_by_name_by_key_or_the_only_one_that_fits(
    digits_path: Path, digits_data: Data, tmp_path: Path
) -> None:
    images, labels = digits_data[0][:3], digits_data[1][:3]
    np.savez(tmp_path / "named.npz", image=images, other=images)
    np.savez(tmp_path / "fitting.npz", x=images, y=labels)
    for text in ("named.npz", "fitting.npz", "fitting.npz:x", "fitting.npz:x[0:3]"):
        found = explained(digits_path, "--input", tmp_path / text, "--method", "gradient")
        assert found["layers"]["image"]["shape"] == [3, 1, 8, 8]
    np.savez(tmp_path / "many.npz", a=images, b=images)
    result = run("explain", digits_path, "--input", tmp_path / "many.npz")
    assert result.exit_code == 2
    assert "a, b" in result.stderr
    assert "many.npz:a" in result.stderr


@pytest.mark.parametrize(("rows", "count"), [("0", 1), ("0:2", 2), (":", 2), ("-1", 1), ("1:", 1)])
def test_rows_choose_samples(rows: str, count: int, digits_path: Path, image: Path) -> None:
    for options in (("--input", image, f"--rows={rows}"), ("--input", f"{image}[{rows}]")):
        assert len(explained(digits_path, *options, "--method", "gradient")["target"]["value"]) == count


def test_a_single_sample_needs_no_batch_axis(digits_path: Path, digits_data: Data, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", digits_data[0][0])
    found = explained(digits_path, "--input", tmp_path / "one.npy", "--method", "gradient")
    assert found["layers"]["image"]["shape"] == [1, 1, 8, 8]


def test_files_of_one_input_become_a_batch(digits_path: Path, image: Path) -> None:
    found = explained(digits_path, "--input", image, "--input", image, "--method", "gradient")
    assert len(found["target"]["value"]) == 4


# --- the command itself


def test_help_needs_neither_onnx_nor_onnxruntime() -> None:
    code = (
        "import sys; from onnx_attribution.server.cli.app import app\n"
        "try: app(['explain', '--help'])\n"
        "except SystemExit as end: print(end.code, {'onnx', 'onnxruntime', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert result.stdout.endswith("0 set()\n"), result.stderr


# --- all layers

BRANCHES = """branches (float[N,2] x) => (float[N,2] y) {
    h = Tanh(x)
    left = Sigmoid(h)
    right = Relu(h)
    y = Add(left, right)
}"""


def test_the_flow_through_all_layers_is_a_table_and_json(tmp_path: Path) -> None:
    file = model(tmp_path, BRANCHES)
    np.save(tmp_path / "x.npy", np.array([[1.0, 2.0]], np.float32))
    question = (file, "--input", tmp_path / "x.npy", "--target", "0", "--layer", "*", "--method", "neuron-ig")
    found = explained(*question)
    assert list(found["layers"]) == ["h", "left", "right", "y"]
    (pair,) = found["flow"]["cut_sets"]
    assert pair["layers"] == ["left", "right"]
    assert abs(pair["residual"][0]) < 1e-2
    shares = {name: one["share"][0] for name, one in found["flow"]["layers"].items()}
    assert shares["left"] + shares["right"] == pytest.approx(1, abs=1e-2)
    printed = run("explain", *question).stdout
    assert re.search(r"flow through +sample +sum +share +residual", printed)
    assert re.search(r"left \+ right +0 .* \d+ % ", printed)


def test_sums_only_have_no_arrays_to_write(tmp_path: Path) -> None:
    file = model(tmp_path, BRANCHES)
    np.save(tmp_path / "x.npy", np.array([[1.0, 2.0]], np.float32))
    question = (file, "--input", tmp_path / "x.npy", "--target", "0", "--layer", "**", "--sums-only")
    found = explained(*question, "--method", "neuron-ig")
    assert {tuple(one["shape"]) for one in found["layers"].values()} == {(1, 0)}
    refused = run("explain", *question, "--output", tmp_path / "out.npz")
    assert refused.exit_code
    assert "--sums-only leaves no arrays" in refused.stderr
