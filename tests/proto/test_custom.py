"""Parameters of a method that is known by its name only, as a message holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import Custom, NeuronIG, Occlusion
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto.method_messages import from_method, to_method


def sent(name: str, given: Mapping[str, Any] | None) -> pb.AttributeRequest:
    message = pb.AttributeRequest()
    to_method(Custom(name, given), message)
    return message


NOT_HELD = {
    "an integer that a double changes": 2**53 + 1,
    "another below zero": -(2**53) - 1,
    "one of numpy": np.int64(2**60),
    "one in a list": [1, [2**60]],
    "one in an array": np.array([2**60]),
    "one of 400 digits": 10**400,
    "one of 5000 digits": 10**5000,
    "an object": object(),
    "a complex number": 1j,
    "a set": {1},
    "bytes": b"k",
    "NaN": float("nan"),
    "an infinite number": {"a": [np.float32("inf")]},
    "half a letter": "\ud800",
}


@pytest.mark.parametrize("case", NOT_HELD)
def test_what_a_message_would_change_or_lose_is_refused_with_its_parameter(case: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^scale holds "):
        sent("theirs", {"scale": NOT_HELD[case]})


def test_numbers_of_numpy_are_numbers_wherever_they_are() -> None:
    held = sent("theirs", {"a": [np.int64(3), np.float32(0.5)], "b": np.bool_(True), "c": (1, 2**53)}).custom
    assert dict(held.parameters) == {"a": [3.0, 0.5], "b": True, "c": [1.0, 2.0**53]}
    assert not sent("theirs", None).custom.parameters.fields


def test_a_method_of_this_project_may_be_sent_by_its_name() -> None:
    assert from_method(sent("neuron_ig", {"steps": 8})) == NeuronIG(steps=8)
    with pytest.raises(InvalidArgument, match="neuron_ig has no parameter 'stepz'"):
        from_method(sent("neuron_ig", {"stepz": 8}))


def test_arrays_of_integers_stay_arrays_of_integers() -> None:
    given: dict[str, Any] = {"groups": {"x": np.array([[0, 1], [2, 2]])}, "windows": {"z": (2, 2)}}
    found = from_method(sent("occlusion", given))
    assert found == Occlusion(**given)
    assert isinstance(found, Occlusion)
    assert found.groups["x"].dtype == np.int64


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_number_that_json_has_not_is_refused_by_its_field(number: str) -> None:
    message = pb.AttributeRequest(custom=pb.CustomMethod(name="neuron_ig"))
    message.custom.parameters.fields["tolerance"].list_value.values.add(number_value=float(number))
    with pytest.raises(InvalidArgument, match="tolerance holds NaN or an infinite number") as caught:
        from_method(message)
    assert list(caught.value.violations) == ["custom.parameters.tolerance"]
