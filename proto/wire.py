"""Parts of messages in protobuf's encoding, for large arrays: protobuf copies them several times, into fresh memory.

The fields of a message may come in any order, and those of a repeated one apart. So a message is its small fields as
protobuf writes them, and then the large ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import Message

from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import tensors
from onnx_attribution.values import Array

__all__ = ["chunk", "enclosed", "joined", "serialised", "tensor"]

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


def _tag(number: int) -> bytes:
    """Of a field that states its length."""
    return _varint(number << 3 | 2)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))
