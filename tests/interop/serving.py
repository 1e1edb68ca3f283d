"""A server in a process and an environment of its own, which its clients know by address only."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

DESCRIBE = (
    "import sys; from onnx_attribution.proto import open_inference_pb2 as oip; "
    "sys.stdout.buffer.write(oip.DESCRIPTOR.serialized_pb)"
)


@dataclass(frozen=True)
class Addresses:
    grpc: str
    http: str


@contextmanager
def serving(folder: Path) -> Iterator[Addresses]:
    """The server of the environment that is first on the path, with the models of tests.interop.models."""
    command = shutil.which("onnx-attribution")
    if command is None:
        pytest.skip("onnx-attribution is not on the path: `make interop` sees to it")
    subprocess.run([_python(), "-m", "tests.interop.models", str(folder)], check=True, timeout=60)
    options = ["--port", "0", "--provider", "cpu", "--kserve", "--json", "--log-level", "error"]
    with subprocess.Popen([command, "serve", str(folder), *options], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            yield Addresses(told["address"], told["http"])
        finally:
            process.terminate()
            assert process.wait(20) == 0


def differences(other: Any) -> list[str]:
    """What another file of the protocol, by its descriptor, has otherwise in a message that both have."""
    described = subprocess.run(
        [_python(), "-c", DESCRIBE], check=True, capture_output=True, timeout=60
    ).stdout
    ours, theirs = _fields(descriptor_pb2.FileDescriptorProto.FromString(described)), _fields(_copy(other))
    messages = {place.partition("#")[0] for place in ours}
    shared = [place for place in theirs if place.partition("#")[0] in messages]
    assert len(shared) > 60
    return [f"{at}: {ours.get(at)} is {theirs[at]} there" for at in shared if theirs[at] != ours.get(at)]


def _copy(descriptor: Any) -> descriptor_pb2.FileDescriptorProto:
    found = descriptor_pb2.FileDescriptorProto()
    descriptor.CopyToProto(found)
    return found


def _fields(file: descriptor_pb2.FileDescriptorProto) -> dict[str, tuple[Any, ...]]:
    """Name, type and label of each field, by the message and the number."""
    found: dict[str, tuple[Any, ...]] = {}

    def messages(prefix: str, several: Any) -> None:
        for message in several:
            place = f"{prefix}.{message.name}"
            for one in message.field:
                found[f"{place}#{one.number}"] = (one.name, one.type, one.label, one.type_name)
            messages(place, message.nested_type)

    messages(file.package, file.message_type)
    return found


def _python() -> str:
    return shutil.which("python") or "python"
