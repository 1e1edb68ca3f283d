"""Reads a model: a path, bytes or a ModelProto, which is never changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.ir.nodes import inner_graphs
from onnx_attribution.graph_tools.ir.weights import Weights, is_apart, require_values, size_of

MAX_OPSET = 26  # what onnxruntime 1.31 runs; 1.32 and onnx 1.23 go to 28 and to IR version 14
MAX_IR = 13

ModelSource = str | PathLike[str] | bytes | onnx.ModelProto


def load(source: ModelSource, weights: Weights | None = None) -> onnx.ModelProto:
    """A copy of the model with its external data read in; large weights go to `weights`, where that is given.

    Raises:
        ModelError: no such file, not an ONNX model, external data missing, a tensor with more or fewer values than its
            shape takes, or an opset or IR above the limits.
    """
    model = _read(source, weights)
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError("the file holds no ONNX graph", reason=Reason.MODEL_INVALID)
    if model.ir_version > MAX_IR:
        raise ModelError(
            f"the model has IR version {model.ir_version}; up to {MAX_IR} can be run",
            reason=Reason.OPSET_UNSUPPORTED, ir_version=model.ir_version,
        )  # fmt: skip
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > MAX_OPSET:
            raise ModelError(
                f"the model has opset {entry.version}; up to {MAX_OPSET} can be run",
                reason=Reason.OPSET_UNSUPPORTED, opset=entry.version,
            )  # fmt: skip
    return model


def _read(source: ModelSource, weights: Weights | None) -> onnx.ModelProto:
    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
        _refuse_external(model)
    elif isinstance(source, bytes):
        model = _parse(source, weights)
        _refuse_external(model)
    else:
        path = Path(source)
        if not path.is_file():
            raise ModelError(f"no file {path.name!r}", reason=Reason.MODEL_INVALID, file=path.name)
        model = _parse(path, weights)
        for tensor in model.graph.initializer:
            _read_external(tensor, path, weights)
        for tensor in _tensors(model):
            _read_external(tensor, path, None)
    for tensor in _tensors(model):
        require_values(tensor)
    if weights is not None:
        weights.take(model.graph)
    return model


def _parse(source: Path | bytes, weights: Weights | None) -> onnx.ModelProto:
    try:
        if isinstance(source, bytes):
            if weights is None:
                return onnx.load_model_from_string(source)
            return weights.split(lambda at, size: source[at : at + size], len(source))
        if weights is None:
            return onnx.load_model_from_string(source.read_bytes())
        with source.open("rb") as opened:

            def read(at: int, size: int) -> bytes:
                opened.seek(at)
                return opened.read(size)

            return weights.split(read, source.stat().st_size)
    except (DecodeError, ValueError) as error:
        name = "the given bytes" if isinstance(source, bytes) else repr(source.name)
        raise ModelError(f"{name} is not an ONNX model", reason=Reason.MODEL_INVALID) from error


# --- external data


def files_of(path: Path) -> list[Path]:
    """The file of a model and those beside it that it has values in, whether or not they are there.

    Raises:
        ModelError: this is no ONNX model.
    """
    tensors = _tensors(_parse(path, Weights()))
    named = (e.value for t in tensors for e in t.external_data if e.key == "location")
    return [path, *(path.parent / each for each in dict.fromkeys(named) if _is_inside(each))]


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model, those of nodes, inner graphs and functions included."""
    yield from _tensors_in(model.graph)
    for function in model.functions:
        yield from tensors_of(function.node)


def _tensors_in(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from tensors_of(graph.node)


def tensors_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    """Every tensor among the attributes of nodes and inside their graphs."""
    for node in nodes:
        for attribute in node.attribute:
            yield from attribute.tensors
            for sparse in attribute.sparse_tensors:
                yield from (sparse.values, sparse.indices)
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for graph in inner_graphs(node):
            yield from _tensors_in(graph)


def _refuse_external(model: onnx.ModelProto) -> None:
    """Refuses external data of a model that no folder belongs to."""
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL and not is_apart(tensor):
            raise ModelError(
                f"the values of tensor {tensor.name!r} are in an external file; give the model as a path, with "
                "that file beside it",
                reason=Reason.MODEL_INVALID, tensor=tensor.name,
            )  # fmt: skip


def _read_external(tensor: TensorProto, path: Path, weights: Weights | None) -> None:
    """Reads external values in, in place; large ones go to `weights`, where that is given.

    Raises:
        ModelError: the file is missing, too short, or none that a model may read.
    """
    if tensor.data_location != TensorProto.EXTERNAL or is_apart(tensor):
        return
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")

    def refused(why: str) -> ModelError:
        shown = location if _is_inside(location) else os.path.basename(location)
        return ModelError(
            f"the values of tensor {tensor.name!r} of {path.name!r} should be in the external file {shown!r}, {why}",
            reason=Reason.MODEL_INVALID, file=path.name, tensor=tensor.name, external=shown,
        )  # fmt: skip

    try:
        needed = size_of(tensor.data_type, tensor.dims)
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or needed)
    except KeyError as error:
        raise refused("but it has no element type; export the model again") from error
    except ValueError as error:
        raise refused("but its offset or length is no number; export the model again") from error
    if not _is_inside(location):
        raise refused(
            "which is not in the folder of the model; only files there and below are read: put it there"
        )
    file = path.parent / location
    links = [f for f in (file, *file.parents[: len(Path(location).parts) - 1]) if f.is_symlink()]
    if links:
        raise refused(
            "which is a symbolic link or behind one; a link could lead to any file, so none is followed: put a copy of "
            "the file in its place"
        )
    if not file.is_file():
        raise refused("which is missing; it belongs beside the model")
    found = file.stat()
    if found.st_nlink > 1:
        raise refused(
            "which is a hard link; it could be any file, so it is not read: put a copy in its place"
        )
    if offset < 0 or length != needed:
        raise refused(
            f"with {length} bytes from {offset} on, but its type and shape take {needed} bytes; export the model again"
        )
    if offset + length > found.st_size:
        raise refused(
            f"which has {found.st_size} bytes, but {offset + length} are needed; copy the whole file beside the model"
        )
    values = np.fromfile(file, np.uint8, length, offset=offset)
    if weights is not None and len(values) == length >= weights.large:
        weights.hold(tensor, values)
        return
    tensor.raw_data = values.tobytes()
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _is_inside(location: str) -> bool:
    """Whether a location is a relative path that does not climb."""
    return bool(location) and not os.path.isabs(location) and ".." not in Path(location).parts


def digest(source: ModelSource) -> str:
    """The SHA-256 of the file or bytes (as `sha256sum` prints it), or of the serialised ModelProto."""
    if isinstance(source, onnx.ModelProto):
        source = source.SerializeToString(deterministic=True)
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with open(source, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
