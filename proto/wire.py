"""Parts of messages in protobuf's encoding, for large arrays: protobuf copies them several times, into fresh memory.

The fields of a message may come in any order, and those of a repeated one apart. So a message is its small fields as
protobuf writes them, and then the large ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.message import Message

from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import tensors
from onnx_attribution.values import Array

__all__ = ["chunk", "enclosed", "joined", "parted", "serialised", "tensor"]

Part = bytes | memoryview


def serialised(message: Message | bytes) -> bytes:
    """The bytes of a message that may be written already."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def joined(message: Message, fields: Iterable[Part]) -> bytes:
    """A message with further fields."""
    return b"".join((message.SerializeToString(), *fields))


def enclosed(number: int, message: Message, data_number: int, data: Part) -> tuple[Part, Part]:
    """The field of this number: a message with a further field of bytes."""
    head = message.SerializeToString()
    if len(data):
        head += _tag(data_number) + _varint(len(data))
    return b"".join((_tag(number), _varint(len(head) + len(data)), head)), data


def tensor(number: int, name: str, array: Array) -> tuple[Part, Part]:
    """The field of this number: the tensor of an array. Raises: InvalidArgument for a type that cannot travel."""
    word, raw = tensors.datatype(array, name=name), tensors.buffer(array, name=name)
    head = pb.Tensor(name=name, datatype=word, shape=array.shape)
    return enclosed(number, head, pb.Tensor.RAW_FIELD_NUMBER, raw)


def chunk(revision: int, layer: int, offset: int, data: Part, last: bool) -> bytes:
    """The message of a stream that holds a part of a layer."""
    head = pb.Chunk(revision=revision, layer=layer, offset=offset, last=last)
    number = pb.StreamAttributeResponse.CHUNK_FIELD_NUMBER
    return b"".join(enclosed(number, head, pb.Chunk.DATA_FIELD_NUMBER, data))


def parted(data: bytes, number: int, data_number: int) -> list[tuple[bytes, memoryview]]:
    """What `enclosed` made of messages, in fields of this number; other fields are left out.

    Raises: ValueError, where it cannot be read.
    """
    found, view = list[tuple[bytes, memoryview]](), memoryview(data)
    for field, _, start, end in _fields(view):
        if field == number:
            inner, head, large = view[start:end], list[memoryview](), view[:0]
            for one, begin, at, until in _fields(inner):
                if one == data_number:
                    large = inner[at:until]
                else:
                    head.append(inner[begin:until])
            found.append((b"".join(head), large))
    return found


def _fields(view: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Number, begin, begin of the content and end of each field."""
    at = 0
    while at < len(view):
        begin = at
        key, at = _read(view, at)
        match key & 7:
            case 0:
                start, at = at, _read(view, at)[1]
            case 1:
                start, at = at, at + 8
            case 2:
                size, start = _read(view, at)
                at = start + size
            case 5:
                start, at = at, at + 4
            case kind:
                raise ValueError(f"wire type {kind}")
        if at > len(view):
            raise ValueError("the message is cut off")
        yield key >> 3, begin, start, at


def _read(view: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    found = 0
    for place in range(10):
        if at + place >= len(view):
            break
        byte = view[at + place]
        found |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return found, at + place + 1
    raise ValueError("a number is cut off or too long")


def _tag(number: int) -> bytes:
    """Of a field that states its length."""
    return _varint(number << 3 | 2)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))
