"""Reads a model: a path, bytes or a ModelProto, which is never changed."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.ir.nodes import inner_graphs
from onnx_attribution.graph_tools.ir.weights import Weights, is_apart, require_values, size_of
from onnx_attribution.graph_tools.read.limits import require_bounded

MAX_OPSET = 26  # what onnxruntime 1.31 runs; 1.32 and onnx 1.23 go to 28 and to IR version 14
MAX_IR = 13
MAX_LOCATION = 1024  # characters of the name of an external file
MAX_SHARED = 4  # times that tensors may take the bytes of an external file
SMALL = 16 << 20  # bytes that they may take anyway

ModelSource = str | PathLike[str] | bytes | onnx.ModelProto


def load(source: ModelSource, weights: Weights | None = None) -> onnx.ModelProto:
    """A copy of the model with its external data read in; large weights go to `weights`, where that is given. Weights
    that are not kept are not read, nor is external data.

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
        model = copied(source)
        require_bounded(model)
        _refuse_external(model)
    elif isinstance(source, bytes):
        model = _parse(source, weights)
        require_bounded(model)
        _refuse_external(model)
    else:
        path = Path(source)
        if not path.is_file():
            raise ModelError(f"no file {path.name!r}", reason=Reason.MODEL_INVALID, file=path.name)
        model = _parse(path, weights)
        require_bounded(model)
        _require_once(filter(None, (_External.of(tensor, path) for tensor in _tensors(model))))
        if weights is None or weights.kept:
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
    return [path, *(path.parent / each for each in dict.fromkeys(named) if is_inside(each))]


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


@dataclass(frozen=True)
class _External:
    """Where the values of a tensor lie."""

    tensor: str
    model: str
    file: Path
    shown: str
    offset: int
    length: int

    @classmethod
    def of(cls, tensor: TensorProto, path: Path) -> _External | None:
        """None for values that the model holds.

        Raises:
            ModelError: the file is missing, too short, or none that a model may read.
        """
        if tensor.data_location != TensorProto.EXTERNAL or is_apart(tensor):
            return None
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        shown = location if is_inside(location) else os.path.basename(location)
        refused = partial(_refused, tensor.name, path.name, shown[:MAX_LOCATION])
        try:
            needed = size_of(tensor.data_type, tensor.dims)
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or needed)
        except KeyError as error:
            raise refused("but it has no element type; export the model again") from error
        except ValueError as error:
            raise refused("but its offset or length is no number; export the model again") from error
        if not is_inside(location):
            raise refused(
                "which is not in the folder of the model; only files there and below are read: put it there"
            )
        if len(location) > MAX_LOCATION:
            raise refused(f"whose name is longer than {MAX_LOCATION} characters; give it a shorter one")
        file = path.parent / location
        try:
            require_plain(file, len(Path(location).parts), refused)
            size = file.stat().st_size
        except OSError as error:
            raise refused(f"which cannot be read: {error.strerror}") from error
        if offset < 0 or length != needed:
            raise refused(
                f"with {length} bytes from {offset} on, but its type and shape take {needed} bytes; export the model "
                "again"
            )
        if offset + length > size:
            raise refused(
                f"which has {size} bytes, but {offset + length} are needed; copy the whole file beside the model"
            )
        return cls(tensor.name, path.name, file, shown, offset, length)

    def read(self) -> NDArray[np.uint8]:
        """Raises: ModelError, if the file cannot be read or memory does not hold the values."""
        refused = partial(_refused, self.tensor, self.model, self.shown)
        try:
            return np.fromfile(self.file, np.uint8, self.length, offset=self.offset)
        except OSError as error:
            raise refused(f"which cannot be read: {error.strerror}") from error
        except MemoryError as error:
            raise refused(f"whose {self.length} bytes are more than the memory there is") from error


def _refused(tensor: str, model: str, shown: str, why: str) -> ModelError:
    return ModelError(
        f"the values of tensor {tensor!r} of {model!r} should be in the external file {shown!r}, {why}",
        reason=Reason.MODEL_INVALID, file=model, tensor=tensor, external=shown,
    )  # fmt: skip


def require_plain(file: Path, depth: int, refused: Callable[[str], ModelError]) -> None:
    """Refuses what is no file, or could lead to any file. `depth`: so many parts of the path lie below the model's."""
    if any(part.is_symlink() for part in (file, *file.parents[: depth - 1])):
        raise refused(
            "which is a symbolic link or behind one; a link could lead to any file, so none is followed: put a copy of "
            "the file in its place"
        )
    if not file.is_file():
        raise refused("which is missing; it belongs beside the model")
    if file.stat().st_nlink > 1:
        raise refused(
            "which is a hard link; it could be any file, so it is not read: put a copy in its place"
        )


def _require_once(found: Iterable[_External]) -> None:
    """Refuses a small file that many tensors take for theirs, so that it would be large in memory.

    Raises:
        ModelError: they take it `MAX_SHARED` times, and that is no small matter.
    """
    taken: Counter[Path] = Counter()
    for one in found:
        taken[one.file] += one.length
        if taken[one.file] > max(MAX_SHARED * one.file.stat().st_size, SMALL):
            why = f"which the tensors take more than {MAX_SHARED} times over; export the model again"
            raise _refused(one.tensor, one.model, one.shown, why)


def _read_external(tensor: TensorProto, path: Path, weights: Weights | None) -> None:
    """Reads external values in, in place; large ones go to `weights`, where that is given. Raises: as `_External`."""
    place = _External.of(tensor, path)
    if place is None:
        return
    values = place.read()
    if weights is not None and len(values) == place.length >= weights.large:
        weights.hold(tensor, values)
        return
    tensor.raw_data = values.tobytes()
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def is_inside(location: str) -> bool:
    """Whether a location is a relative path that does not climb."""
    parts = location.split("/")
    return bool(location) and not os.path.isabs(location) and ".." not in parts and "\0" not in location


def digest(source: ModelSource) -> str:
    """The SHA-256 of the file or bytes (as `sha256sum` prints it), or of the serialised ModelProto."""
    if isinstance(source, onnx.ModelProto):
        source = source.SerializeToString(deterministic=True)
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with open(source, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
