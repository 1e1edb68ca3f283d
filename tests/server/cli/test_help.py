"""The texts of help say what their source says, and refusals of unusable values name the option."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnx_attribution.server.cli.app import SHORT
from onnx_attribution.server.cli.explain import MAX_SAMPLES
from onnx_attribution.server.engine.request import samples
from tests.server.cli.commands import run

COMMANDS = [command.__name__.replace("_", "-") for command in SHORT]


def words(text: str) -> str:
    """Returns the text in one line, which help breaks into several."""
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_keeps_square_brackets_and_gives_flags_no_value(command: str) -> None:
    shown = words(run(command, "--help").stdout)
    assert re.search(r"--json Print JSON|^(?!.*--json)", shown)
    assert not re.search(r"--[a-z-]+ <", shown)  # typer's word for the type of an option
    for wrong in (": , or", "over: ,", "( )", "[]"):
        assert wrong not in shown


def test_help_of_explain_says_the_forms_and_limits() -> None:
    shown = words(run("explain", "--help").stdout)
    for part in (
        "--references [NAME=]FILE Several baselines, averaged over: [references, ...], or [samples, references, ...].",
        "--logit What a final",
        "--rows 3|0:3",
        f"at most {MAX_SAMPLES}",
        "npz[:KEY]",
        "--background COLOUR",
    ):
        assert part in shown


def test_the_limit_that_help_says_is_that_of_the_engine() -> None:
    assert samples.MAX_SAMPLES == MAX_SAMPLES


def test_the_list_of_commands_is_whole() -> None:
    shown = run("--help").stdout
    assert "..." not in shown.split("Commands")[1].split("Exit status")[0]
    for command in COMMANDS:
        assert re.search(rf"^ +{command} ", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "-1"], "steps is -1; it must lie between 1 and"),
        (["--max-steps", "0"], "max_steps is 0; it must lie"),
        (["--tolerance", "nan"], "tolerance is nan; it must be above 0"),
        (["--tolerance", "-1"], "tolerance is -1.0; it must be above 0"),
        (["--scale", "nan"], "--scale"),
        (["--std", "0"], "--std"),
        (["--mean", "inf"], "--mean"),
        (["--background", "nothing"], "--background"),
        (["--shape", "other=1x1"], "no input 'other'"),
        (["--shape", "image=1x8x8"], "[N, 1, 8, 8]"),
        (["--shape", "image=0x1x8x8"], "nothing along its first axis"),
        (["--shape", "image=²"], "--shape"),
        (["--batch-axis", "image=²"], "--batch-axis"),
        (["--server", ""], "HOST:PORT"),
        (["--server", "localhost"], "HOST:PORT"),
        (["--input", "a" * 5000], "no file"),
        (["--input", "x\0.npy"], "no file"),
        (["--input", "image.npy[7]"], "no such row"),
        (["--rows", "²"], "rows '²'"),
        (["--parameter", "model=8"], "gradient has no parameter 'model'; there are: none"),
        (["--parameter", "baselines=8"], "gradient has no parameter 'baselines'"),
    ],
)
def test_values_that_cannot_be_meant_are_status_2_for_every_method(
    arguments: list[str], said: str, digits_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("image.npy", np.zeros((2, 1, 8, 8), np.float32))
    given = [] if "--input" in arguments else ["--input", "image.npy"]
    result = run("explain", digits_path, *given, *arguments, "--method", "gradient")
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.splitlines()) <= 4


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "objects.npy": lambda path: np.save(path, np.array([{}, 1], dtype=object), allow_pickle=True),
    "objects.npz": lambda path: np.savez(path, image=np.array([{}], dtype=object)),
    "empty.npz": lambda path: path.write_bytes(b""),
    "deep.json": lambda path: path.write_text("[" * 100_000 + "]" * 100_000),
    "ragged.json": lambda path: path.write_text("[[1, 2], [3]]"),
    "keys.json": lambda path: path.write_text('{"image": [1]}'),
    "mixed.json": lambda path: path.write_text('[1, "a", null]'),
    "large.json": lambda path: path.write_text("[99999999999999999999999999]"),
    "latin.json": lambda path: path.write_bytes(b"\xff\xfe["),
    "huge.npy": lambda path: path.write_bytes(
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 8), }".ljust(117)
        + b"\n"
    ),
    "code.npy": lambda path: path.write_bytes(
        b"\x93NUMPY\x01\x00v\x00" + b"__import__('os').getcwd()".ljust(117) + b"\n"
    ),
    "bomb.ppm": lambda path: path.write_bytes(b"P6 99999 99999 255\n123"),
    "depth.pgm": lambda path: path.write_bytes(b"P5 8 8 70000\n"),
    "noise.webp": lambda path: path.write_bytes(bytes(range(256))),
    "folder.npy": lambda path: path.mkdir(),
    "unknown": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_files_that_cannot_be_read_are_status_2_and_one_line(
    name: str, digits_path: Path, tmp_path: Path
) -> None:
    UNREADABLE[name](tmp_path / name)
    result = run("explain", digits_path, "--input", tmp_path / name)
    assert result.exit_code == 2
    assert name in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_file_is_read_by_its_content_whatever_its_name(digits_path: Path, tmp_path: Path) -> None:
    image = np.zeros((1, 1, 8, 8), np.float32)
    np.save(tmp_path / "x.npy", image)
    (tmp_path / "x.npy").rename(tmp_path / "one.npz")
    np.savez(tmp_path / "x.npz", image=image)
    (tmp_path / "x.npz").rename(tmp_path / "several.npy")
    for name in ("one.npz", "several.npy"):
        assert run("explain", digits_path, "--input", tmp_path / name, "--method", "gradient").exit_code == 0
