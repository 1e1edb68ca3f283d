"""Failures of the command line: a line that names the cause, an exit status, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import ModelInfo
from tests.server.cli.commands import explained, run

ROOT = Path(__file__).parents[2]
Data = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "magic"], "no method 'magic'"),
        (["--quadrature", "magic"], "quadrature is 'magic'; it may be: auto, trapezoid"),
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
