"""Occlusion on the command line: values written out, groups and windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import parser

from tests.server.cli.commands import explained, run

ROOT = Path(__file__).parents[2]
Data = tuple[NDArray[np.float32], NDArray[np.int64]]


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
