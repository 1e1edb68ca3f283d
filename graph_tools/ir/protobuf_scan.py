"""Serialised models: where the values of initializers lie, without parsing them.

The encoding: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

Read = Callable[[int, int], bytes]
"""`(offset, length) -> bytes`, fewer at the end."""
VALUES = (7, 5, 9)  # ModelProto.graph, GraphProto.initializer, TensorProto.raw_data
PLACE = struct.Struct("<QQ")  # what stands for long values, behind a mark: where they lie, and how many bytes


def shortened(
    read: Read, start: int, stop: int, large: int, mark: bytes, path: Sequence[int] = VALUES
) -> Iterator[bytes]:
    """Pieces of the message at `start:stop`, with `mark` and a `PLACE` for each field at the end of `path` that takes
    `large` bytes or more.

    Raises:
        ValueError: this is no message.
    """
    for number, begin, first, end in _fields(read, start, stop):
        if number != path[0] or end - first < large:
            yield read(begin, end - begin)
            continue
        rest = path[1:]
        if rest:
            inner = b"".join(shortened(read, first, end, large, mark, rest))
        else:
            inner = mark + PLACE.pack(first, end - first)
        yield _varint(number << 3 | 2) + _varint(len(inner)) + inner


def _fields(read: Read, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: the number, and where the field, its content and the next field begin."""
    while at < stop:
        key, first = _number(read, at)
        wire = key & 7
        if wire == 2:
            length, first = _number(read, first)
            end = first + length
        elif wire == 0:
            end = _number(read, first)[1]
        elif wire in (1, 5):
            end = first + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if end > stop:
            raise ValueError("a field is longer than its message")
        yield key >> 3, at, first, end
        at = end


def _number(read: Read, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    for k, byte in enumerate(read(at, 10)):
        value |= (byte & 127) << 7 * k
        if byte < 128:
            return value, at + k + 1
    raise ValueError("a number has no end")


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
