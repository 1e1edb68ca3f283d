"""Reading a model: what is accepted, what is refused and in which words."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_attribution.errors import ModelError
from onnx_attribution.graph_tools.load import digest, load

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


def test_external_data_beside_the_file_is_read_and_missing_data_is_refused(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[N,40] x) => (float[N,40] y) { y = Mul(x, w) }'
    )
    weights = np.arange(40, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    path = tmp_path / "net.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="net.data", size_threshold=0)
    np.testing.assert_array_equal(numpy_helper.to_array(load(path).graph.initializer[0]), weights)
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelError, match=r"external data of 'net\.onnx'"):
        load(path)
