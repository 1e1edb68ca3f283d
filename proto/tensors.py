"""Arrays to bytes and back. The only place that knows the byte layout: little-endian, C order.

Everything is checked before numpy sees it: the datatype is on a list, the sizes are plain integers whose product cannot
overflow, and the number of bytes is exactly what they ask for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.values import Array

__all__ = [
    "CHUNK_BYTES",
    "DATATYPES",
    "Buffer",
    "buffer",
    "datatype",
    "decode",
    "encode",
    "split",
    "to_bytes",
]

CHUNK_BYTES = 1 << 20
MAX_BYTES = 1 << 31
MAX_RANK = 32

# The words of the Open Inference Protocol; bfloat16 and strings have no numpy type and are treated below.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
ITEM_BYTES = {word: dtype.itemsize for word, dtype in DATATYPES.items()} | {"BF16": 2}
_WORDS = {dtype.newbyteorder("="): word for word, dtype in DATATYPES.items()}


def datatype(array: Array, *, name: str = "") -> str:
    """The word for an array's element type. Raises: InvalidArgument for one that cannot travel."""
    if array.dtype.name == "bfloat16":
        return "BF16"
    if array.dtype.kind in "OSU":
        return "BYTES"
    word = _WORDS.get(array.dtype.newbyteorder("="))
    if word is None:
        _refuse(name, Reason.DTYPE_MISMATCH, f"one of {_known()}", array.dtype.name)
    return word


def to_bytes(array: Array, *, name: str = "") -> bytes:
    """The bytes of an array. Raises: InvalidArgument for an element type that cannot travel."""
    return bytes(buffer(array, name=name))


def buffer(array: Array, *, name: str = "") -> bytes | memoryview:
    """The bytes of an array, its own where it has them in order. Raises: as `to_bytes`."""
    word = datatype(array, name=name)
    if word == "BYTES":
        return b"".join(map(_prefixed, array.ravel().tolist()))
    plain = array.view(np.uint16) if word == "BF16" else array
    ordered = np.ascontiguousarray(plain.astype(DATATYPES.get(word, "<u2"), copy=False))
    return ordered.reshape(-1).view(np.uint8).data


def encode(name: str, array: Array) -> pb.Tensor:
    """The message of an array."""
    word = datatype(array, name=name)
    return pb.Tensor(name=name, datatype=word, shape=array.shape, raw=to_bytes(array))


def decode(tensor: pb.Tensor, *, name: str = "") -> Array:
    """The array of a message, read-only and without a copy where the type allows; `name` is for one without its own.

    Raises: InvalidArgument (DTYPE_MISMATCH, SHAPE_MISMATCH, BYTES_MISMATCH).
    """
    return _from_bytes(tensor.name or name, tensor.datatype, list(tensor.shape), tensor.raw)


def decode_parted(head: pb.Tensor, raw: memoryview) -> Array:
    """The array of a message whose bytes lie elsewhere, as `decode` does it."""
    return _from_bytes(head.name, head.datatype, list(head.shape), raw)


def split(raw: bytes, size: int = CHUNK_BYTES) -> Iterator[tuple[int, memoryview, bool]]:
    """Offset, bytes, and whether they are the last, for each chunk; one empty chunk where there are no bytes."""
    view = memoryview(raw)
    for offset in range(0, max(len(raw), 1), size):
        yield offset, view[offset : offset + size], offset + size >= len(raw)


class Buffer:
    """Collects the chunks of one array whose size is known from its header."""

    def __init__(self, name: str, datatype: str, shape: Sequence[int]) -> None:
        self._header = name, datatype, list(shape)
        self._raw = bytearray(_byte_count(name, datatype, self._header[2]))
        self._filled = 0

    def add(self, offset: int, data: bytes | memoryview) -> None:
        """Raises: InvalidArgument (BYTES_MISMATCH) for bytes that do not follow the ones before, or are too many."""
        if offset != self._filled or offset + len(data) > len(self._raw):
            _refuse(self._header[0], Reason.BYTES_MISMATCH, f"at most {len(self._raw)} bytes in order",
                    f"{len(data)} bytes at {offset} after {self._filled}")  # fmt: skip
        self._raw[offset : offset + len(data)] = data
        self._filled += len(data)

    def array(self) -> Array:
        """The complete array, writable. Raises: InvalidArgument (BYTES_MISMATCH) where chunks are missing."""
        if self._filled != len(self._raw):
            _refuse(self._header[0], Reason.BYTES_MISMATCH, f"{len(self._raw)} bytes", f"{self._filled}")
        return _from_bytes(*self._header, self._raw)


def _from_bytes(name: str, datatype: str, shape: list[int], raw: bytes | bytearray | memoryview) -> Array:
    if datatype == "BYTES":
        return _strings(name, shape, bytes(raw))
    expected = _byte_count(name, datatype, shape)
    if len(raw) != expected:
        _refuse(name, Reason.BYTES_MISMATCH, f"{expected} bytes for {datatype} {shape}", f"{len(raw)}")
    if datatype == "BF16":
        return _bfloat16(raw).reshape(shape)
    if datatype == "BOOL" and raw and max(raw) > 1:
        _refuse(name, Reason.BYTES_MISMATCH, "bytes 0 and 1 for BOOL", f"{max(raw)}")
    return np.frombuffer(raw, DATATYPES[datatype]).reshape(shape)


def _count(name: str, datatype: str, shape: Iterable[int], item_bytes: int) -> int:
    sizes = list(shape)
    if len(sizes) > MAX_RANK:
        _refuse(name, Reason.SHAPE_MISMATCH, f"at most {MAX_RANK} dimensions", f"{len(sizes)}")
    if any(size < 0 for size in sizes):
        _refuse(name, Reason.SHAPE_MISMATCH, "sizes of at least 0", f"{sizes}")
    # Zeros are left out of the product: numpy refuses [0, 2**62] too.
    if math.prod(size for size in sizes if size) * item_bytes > MAX_BYTES:
        _refuse(name, Reason.SHAPE_MISMATCH, f"at most {MAX_BYTES} bytes", f"{datatype} {sizes}")
    return math.prod(sizes)


def _byte_count(name: str, datatype: str, shape: Iterable[int]) -> int:
    if datatype not in ITEM_BYTES:
        _refuse(name, Reason.DTYPE_MISMATCH, f"one of {_known()}", repr(datatype[:32]))
    return _count(name, datatype, shape, ITEM_BYTES[datatype]) * ITEM_BYTES[datatype]


def _bfloat16(raw: bytes | bytearray | memoryview) -> Array:
    """bfloat16 where ml_dtypes is installed (it comes with onnx), else the same numbers as float32."""
    bits = np.frombuffer(raw, "<u2")
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(bfloat16)


def _strings(name: str, shape: list[int], raw: bytes) -> Array:
    # An element takes at least its four bytes of length, so the count is bounded by the bytes that came.
    count, at = _count(name, "BYTES", shape, 4), 0
    items: list[bytes] = []
    while at < len(raw) and len(items) < count:
        length = int.from_bytes(raw[at : at + 4], "little")
        if at + 4 + length > len(raw):
            _refuse(
                name, Reason.BYTES_MISMATCH, f"{length} bytes in element {len(items)}", f"{len(raw) - at - 4}"
            )
        items.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    if len(items) != count or at != len(raw):
        _refuse(
            name, Reason.BYTES_MISMATCH, f"{count} elements for {shape}", f"{len(items)} in {len(raw)} bytes"
        )
    array = np.empty(count, dtype=object)
    try:
        array[:] = [item.decode() for item in items]
    except UnicodeDecodeError:
        _refuse(name, Reason.BYTES_MISMATCH, "UTF-8 text", "other bytes")
    return array.reshape(shape)


def _prefixed(item: object) -> bytes:
    data = item if isinstance(item, bytes) else str(item).encode()
    return len(data).to_bytes(4, "little") + data


def _known() -> str:
    return ", ".join([*ITEM_BYTES, "BYTES"])


def _refuse(name: str, reason: Reason, expected: str, got: str) -> NoReturn:
    message = f"tensor {name!r}: expected {expected}, got {got}"
    raise InvalidArgument(message, reason=reason, input=name, expected=expected, got=got)
