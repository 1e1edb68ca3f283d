"""The protocol as a public contract: every field is documented, and nothing that was released changes or goes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from onnx_attribution.proto import attribution_pb2 as pb

FOLDER = Path(__file__).parent
RELEASED = FOLDER / "released.binpb"
"""The descriptor of the last release: written by `python -m tests.proto.release` when one is made."""
PROTO = FOLDER.parents[1] / "proto" / "attribution.proto"
Signatures = dict[str, str]


def current() -> descriptor_pb2.FileDescriptorProto:
    found = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(found)
    return found


def signatures(file: descriptor_pb2.FileDescriptorProto) -> Signatures:
    """What clients rely on, by its place: of fields number, type and whether there are several; of calls their
    messages and streams."""
    found: Signatures = {}

    def messages(prefix: str, several: list[descriptor_pb2.DescriptorProto]) -> None:
        for message in several:
            place = f"{prefix}.{message.name}"
            found[place] = "message"
            for one in message.field:
                oneof = (
                    message.oneof_decl[one.oneof_index].name
                    if one.HasField("oneof_index") and not one.proto3_optional
                    else ""
                )
                kind = f"{one.type} {one.type_name} {one.label} {one.proto3_optional} {oneof}"
                found[f"{place}#{one.number}"] = f"{one.name}: {kind}"
            messages(place, list(message.nested_type))
            enums(place, list(message.enum_type))

    def enums(prefix: str, several: list[descriptor_pb2.EnumDescriptorProto]) -> None:
        for enum in several:
            for value in enum.value:
                found[f"{prefix}.{enum.name}#{value.number}"] = value.name

    messages(file.package, list(file.message_type))
    enums(file.package, list(file.enum_type))
    for service in file.service:
        for call in service.method:
            found[f"{file.package}.{service.name}/{call.name}"] = (
                f"{call.client_streaming} {call.input_type} {call.server_streaming} {call.output_type}"
            )
    return found


def breaks(released: Signatures, now: Signatures) -> list[str]:
    """What was released and is not so any more."""
    return [
        f"{place} was {said!r} and is {now.get(place)!r}"
        for place, said in released.items()
        if now.get(place) != said
    ]


def test_nothing_that_was_released_changes_or_goes() -> None:
    released = descriptor_pb2.FileDescriptorProto.FromString(RELEASED.read_bytes())
    assert not breaks(signatures(released), signatures(current()))


@pytest.mark.parametrize("change", ["number", "type", "gone", "moved into a oneof", "call", "enum"])
def test_a_breaking_change_is_found(change: str) -> None:
    other = current()
    tensor = next(one for one in other.message_type if one.name == "Tensor")
    match change:
        case "number":
            tensor.field[0].number = 99
        case "type":
            tensor.field[0].type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
        case "gone":
            del tensor.field[0]
        case "moved into a oneof":
            tensor.oneof_decl.add(name="kind")
            tensor.field[0].oneof_index = 0
        case "call":
            other.service[0].method[0].server_streaming = True
        case "enum":
            other.enum_type[0].value[1].name = "OTHER"
    assert breaks(signatures(current()), signatures(other))


def test_what_is_added_breaks_nothing() -> None:
    other = current()
    other.message_type[0].field.add(name="more", number=99, type=9, label=1)
    other.message_type.add(name="Fresh")
    other.service[0].method.add(name="More", input_type=".x", output_type=".y")
    assert not breaks(signatures(current()), signatures(other))


NAMES = (
    r"(?:message|enum|service) (\w+)",
    r"rpc (\w+)",
    r"(?:repeated |optional )?(?:map<.*>|[\w.]+) (\w+) = \d+",
    r"([A-Z_0-9]+) = \d+",
)


def undocumented(text: str) -> Iterator[str]:
    """Messages, calls, fields and words that no comment stands right above."""
    said = False
    for line in text.split("\npackage ")[1].splitlines():
        stripped = line.strip()
        match = next(filter(None, (re.match(name, stripped) for name in NAMES)), None)
        if match and not said and not stripped.startswith("import"):
            yield match[1]
        said = stripped.startswith("//")


@pytest.mark.parametrize("file", sorted(PROTO.parent.glob("*.proto")), ids=lambda file: file.stem)
def test_every_message_call_and_field_is_documented(file: Path) -> None:
    assert list(undocumented(file.read_text())) == []


def test_a_field_without_a_comment_is_found() -> None:
    text = PROTO.read_text().replace("  // In bytes, from the start of the layer's array.\n", "")
    assert list(undocumented(text)) == ["offset"]
