"""What is written without protobuf is what protobuf writes, and what is read without it is what protobuf reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from onnx_attribution import values
from onnx_attribution.client import messages
from onnx_attribution.errors import InvalidArgument, ServerBug
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import requests, tensors, wire
from tests.proto.test_tensors import ARRAYS

LARGE = np.arange(70_000, dtype=np.float32)  # its length takes three bytes


@pytest.mark.parametrize("array", [*ARRAYS, LARGE], ids=str)
def test_a_tensor_is_that_of_protobuf(array: Any) -> None:
    fields = wire.tensor(pb.PredictResponse.OUTPUTS_FIELD_NUMBER, "ü", array)
    assert pb.PredictResponse.FromString(wire.joined(pb.PredictResponse(), fields)) == pb.PredictResponse(
        outputs=[tensors.encode("ü", array)]
    )


def test_a_request_is_that_of_protobuf() -> None:
    request = values.AttributionRequest(
        "m", {"a": LARGE, "b": np.zeros((0, 2))}, target=3, baselines={"a": np.ones(2, np.float32)}
    )
    wanted = requests.to_request(request)
    wanted.last_only = True
    assert pb.AttributeRequest.FromString(requests.to_bytes(request, last_only=True)) == wanted


def test_every_input_that_cannot_travel_is_named() -> None:
    request = values.AttributionRequest("m", {"a": np.array([1j]), "b": LARGE, "c": np.array([2j])})
    with pytest.raises(InvalidArgument) as caught:
        requests.to_bytes(request)
    assert caught.value.violations.keys() == {"inputs.a", "inputs.c"}


@pytest.mark.parametrize("data", [b"", b"abc", bytes(1 << 17)])
def test_a_chunk_is_that_of_protobuf(data: bytes) -> None:
    found = wire.chunk(3, 0, 1 << 40, memoryview(data), True)
    assert pb.StreamAttributeResponse.FromString(found) == pb.StreamAttributeResponse(
        chunk=pb.Chunk(revision=3, layer=0, offset=1 << 40, data=data, last=True)
    )


def test_outputs_are_read_as_they_were() -> None:
    sent = {f"y{k}": array for k, array in enumerate([*ARRAYS, LARGE])}
    outputs = [tensors.encode(name, array) for name, array in sent.items()]
    found = requests.from_prediction(pb.PredictResponse(outputs=outputs).SerializeToString())
    assert found.keys() == sent.keys()
    for name, array in sent.items():
        wanted = tensors.decode(tensors.encode(name, array))
        assert found[name].dtype == wanted.dtype
        np.testing.assert_array_equal(found[name], wanted)


def test_a_message_that_is_cut_off_is_read_where_protobuf_reads_it() -> None:
    outputs = [tensors.encode("y", np.arange(40.0)), tensors.encode("z", np.ones((2, 3), np.int8))]
    whole = pb.PredictResponse(outputs=outputs).SerializeToString()
    for end in range(len(whole)):
        try:
            wanted: Any = requests.from_tensors(pb.PredictResponse.FromString(whole[:end]).outputs, "outputs")
        except (DecodeError, InvalidArgument):
            wanted = None
        if wanted is None:
            with pytest.raises(ServerBug, match="broken"):
                messages.from_prediction(whole[:end])
        else:
            assert messages.from_prediction(whole[:end]).keys() == wanted.keys()


@pytest.mark.parametrize(
    "data", [b"\x0b\x0c", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0a\x02\x0a\xff"]
)
def test_what_is_no_message_is_told_as_such(data: bytes) -> None:
    with pytest.raises(ServerBug, match="broken"):
        messages.from_prediction(data)
