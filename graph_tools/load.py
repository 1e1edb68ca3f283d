"""Reads a model: a path, bytes or a ModelProto, which is never changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Protocol

import onnx
from google.protobuf.message import DecodeError

from onnx_attribution.errors import ModelError
from onnx_attribution.values import Array

MAX_OPSET = 26  # what onnxruntime 1.31 runs; onnx 1.23 itself goes to 28
MAX_IR = 13

ModelSource = str | PathLike[str] | bytes | onnx.ModelProto


class Runner(Protocol):
    """Runs a model: `(model, inputs, outputs) -> arrays by name`. The only way graph_tools meets a runtime."""

    def __call__(
        self, model: onnx.ModelProto, inputs: Mapping[str, Array], outputs: list[str]
    ) -> dict[str, Array]: ...


def load(source: ModelSource) -> onnx.ModelProto:
    """A copy of the model with its external data read in.

    Raises:
        ModelError: no such file, not an ONNX model, external data missing, or an opset or IR above the limits.
    """
    model = _read(source)
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError("the file holds no ONNX graph", reason="MODEL_INVALID")
    if model.ir_version > MAX_IR:
        raise ModelError(
            f"the model has IR version {model.ir_version}; up to {MAX_IR} can be run",
            reason="OPSET_UNSUPPORTED", ir_version=model.ir_version,
        )  # fmt: skip
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > MAX_OPSET:
            raise ModelError(
                f"the model has opset {entry.version}; up to {MAX_OPSET} can be run",
                reason="OPSET_UNSUPPORTED", opset=entry.version,
            )  # fmt: skip
    return model


def _read(source: ModelSource) -> onnx.ModelProto:
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return copy
    if isinstance(source, bytes):
        return _parse(source, "the given bytes")
    path = Path(source)
    if not path.is_file():
        raise ModelError(f"no file {path.name!r}", reason="MODEL_INVALID", file=path.name)
    model = _parse(path.read_bytes(), repr(path.name))
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"the external data of {path.name!r} cannot be read: a file beside it is missing or outside its folder",
            reason="MODEL_INVALID", file=path.name,
        ) from error  # fmt: skip
    return model


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{name} is not an ONNX model", reason="MODEL_INVALID") from error


def digest(source: ModelSource) -> str:
    """The SHA-256 of the file or bytes (as `sha256sum` prints it), or of the serialised ModelProto."""
    if isinstance(source, onnx.ModelProto):
        source = source.SerializeToString(deterministic=True)
    return hashlib.sha256(source if isinstance(source, bytes) else Path(source).read_bytes()).hexdigest()
