"""What the file beside a model changes on the command line: pictures, examples, and what is printed and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.app import background
from onnx_attribution.server.cli.files import read_file
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Preprocessing, TensorInfo
from tests.server.cli.commands import explained, model, run

PIXELS = "net (float[N,3,4,6] x) => (float[N,3,4,6] y) { y = Identity(x) }"
CARD = """
description = "Pixels [as they are]."
example = "example.npz"
[class_names]
y = ["red", "green", "blue"]
[preprocessing.x]
kind = "image"
scale = "1/255"
mean = [0.1, 0.2, 0.3]
std = [0.5, 0.25, 2]
size = [4, 6]
layout = "chw"
colours = "bgr"
"""
ONE = ("--method", "gradient", "--target", "1,2,3")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Returns a model with a card."""
    np.savez(tmp_path / "example.npz", x=np.arange(144, dtype=np.float32).reshape(2, 3, 4, 6))
    path = model(tmp_path, PIXELS)
    path.with_suffix(".toml").write_text(CARD)
    return path


def value(path: Path, *options: str | Path) -> float:
    """Returns the pixel of channel 1, row 2, column 3 as the model gets it."""
    found: float = explained(path, *ONE, *options)["target"]["value"][0]
    return found


def test_a_picture_becomes_what_the_card_says_and_explicit_options_win(
    file: Path, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    Image.fromarray(pixels).save(tmp_path / "p.png")
    picture, green = ("--input", tmp_path / "p.png"), float(pixels[2, 3, 1])
    for options, expected in (
        ((), (green / 255 - 0.2) / 0.25),
        (("--scale", "1"), (green - 0.2) / 0.25),
        (("--mean", "0"), green / 255 / 0.25),
        (("--std", "1"), green / 255 - 0.2),
        (("--mean", "0", "--std", "1,2,4"), green / 255 / 2),
    ):
        assert value(file, *picture, *options) == pytest.approx(expected, rel=1e-5)
    (first, last) = (explained(file, *picture, "--target", f"{k},0,0", *ONE[:2]) for k in (0, 2))
    red, _, blue = (float(one) / 255 for one in pixels[0, 0])
    assert first["target"]["value"] == pytest.approx([(blue - 0.1) / 0.5], rel=1e-5)
    assert last["target"]["value"] == pytest.approx([(red - 0.3) / 2], rel=1e-5)
    rgb = explained(file, *picture, "--colours", "rgb", "--target", "0,0,0", *ONE[:2])
    assert rgb["target"]["value"] == pytest.approx([(red - 0.1) / 0.5], rel=1e-5)


def test_a_picture_of_another_size_is_resized_to_that_of_the_card(file: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), (0, 51, 0)).save(tmp_path / "p.png")
    assert value(file, "--input", tmp_path / "p.png") == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("options", [("--baseline", "{}"), ("--references", "{}")])
def test_a_baseline_that_is_a_picture_is_made_like_the_input(
    file: Path, tmp_path: Path, options: tuple[str, str]
) -> None:
    Image.new("RGB", (6, 4), (0, 102, 0)).save(tmp_path / "p.png")
    given = [one.format(tmp_path / "p.png") for one in options]
    found = explained(file, "--method", "integrated_gradients", "--target", "1,2,3", *given)
    assert found["target"]["baseline_value"] == pytest.approx([(0.4 - 0.2) / 0.25] * 2, rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "way", "expected"),
    [
        ((None, 4, 6, 3), Preprocessing("image", layout="hwc", colours="bgr"), "bgr"),
        ((None, 3, 4, 6), Preprocessing("image", colours="gray"), "grey"),
        ((None, 4, 6), Preprocessing("image", colours="gray"), "grey"),
        ((None, 3, None, None), Preprocessing("image", (2, 3), layout="chw"), "size"),
        ((None, 3, 4, 6), Preprocessing("array"), "plain"),
    ],
)
def test_layout_colours_and_size_of_a_card(
    tmp_path: Path, pixels: NDArray[np.uint8], shape: tuple[Any, ...], way: Preprocessing, expected: str
) -> None:
    Image.fromarray(pixels).save(tmp_path / "p.png")
    info = TensorInfo("x", "float32", shape, 0)
    found = read_file(str(tmp_path / "p.png"), info, Picture(said={"x": way}))[0]
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)
    small = np.asarray(Image.fromarray(pixels).resize((3, 2), Image.Resampling.BILINEAR), np.float64)
    wanted = {
        "bgr": pixels[..., ::-1].astype(np.float64),
        "grey": np.stack([grey] * 3) if len(shape) == 4 else grey,
        "size": np.moveaxis(small, 2, 0),
        "plain": np.moveaxis(pixels, 2, 0) / 255,
    }
    np.testing.assert_allclose(found, wanted[expected], rtol=1e-6)


def test_colours_that_the_input_does_not_have_or_nobody_knows_are_refused(
    file: Path, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    Image.fromarray(pixels).save(tmp_path / "p.png")
    info = TensorInfo("x", "float32", (None, 1, 4, 6), 0)
    with pytest.raises(InvalidArgument, match="one channel"):
        read_file(str(tmp_path / "p.png"), info, Picture(colours="bgr"))
    result = run("explain", file, "--input", tmp_path / "p.png", "--colours", "cmyk")
    assert result.exit_code == 2
    assert "rgb, bgr, gray" in result.stderr


def test_without_inputs_the_example_is_explained_and_the_answer_says_so(file: Path) -> None:
    found = explained(file, *ONE)
    assert found["target"]["value"] == [24 + 12 + 3, 72 + 24 + 12 + 3]
    assert found["target"]["label"] == ["green", "green"]
    assert any("example beside the model" in one for one in found["warnings"])
    assert explained(file, *ONE, "--rows", "1")["target"]["value"] == [72 + 24 + 12 + 3]


def test_the_table_has_a_class_where_there_are_names(file: Path) -> None:
    shown = run("explain", file, *ONE).stdout
    assert "y[1,2,3]  green " in shown.replace("   ", "  ")
    file.with_suffix(".toml").write_text('example = "example.npz"')
    assert " class " not in run("explain", file, *ONE).stdout
    assert explained(file, *ONE)["target"]["label"] is None


def test_layers_says_what_the_model_is(file: Path) -> None:
    shown = run("layers", file).stdout
    assert shown.startswith("Pixels [as they are].\n")
    assert "image of 4 x 6, (pixel * 0.003922 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2], chw, bgr" in shown
    assert "3 classes: red, green, blue" in shown
    found = json.loads(run("layers", file, "--json").stdout)
    assert found["description"] == "Pixels [as they are]."
    assert found["class_names"] == {"y": ["red", "green", "blue"]}
    assert (found["preprocessing"]["x"]["size"], found["preprocessing"]["x"]["colours"]) == ([4, 6], "bgr")


def test_a_malformed_card_ends_a_command_with_its_reason(file: Path) -> None:
    file.with_suffix(".toml").write_text("exmaple = 1")
    for command in ("layers", "explain", "check"):
        result = run(command, file)
        assert result.exit_code != 0
        assert "text.toml: exmaple" in result.output.replace("\n", " ")
        assert "'example'" in result.output


def test_a_picture_of_the_answer_has_the_class_in_its_title(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file.with_suffix(".toml").write_text(CARD.replace("green", "$5 & <b>"))
    result = run("explain", file, *ONE, "--plot", tmp_path / "p.svg")
    assert result.exit_code == 0, result.output
    assert "$5 &amp; &lt;b&gt;" in (tmp_path / "p.svg").read_text()  # matplotlib's comment beside the glyphs


def test_a_server_says_the_same_and_keeps_its_example(
    file: Path, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    Image.fromarray(pixels).save(tmp_path / "p.png")
    given = (*ONE, "--input", tmp_path / "p.png")
    with Engine(provider="cpu") as engine:
        engine.add("net", file)
        with background(engine, Settings(port=0)) as (address, _):
            there = ("--server", address)
            assert explained("net", *given, *there)["target"] == explained(file, *given)["target"]
            parts = [json.loads(run("layers", *one, "--json").stdout) for one in ((file,), ("net", *there))]
            for key in ("description", "class_names", "preprocessing"):
                assert parts[0][key] == parts[1][key]
            result = run("explain", "net", *ONE, *there)
            assert result.exit_code != 0
            assert "input 'x' is missing" in result.stderr
