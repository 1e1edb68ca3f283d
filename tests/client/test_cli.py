"""The command line: what it prints, its exit statuses, and never a traceback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import parser
from PIL import Image

from onnx_attribution.client.cli.inputs import read_baselines
from onnx_attribution.client.cli.pictures import Picture
from onnx_attribution.client.cli.target import parse_target
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.app import background
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import ModelInfo, Target, TensorInfo
from tests.client.commands import explained, model, run

ROOT = Path(__file__).parents[2]
Data = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture
def image(tmp_path: Path, digits_data: Data) -> Path:
    path = tmp_path / "image.npy"
    np.save(path, digits_data[0][:2])
    return path


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    """Returns a model without a derivative."""
    return model(tmp_path, "sign (float[N,3] x) => (float[N,3] y) { y = Sign(x) }")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Returns a model with two inputs and two outputs."""
    text = "two (float[N,3] a, float[N,3] b) => (float[N,3] sum, float[N,3] difference)"
    return model(tmp_path, text + " { sum = Add(a, b) difference = Sub(a, b) }")


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
    assert {"node", "operator", "tensor", "reason"} <= set(refused["refused"][0])


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


# --- occlusion


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Returns a model of a city, an age and two tokens; the city counts 1, 4 or 0, all is summed with weights."""
    text = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
        people (string[N,1] city, float[N,1] age, int64[N,2] ids) => (float[N,1] y)
        <float[4,1] W = {10,1,100,1000}> {
            code = ai.onnx.ml.LabelEncoder<keys_strings = ["Bern", "Rome"], values_floats = [1.0, 4.0],
                default_float = 0.0>(city)
            numbers = Cast<to = 1>(ids)
            row = Concat<axis = 1>(code, age, numbers)
            y = MatMul(row, W)
        }"""
    path = tmp_path / "people.onnx"
    onnx.save(parser.parse_model(text), path)
    (tmp_path / "ids.json").write_text("[[2, 3]]")
    return path


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"city": [40], "age": [29], "ids": [200, 3000]}),
        (["--baseline", "city=Bern", "--baseline", "ids=1"], {"city": [30], "age": [29], "ids": [100, 2000]}),
        (["--source", "ids", "--baseline", "1"], {"ids": [100, 2000]}),
        (["--window", "ids=2"], {"ids": [3200, 3200]}),
        (["--groups", "ids={ids}", "--groups", "age={two}"], {"ids": [229, 3000], "age": [229]}),
    ],
)
def test_single_values_are_written_out_and_groups_come_from_files(
    people: Path, tmp_path: Path, options: list[str], expected: dict[str, list[float]]
) -> None:
    np.save(tmp_path / "two.npy", np.array([2]))
    files = {"ids": tmp_path / "ids.json", "two": tmp_path / "two.npy"}
    out = tmp_path / "out.npz"
    inputs = ["--input", "city=Rome", "--input", "age=29", "--input", f"ids={files['ids']}"]
    given = [text.format(**files) for text in options]
    found = explained(people, *inputs, "--method", "occlusion", *given, "--output", out)
    assert found["layers"][next(iter(expected))]["residual"] == [None]
    with np.load(out) as data:
        assert {name: data[name][0].tolist() for name in data.files} == expected


def test_a_window_alone_is_for_the_only_input(digits_path: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    explained(digits_path, "--input", image, "--method", "occlusion", "--window", "2x8", "--output", out)
    with np.load(out) as data:
        rows = data["image"].reshape(2, 4, 16)
    assert (rows == rows[:, :, :1]).all()
    assert len(np.unique(rows)) > 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--window", "2x2"], "3 inputs"),
        (["--window", "ids=big"], "--window"),
        (["--window", "ids=3"], "[2]"),
        (["--stride", "ids=1"], "no window"),
        (["--groups", "nothing={ids}"], "nothing"),
        (["--groups", "ids=missing.npy"], "missing.npy"),
        (["--baseline", "ids=0.5"], "int64"),
        (["--input", "age=old"], "old"),
        (["--method", "gradient", "--window", "ids=1"], "occlusion"),
    ],
)
def test_unusable_groups_are_status_2_and_named(
    arguments: list[str], said: str, people: Path, tmp_path: Path
) -> None:
    files = tmp_path / "ids.json"
    inputs = ["--input", "city=Rome", "--input", f"ids={files}"] + ["--input", "age=29"] * (
        "age=old" not in arguments
    )
    result = run(
        "explain", people, *inputs, "--method", "occlusion", *[a.format(ids=files) for a in arguments]
    )
    assert result.exit_code == 2, result.output
    assert said in result.output


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


# --- targets and baselines

TARGETS = [
    (["3"], Target(None, 3)),
    (["-1"], Target(None, -1)),
    (["2,5"], Target(None, (2, 5))),
    (["0:3,1"], Target(None, (slice(0, 3), 1))),
    ([":,1"], Target(None, (slice(None), 1))),
    (["0:6:2"], Target(None, slice(0, 6, 2))),
    (["conv2"], Target("conv2", None)),
    (["conv2:1,0:3,2"], Target("conv2", (1, slice(0, 3), 2))),
    (["output:0"], Target("output:0", None)),  # an output of that name
    (["output:0:3"], Target("output:0", 3)),
    (["495:"], Target("495", None)),
    (["495:3"], Target("495", 3)),
    (["other:0"], Target("other", 0)),
    (["3", "5"], Target(None, [3, 5])),
    (["logits:3", "logits:5"], Target("logits", [3, 5])),
    ([], Target()),
]


@pytest.mark.parametrize(("given", "target"), TARGETS)
def test_targets_have_these_forms(given: list[str], target: Target) -> None:
    assert parse_target(given, [], ["output:0", "495", "logits"]) == target


def test_minus_is_subtracted(digits_path: Path, image: Path) -> None:
    values = [
        np.array(
            explained(digits_path, "--input", image, "--method", "gradient", *options)["target"]["value"]
        )
        for options in (("--target", "3"), ("--target", "5"), ("--target", "3", "--minus", "5"))
    ]
    np.testing.assert_allclose(values[0] - values[1], values[2], rtol=1e-5)


def test_a_baseline_is_a_number_or_a_file(digits_path: Path, image: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "half.npy", np.full((1, 1, 8, 8), 0.5, np.float32))
    options = (digits_path, "--input", image, "--method", "deeplift-rescale", "--baseline")
    found = [
        explained(*options, text)["target"]["baseline_value"]
        for text in ("0.5", "image=0.5", f"image={tmp_path}/half.npy", f"{tmp_path}/half.npy", "0")
    ]
    assert found[0] == found[1] == found[2] == found[3] != found[4]


def test_references_are_averaged_and_their_spread_is_told(
    digits_path: Path, image: Path, tmp_path: Path
) -> None:
    references = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    np.save(tmp_path / "several.npy", references)
    np.save(tmp_path / "own.npy", np.stack([references, references]))  # of two images
    options = (digits_path, "--input", image, "--method", "deeplift-rescale", "--target", "3")
    alone = []
    for k in range(3):
        np.save(tmp_path / "one.npy", references[k : k + 1])
        alone.append(explained(*options, "--baseline", f"{tmp_path}/one.npy")["layers"]["image"]["sum"])
    for file in ("several.npy", "own.npy"):
        found = explained(*options, "--references", f"image={tmp_path}/{file}")["layers"]["image"]
        np.testing.assert_allclose(found["sum"], np.mean(alone, axis=0), rtol=1e-5)
        assert found["spread"][0] > 0
    shown = run("explain", *options, "--references", f"{tmp_path}/several.npy")
    assert "spread" in shown.stdout
    shown = run("explain", *options, "--references", f"{tmp_path}/several.npy", "--baseline", "image=0")
    assert (shown.exit_code, "'image' has both --baseline and --references" in shown.stderr) == (2, True)


def test_a_baseline_alone_is_for_the_float_inputs_where_the_target_decides_on_the_sources(
    two: Path, tmp_path: Path
) -> None:
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.full((1, 3), 2, np.float32))
    np.save(tmp_path / "half.npy", np.full((1, 3), 0.5, np.float32))
    options = (
        two, "--input", f"a={tmp_path}/a.npy", "--input", f"b={tmp_path}/b.npy", "--target", "sum:1",
        "--method", "integrated-gradients",
    )  # fmt: skip

    def at_baseline(*given: str) -> Any:
        return explained(*options, *given)["target"]["baseline_value"]

    assert at_baseline() == [0]
    assert at_baseline("--baseline", "0.5") == at_baseline("--baseline", f"{tmp_path}/half.npy") == [1]
    assert at_baseline("--baseline", "0.5", "--baseline", "b=3") == [3.5]
    assert at_baseline("--baseline", "b=3", "--baseline", "0.5") == [3.5]
    for given, said in (
        (["missing.npy"], "no file 'missing.npy'"),
        (["0", "1"], "all sources have one already"),
        (["a=0", "a=1"], "'a' has one already"),
    ):
        result = run("explain", *options, *(part for text in given for part in ("--baseline", text)))
        assert result.exit_code == 2
        assert said in result.stderr


def test_a_baseline_alone_is_never_dropped_at_an_output_with_more_sources(tmp_path: Path) -> None:
    text = "few (float[N,3] a, float[N,3] b) => (float[N,3] one, float[N,3] both)"
    path = model(tmp_path, text + " { one = Exp(a) both = Add(a, b) }")
    np.save(tmp_path / "x.npy", np.full((1, 3), 2, np.float32))
    options = (path, "--input", f"a={tmp_path}/x.npy", "--input", f"b={tmp_path}/x.npy", "--baseline", "0.5")
    assert explained(*options, "--target", "both:1")["target"]["baseline_value"] == [1]
    assert explained(*options, "--target", "one:1")["target"]["baseline_value"] == [
        pytest.approx(np.exp(0.5))
    ]


def test_names_of_baselines_are_passed_on_as_they_are() -> None:
    image = TensorInfo("image", "float32", ("N", 3), 0)
    words = TensorInfo("words", "int64", ("N", 3), 0)
    given = ["/conv/Conv=0.5", "relu=1", "image=2"]
    found = read_baselines(given, ("/conv/Conv",), [image], Picture())
    assert found == {"/conv/Conv": 0.5, "relu": 1, "image": 2}
    assert read_baselines(["1"], (), [image, words], Picture()) == {"image": 1}
    with pytest.raises(InvalidArgument, match="--source"):
        read_baselines(["1"], (), [words], Picture())


@pytest.mark.parametrize("name", ["relu1", "/relu1/Relu"])
def test_sources_and_their_baselines_go_by_any_name(name: str, digits_path: Path, image: Path) -> None:
    options = (digits_path, "--input", image, "--source", name, "--layer", "conv2", "--baseline")
    alone, named = explained(*options, "0.25"), explained(*options, f"{name}=0.25")
    assert alone["target"] == named["target"]
    assert not any("baseline" in warning for warning in named["warnings"])


# --- failures


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "magic"], "no method 'magic'"),
        (["--quadrature", "magic"], "no quadrature 'magic'"),
        (["--steps", "0"], "steps"),
        (["--steps", "many"], "--steps"),
        (["--layer", "conv9"], "conv2"),
        (["--source", "nothing"], "nothing"),
        (["--target", "10"], "0 to 9"),
        (["--target", "nothing:1"], "nothing"),
        (["--target", "1,2,3"], "3 parts"),
        (["--minus", "conv2"], "--minus"),
        (["--target", "a:1", "--target", "b:1"], "different tensors"),
        (["--baseline", "missing.npy"], "missing.npy"),
        (["--baseline", "nothing=1"], "nothing"),
        (["--baseline", "nan"], "NaN"),
        (["--baseline", "0", "--baseline", "1"], "one already"),
        (["--rows", "a"], "rows 'a'"),
        (["--rows", "9:"], "2 rows"),
        (["--scale", "big"], "--scale"),
        (["--std", "x,y"], "--std"),
        (["--layout", "chwn"], "layout"),
        (["--shape", "image"], "--shape"),
        (["--batch-axis", "image=first"], "--batch-axis"),
        (["--provider", "tpu"], "provider"),
        (["--output", "/no/such/folder/out.npz"], "cannot be written"),
        (["--plot", "/no/such/folder/out.png"], "cannot be written"),
        (["--plot", "picture.txt"], ".png"),
        (["--input", "other={image}"], "'other'"),
        (["--input", "missing.npy"], "missing.npy"),
        (["--server", "127.0.0.1:1", "--shape", "image=1x2"], "--shape"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_unusable_arguments_are_status_2_and_named(
    arguments: list[str], said: str, digits_path: Path, image: Path
) -> None:
    given = ["--input", str(image), *(text.format(image=image) for text in arguments)]
    result = run("explain", digits_path, *given)
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert result.stdout == ""


@pytest.mark.parametrize(
    "array", [np.zeros((1, 3, 8, 8)), np.full((1, 1, 8, 8), np.nan), np.zeros((1, 1, 8, 8), int)]
)
def test_arrays_that_do_not_fit_are_status_2(array: NDArray[Any], digits_path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    result = run("explain", digits_path, "--input", tmp_path / "x.npy")
    assert result.exit_code == 2
    assert "'image'" in result.stderr


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.png", "x.json", "x.txt"])
def test_broken_files_are_status_2(name: str, digits_path: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"nothing of use")
    result = run("explain", digits_path, "--input", tmp_path / name)
    assert result.exit_code == 2
    assert name in result.stderr


def test_pickles_are_not_loaded(digits_path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert run("explain", digits_path, "--input", tmp_path / "x.npy").exit_code == 2


def test_missing_inputs_are_listed(two: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 3), np.float32))
    result = run("explain", two, "--input", f"a={tmp_path}/a.npy", "--target", "sum:0")
    assert result.exit_code == 2
    assert "'b'" in result.stderr
    unnamed = run("explain", two, "--input", tmp_path / "a.npy")
    assert unnamed.exit_code == 2
    assert "'a', 'b'" in unnamed.stderr


def test_a_file_that_is_no_model_is_status_2(tmp_path: Path, image: Path) -> None:
    for command in ("layers", "explain"):
        assert run(command, tmp_path / "missing.onnx").exit_code == 2
        result = run(command, image)
        assert result.exit_code == 2
        assert "not an ONNX model" in result.stderr


def test_a_model_without_derivative_is_status_3(sign: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    result = run("explain", sign, "--input", tmp_path / "x.npy", "--target", "0")
    assert result.exit_code == 3
    assert "Sign" in result.stderr


def test_a_bug_is_one_line_and_status_1(monkeypatch: pytest.MonkeyPatch, digits_path: Path) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(Engine, "info", broken)
    result = run("layers", digits_path)
    assert result.exit_code == 1
    assert (
        result.stderr
        == "onnx-attribution: unexpected RuntimeError: first; this is a bug of onnx-attribution\n"
    )


def test_what_libraries_print_stays_out_of_the_json(
    monkeypatch: pytest.MonkeyPatch, digits_path: Path, image: Path
) -> None:
    real = Engine.info

    def chatty(self: Engine, name: str) -> ModelInfo:
        print("[W] a library has something to say")
        return real(self, name)

    monkeypatch.setattr(Engine, "info", chatty)
    assert explained(digits_path, "--input", image, "--method", "gradient")["batch"] == "dynamic"


# --- a server


@pytest.fixture(scope="module")
def server(digits_path: Path) -> Iterator[str]:
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        with background(engine, Settings(port=0)) as (address, _):
            yield address


def test_a_server_answers_like_the_file(server: str, digits_path: Path, image: Path) -> None:
    options = (
        "--input",
        image,
        "--layer",
        "conv2",
        "--target",
        "3",
        "--baseline",
        "0.5",
        "--provider",
        "cpu",
    )
    near, far = explained(digits_path, *options), explained("digits", "--server", server, *options)
    for found in (near, far):
        del found["seconds"]
    assert near == far
    assert explained("other", "--server", server, "--model", "digits", *options)["method"] == "neuron_ig"
    listed = [
        json.loads(run("layers", *where, "--json").stdout)
        for where in ((digits_path,), ("digits", "--server", server))
    ]
    assert listed[0]["layers"] == listed[1]["layers"]


def test_a_server_occludes_like_the_file(server: str, digits_path: Path, image: Path) -> None:
    options = (
        "--input", image, "--method", "occlusion", "--window", "image=4x4", "--stride", "image=2x2",
        "--provider", "cpu",
    )  # fmt: skip
    near, far = explained(digits_path, *options), explained("digits", "--server", server, *options)
    assert near["layers"] == far["layers"]
    assert near["evaluations"] == far["evaluations"] > 4


def test_a_server_does_not_know_every_model(server: str, image: Path) -> None:
    result = run("explain", "other", "--server", server, "--input", image)
    assert result.exit_code == 2
    assert "'other'" in result.stderr


def test_no_server_is_status_1(image: Path) -> None:
    result = run("explain", "digits", "--server", "127.0.0.1:1", "--input", image)
    assert result.exit_code == 1
    assert "is it running" in result.stderr


def test_serve_tells_its_address_and_drains_at_ctrl_c(digits_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "onnx_attribution.client.cli",
        "serve",
        str(digits_path),
        "--port",
        "0",
        "--json",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["models"] == ["digits"]
        assert run("layers", "digits", "--server", told["address"]).exit_code == 0
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "draining" in errors
    assert "Traceback" not in errors


def test_serve_says_what_it_skips(tmp_path: Path) -> None:
    (tmp_path / "outside.onnx").write_bytes(b"")
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "my net.onnx").write_bytes(b"")
    (folder / "link.onnx").symlink_to(tmp_path / "outside.onnx")
    result = run("serve", folder)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert any("my net.onnx" in line and "is no name" in line for line in lines)
    assert any("link.onnx" in line and "out of the folder" in line for line in lines)
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["/no/such/folder"], "/no/such/folder"), (["--port", "70000", "{folder}"], "port"), (["{folder}"], "no models"),
     (["--host", "0.0.0.0", "{folder}"], "allow_insecure"), (["--provider", "tpu", "{folder}"], "provider")],
)  # fmt: skip
def test_serve_refuses_unusable_settings(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = run("serve", *(text.format(folder=tmp_path) for text in arguments))
    assert result.exit_code == 2
    assert said in result.stderr


# --- the command itself


def test_help_needs_neither_onnx_nor_onnxruntime() -> None:
    code = (
        "import sys; from onnx_attribution.client.cli.app import app\n"
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
