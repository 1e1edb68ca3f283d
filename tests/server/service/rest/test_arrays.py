"""JSON holds every value of every type exactly, or it is refused by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.proto import tensors
from onnx_attribution.server.service.rest.arrays import from_json, shaped, to_json

INTEGERS = [word for word, dtype in tensors.DATATYPES.items() if dtype.kind in "iu"]
FLOATS = ["FP16", "FP32", "FP64"]


@pytest.mark.parametrize("word", INTEGERS)
def test_ends_of_integers_are_held_and_the_next_are_refused(word: str) -> None:
    bounds = np.iinfo(tensors.DATATYPES[word])
    ends = [[int(bounds.min)], [int(bounds.max)]]
    array = from_json("x", json.loads(json.dumps(ends)), word)
    assert (array.dtype, array.tolist()) == (tensors.DATATYPES[word], ends)
    assert to_json(array) == ends
    for beyond in (int(bounds.min) - 1, int(bounds.max) + 1):
        with pytest.raises(InvalidArgument, match="'x'"):
            from_json("x", [beyond], word)


@pytest.mark.parametrize("word", FLOATS)
def test_floats_come_back_with_what_json_has_no_word_for(word: str) -> None:
    array = np.array([[0.1, -0.0], [np.nan, np.inf], [-np.inf, 1e4]], tensors.DATATYPES[word])
    lists = to_json(array)
    assert lists[1:] == [["NaN", "Infinity"], ["-Infinity", float(array[2, 1])]]
    assert from_json("x", json.loads(json.dumps(lists, allow_nan=False)), word).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("value", "word", "text"),
    [
        ([1.5], "INT64", "expected integers"),
        ([True], "INT64", "expected integers"),
        ([2.0**60], "INT64", "expected integers"),
        (["1"], "INT64", "expected integers"),
        ([1], "BOOL", "expected true and false"),
        (["1"], "FP32", "expected numbers, got '1'"),
        ([1, "2"], "FP32", "expected numbers, got '2'"),
        ([None], "FP32", "expected numbers, got null"),
        ([{}], "FP32", "expected numbers, got an object"),
        ([1e39], "FP32", "too large for FP32"),
        ([1e5], "FP16", "too large for FP16"),
        ([10**400], "FP64", "too large"),
        ([[1], [1, 2]], "FP32", "different lengths"),
        ([1], "BYTES", "expected texts"),
        ([1], "BF16", "binary data"),
        ([1], "FLOAT", "no form in JSON"),
    ],
)
def test_what_a_type_cannot_hold_is_refused(value: Any, word: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text) as caught:
        from_json("x", value, word)
    assert caught.value.metadata["input"] == "x"


def test_whole_floats_are_integers() -> None:
    assert from_json("x", [1.0, -2.0], "INT8").tolist() == [1, -2]


@pytest.mark.parametrize("word", [*INTEGERS, *FLOATS, "BOOL", "BYTES"])
def test_no_values_are_of_every_type(word: str) -> None:
    assert from_json("x", [[], []], word).shape == (2, 0)


def test_values_are_flat_or_in_their_shape() -> None:
    array = np.arange(6)
    assert shaped("x", array, [2, 3]).shape == shaped("x", array.reshape(2, 3), [2, 3]).shape == (2, 3)
    for shape in ([3, 2], [7], [-1, 6]):
        with pytest.raises(InvalidArgument, match="expected values for"):
            shaped("x", array.reshape(2, 3), shape)


def test_bfloat16_is_written_as_the_numbers_it_holds() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert to_json(np.array([1.5, -2], ml_dtypes.bfloat16)) == [1.5, -2]
