"""What `expose` and `gradient` write replaces nothing of the model's own, and is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnx_attribution.graph_tools.programs import export
from tests.server.cli.commands import run
from tests.server.cli.test_expose import outputs

WEIGHT = np.random.default_rng(1).normal(size=(200, 200)).astype(np.float32) / 20
X = np.random.default_rng(2).normal(size=(2, 200)).astype(np.float32)
COMMANDS = pytest.mark.parametrize("command", ["expose", "gradient"])


def model(folder: Path, location: str = "") -> Path:
    """Returns a file of which `location` beside it holds the weights, or which holds them itself."""
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> net (float[N,200] x) => (float[N,200] y) '
        "{ h = MatMul(x, w) y = Sin(h) }"
    )
    proto.graph.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    file = folder / "model.onnx"
    onnx.save(proto, file, save_as_external_data=bool(location), location=location or None, size_threshold=0)
    return file


def written(command: str, file: Path, out: Path, *more: str) -> tuple[int, str]:
    ways = {"expose": ("--layer", "h"), "gradient": ("--target", "1")}
    result = run(command, file, "-o", out, *ways[command], *more)
    return result.exit_code, result.output


def computes(file: Path) -> None:
    np.testing.assert_allclose(
        outputs(file, x=X)["y"], np.sin(X.astype(np.float64) @ WEIGHT), rtol=1e-4, atol=1e-5
    )


@COMMANDS
@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    ("location", "out", "named"),
    [
        ("out.onnx.data", "out.onnx", "out.onnx.data"),
        ("weights.bin", "weights.bin", "weights.bin"),
        ("weights.bin", "link.onnx", "link.onnx"),
        ("weights.bin", "../here/weights.bin", "../here/weights.bin"),
    ],
)
def test_weights_of_the_model_are_never_replaced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    force: tuple[str, ...],
    apart: bool,
    location: str,
    out: str,
    named: str,
) -> None:
    if apart:  # as a model is written that takes more than a message holds
        monkeypatch.setattr(export, "MESSAGE", 1000)
    folder = tmp_path / "here"
    folder.mkdir()
    file = model(folder, location)
    (folder / "link.onnx").symlink_to(folder / "weights.bin")
    code, said = written(command, file, folder / out, *force)
    assert code == 2
    assert f"{named}' holds weights of the model; name another file" in " ".join(said.split())
    computes(file)


@COMMANDS
def test_a_file_of_weights_of_another_model_is_replaced_by_force_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(export, "MESSAGE", 1000)
    file, out, data = model(tmp_path), tmp_path / "out.onnx", tmp_path / "out.onnx.data"
    data.write_bytes(b"mine")
    code, said = written(command, file, out)
    assert code == 2
    assert "out.onnx.data' exists; --force replaces it" in said
    assert data.read_bytes() == b"mine"
    assert written(command, file, out, "--force")[0] == 0
    computes(out)
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "out.onnx", "out.onnx.data"]


@COMMANDS
@pytest.mark.parametrize("apart", [False, True])
def test_where_writing_fails_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, apart: bool
) -> None:
    file, out, data = model(tmp_path), tmp_path / "out.onnx", tmp_path / "out.onnx.data"
    if apart:
        monkeypatch.setattr(export, "MESSAGE", 1000)
    out.write_bytes(b"mine")
    data.write_bytes(b"mine too")

    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as opened:
            opened.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    code, said = written(command, file, out, "--force")
    assert code == 2
    assert "No space left on device" in said
    assert (out.read_bytes(), data.read_bytes()) == (b"mine", b"mine too")
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "out.onnx", "out.onnx.data"]


@COMMANDS
def test_a_link_is_replaced_and_not_followed(tmp_path: Path, command: str) -> None:
    file, out, other = model(tmp_path), tmp_path / "out.onnx", tmp_path / "other"
    other.write_bytes(b"mine")
    out.symlink_to(other)
    assert "exists" in written(command, file, out)[1]
    assert written(command, file, out, "--force")[0] == 0
    assert other.read_bytes() == b"mine"
    computes(out)
    out.unlink()
    out.symlink_to(tmp_path / "nowhere")
    assert "exists" in written(command, file, out)[1]


@COMMANDS
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, command: str) -> None:
    pipe = tmp_path / "out.onnx"
    os.mkfifo(pipe)
    code, said = written(command, model(tmp_path), pipe, "--force")
    assert code == 2
    assert "no regular file" in said
