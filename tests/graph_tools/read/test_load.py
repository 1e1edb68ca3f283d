"""Reading a model: what is accepted, what is refused and in which words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_attribution.errors import ModelError
from onnx_attribution.graph_tools.ir.weights import Weights
from onnx_attribution.graph_tools.read.load import digest, load

TEXT = '<ir_version: 8, opset_import: ["" : 17]> tiny (float[N,2] x) => (float[N,2] y) { y = Relu(x) }'


def test_a_model_proto_is_copied() -> None:
    given = onnx.parser.parse_model(TEXT)
    loaded = load(given)
    loaded.graph.node[0].op_type = "Tanh"
    assert given.graph.node[0].op_type == "Relu"


def test_path_bytes_and_proto_give_the_same_model(tmp_path: Path) -> None:
    given = onnx.parser.parse_model(TEXT)
    path = tmp_path / "tiny.onnx"
    path.write_bytes(given.SerializeToString())
    assert load(path) == load(path.read_bytes()) == load(given)


def test_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(onnx.parser.parse_model(TEXT).SerializeToString())
    assert digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("content", [b"", b"no model at all, only text", b"\x08\x08\x12\xff\xff"])
def test_a_file_that_is_no_model_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as refusal:
        load(path)
    assert refusal.value.reason == "MODEL_INVALID"
    assert str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize("name", ["missing.onnx", "."])
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="no file"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "words"), [("opset", "opset 27; up to 26"), ("ir", "IR version 14; up to 13")]
)
def test_versions_that_cannot_run_are_refused_with_the_limit(change: str, words: str) -> None:
    model = onnx.parser.parse_model(TEXT)
    if change == "opset":
        model.opset_import[0].version = 27
    else:
        model.ir_version = 14
    with pytest.raises(ModelError, match=words) as refusal:
        load(model)
    assert refusal.value.reason == "OPSET_UNSUPPORTED"


def _with_external_data(folder: Path) -> tuple[Path, onnx.ModelProto]:
    """A file that multiplies by forty numbers, which are in `net.data` beside it, and its model without them."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[N,40] x) => (float[N,40] y) { y = Mul(x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.arange(40, dtype=np.float32), "w"))
    path = folder / "net.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="net.data", size_threshold=0)
    return path, onnx.load(str(path), load_external_data=False)


def test_external_data_beside_the_file_is_read(tmp_path: Path) -> None:
    path, _ = _with_external_data(tmp_path)
    weights = numpy_helper.to_array(load(path).graph.initializer[0])
    np.testing.assert_array_equal(weights, np.arange(40, dtype=np.float32))


def _missing(folder: Path) -> None:
    (folder / "net.data").unlink()


def _short(folder: Path) -> None:
    (folder / "net.data").write_bytes(bytes(100))


def _linked(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "net.data").rename(folder / "elsewhere" / "net.data")
    (folder / "net.data").symlink_to(folder / "elsewhere" / "net.data")


def _hard_linked(folder: Path) -> None:
    (folder / "other.data").hardlink_to(folder / "net.data")


@pytest.mark.parametrize("large", [None, 64])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing, "missing; it belongs beside the model"),
        (_short, "has 100 bytes, but 160 are needed"),
        (_linked, "symbolic link"),
        (_hard_linked, "hard link"),
    ],
)
def test_spoilt_external_data_is_refused_with_tensor_file_and_reason(
    tmp_path: Path, spoil: Callable[[Path], None], words: str, large: int | None
) -> None:
    path, _ = _with_external_data(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ModelError, match=words) as refusal:
        load(path, None if large is None else Weights(large))
    assert "'w' of 'net.onnx'" in str(refusal.value)
    assert "'net.data'" in str(refusal.value)
    assert str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("location", "../net.data", "only files there and below"),
        ("location", "/etc/passwd", "'passwd', which is not in the folder of the model"),
        ("location", "", "only files there and below"),
        ("length", "80", "80 bytes from 0 on, but its type and shape take 160"),
        ("offset", "-4", "160 bytes from -4 on"),
        ("offset", "half", "no number"),
    ],
)
def test_a_wrong_entry_of_external_data_is_refused(tmp_path: Path, key: str, value: str, words: str) -> None:
    (tmp_path / "inner").mkdir()
    path, model = _with_external_data(tmp_path / "inner")
    (tmp_path / "net.data").write_bytes(bytes(160))
    entries = {e.key: e for e in model.graph.initializer[0].external_data}
    entries[key].value = value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=words) as refusal:
        load(path)
    assert str(tmp_path) not in str(refusal.value)


def test_external_data_of_a_model_without_a_folder_is_refused(tmp_path: Path) -> None:
    path, model = _with_external_data(tmp_path)
    for source in (path.read_bytes(), model):
        with pytest.raises(ModelError, match=r"tensor 'w' are in an external file; give the model as a path"):
            load(source)


def test_external_data_of_no_type_is_refused(tmp_path: Path) -> None:
    path, model = _with_external_data(tmp_path)
    model.graph.initializer[0].data_type = onnx.TensorProto.UNDEFINED
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"'w' of 'net\.onnx'.*no element type"):
        load(path)


@pytest.mark.parametrize("large", [None, 64])
def test_external_data_of_a_negative_size_is_refused(tmp_path: Path, large: int | None) -> None:
    path, model = _with_external_data(tmp_path)
    model.graph.initializer[0].dims[:] = [-8, -5]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"'w' has the shape \[-8, -5\], with a negative size"):
        load(path, None if large is None else Weights(large))


def test_the_length_of_external_data_may_be_left_out(tmp_path: Path) -> None:
    path, model = _with_external_data(tmp_path)
    del model.graph.initializer[0].external_data[1:]
    path.write_bytes(model.SerializeToString())
    assert numpy_helper.to_array(load(path).graph.initializer[0])[-1] == 39
