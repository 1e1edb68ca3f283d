"""Arrays survive the wire, and nothing that lies about itself reaches numpy."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnx_attribution import values
from onnx_attribution.errors import InvalidArgument, Unsupported
from onnx_attribution.methods import DeepLiftRescale, NeuronIG, Occlusion
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import requests, tensors, words
from tests.method_names import NEAR_ZERO, QUADRATURES

ARRAYS: list[Any] = [
    *(np.arange(6, dtype=dtype).reshape(2, 3) for dtype in tensors.DATATYPES.values() if dtype.kind != "b"),
    np.array([True, False]),
    np.array([1.5, -2, np.inf], ml_dtypes.bfloat16),
    np.array([["a", "ü\0b"], ["", "d"]], dtype=object),
    np.float32(3.5).reshape(()),
    np.zeros((0, 3)),
    np.arange(6.0).reshape(2, 3).T,
    np.arange(4, dtype=">f4"),
    np.array([np.nan, -0.0, np.inf]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.shape}")
def test_array_comes_back_as_it_was(array: Any) -> None:
    message = pb.Tensor.FromString(tensors.encode("x", array).SerializeToString())
    back = tensors.decode(message)
    assert back.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, array)


def test_bfloat16_is_widened_where_numpy_does_not_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    message = tensors.encode("x", np.array([1.5, -2], ml_dtypes.bfloat16))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    back = tensors.decode(message)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, np.array([1.5, -2], np.float32))


BAD: list[tuple[str, list[int], bytes, str]] = [
    ("FP32", [2], b"1234567", "BYTES_MISMATCH"),
    ("FP32", [2], b"123456789", "BYTES_MISMATCH"),
    ("FP32", [], b"", "BYTES_MISMATCH"),
    ("FP32", [-1], b"", "SHAPE_MISMATCH"),
    ("FP32", [-1, -4], b"1234" * 4, "SHAPE_MISMATCH"),
    ("FP32", [0, 1 << 62], b"", "SHAPE_MISMATCH"),
    ("FP32", [1 << 32, 1 << 32], b"", "SHAPE_MISMATCH"),
    ("INT8", [1] * 33, b"1", "SHAPE_MISMATCH"),
    ("FP8", [1], b"1", "DTYPE_MISMATCH"),
    ("O", [1], b"12345678", "DTYPE_MISMATCH"),
    ("", [1], b"1", "DTYPE_MISMATCH"),
    ("BOOL", [2], b"\0\2", "BYTES_MISMATCH"),
    ("BYTES", [1], b"\5\0\0\0abc", "BYTES_MISMATCH"),
    ("BYTES", [1], b"\1\0", "BYTES_MISMATCH"),
    ("BYTES", [1], b"\1\0\0\0\xff", "BYTES_MISMATCH"),
    ("BYTES", [1], b"\1\0\0\0a\1\0\0\0b", "BYTES_MISMATCH"),
    ("BYTES", [3], b"\1\0\0\0a", "BYTES_MISMATCH"),
    ("BYTES", [1 << 40], b"", "SHAPE_MISMATCH"),
]


@pytest.mark.parametrize(("datatype", "shape", "raw", "reason"), BAD)
def test_tensor_that_lies_is_refused_with_its_name(
    datatype: str, shape: list[int], raw: bytes, reason: str
) -> None:
    with pytest.raises(InvalidArgument, match="tensor 'x'") as caught:
        tensors.decode(pb.Tensor(name="x", datatype=datatype, shape=shape, raw=raw))
    assert caught.value.reason == reason
    assert {"input", "expected", "got"} <= caught.value.metadata.keys()


def test_complex_numbers_cannot_travel() -> None:
    with pytest.raises(InvalidArgument, match="complex128") as caught:
        tensors.encode("x", np.array([1j]))
    assert caught.value.reason == "DTYPE_MISMATCH"


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20])
def test_chunks_rejoin_to_the_array(size: int) -> None:
    array = np.arange(size, dtype=np.uint8)
    chunks = list(tensors.split(tensors.to_bytes(array), 10))
    assert [last for *_, last in chunks] == [False] * (len(chunks) - 1) + [True]
    buffer = tensors.Buffer("x", "UINT8", [size])
    for offset, data, _ in chunks:
        buffer.add(offset, data)
    np.testing.assert_array_equal(buffer.array(), array)


def test_every_word_of_values_travels() -> None:
    for quadrature in QUADRATURES:
        sent = values.AttributionRequest("m", {}, NeuronIG(quadrature=quadrature))
        assert requests.from_request(requests.to_request(sent)).method == sent.method
    for near_zero in NEAR_ZERO:
        lifted = values.AttributionRequest("m", {}, DeepLiftRescale(near_zero=near_zero))
        assert requests.from_request(requests.to_request(lifted)).method == lifted.method
    for enum, table in ((pb.StopReason, words.STOP_REASONS), (pb.BatchMode, words.BATCH_MODES)):  # fmt: skip
        assert set(enum.values()) == {0, *table.words}


def test_groups_windows_and_text_baselines_come_back() -> None:
    request = values.AttributionRequest(
        "m", {"ids": np.array([[1, 2]]), "city": np.array(["Bern"], object)}, "occlusion",
        baselines={"city": "Rome", "other": np.array([["a", "b"]])},
        groups={"ids": np.array([0, 7])}, windows={"image": (1, 16, 16)}, strides={"image": (1, 8, 8)},
    )  # fmt: skip
    back = requests.from_request(requests.to_request(request))
    assert isinstance(back.method, Occlusion)
    assert isinstance(request.method, Occlusion)
    assert (back.method.windows, back.method.strides) == (request.method.windows, request.method.strides)
    np.testing.assert_array_equal(back.method.groups["ids"], [0, 7])
    assert np.asarray(back.baselines["city"]).item() == "Rome"
    np.testing.assert_array_equal(np.asarray(back.baselines["other"]), [["a", "b"]])


@pytest.mark.parametrize("per_sample", [False, True])
def test_references_come_back(per_sample: bool) -> None:
    given = values.References(np.arange(6.0).reshape(1, 2, 3), per_sample)
    request = values.AttributionRequest("m", {}, "deeplift_rescale", baselines={"x": given})
    back = requests.from_request(requests.to_request(request)).baselines["x"]
    assert isinstance(back, values.References)
    assert back.per_sample is per_sample
    np.testing.assert_array_equal(back.values, given.values)


@pytest.mark.parametrize("sizes", [(1.5, 2), "16", 16, (1 << 70,), (True,)])
def test_windows_that_are_no_integers_are_refused(sizes: Any) -> None:
    with pytest.raises(InvalidArgument, match="one integer for each") as caught:
        values.AttributionRequest("m", {}, "occlusion", windows={"x": sizes})
    assert list(caught.value.violations) == ["windows"]


SELECTORS: list[Any] = [
    None,
    3,
    -1,
    (1, 2),
    (),
    slice(1, None),
    (slice(None), slice(0, 9, 2), 4),
    [1, 2, 3],
    [(1, 2), None, slice(None, 3)],
]


@pytest.mark.parametrize("index", SELECTORS, ids=repr)
def test_target_comes_back_as_it_was(index: Any) -> None:
    target = values.Target("layer", index, minus=index)
    request = values.AttributionRequest("m", {"x": np.ones(2)}, target=target)
    assert requests.from_request(requests.to_request(request)).target == target


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ([[1], [2], [3]], [1, 2, 3]),
        ([[1, 2], (3, 4)], [(1, 2), (3, 4)]),
        (np.array([1, 2]), [1, 2]),
        (np.array([[1, 2], [3, 4]]), [(1, 2), (3, 4)]),
        (np.array(3), 3),
        (np.int64(3), 3),
        ([np.int64(1), 2], [1, 2]),
        ([None, 1], [None, 1]),
        ([None], [None]),
        ([5], 5),
    ],
    ids=repr,
)
def test_target_of_several_samples_has_several_forms(given: Any, same: Any) -> None:
    request = values.AttributionRequest("m", {}, target=values.Target(index=given, minus=given))
    (target,) = requests.from_request(requests.to_request(request)).each_target
    assert (target.index, target.minus) == (same, same)


MASK = np.array([[True, False], [False, True]])


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (MASK, MASK),
        ((MASK,), MASK),
        ((1, MASK), (1, MASK)),
        ((slice(1, None), MASK), (slice(1, None), MASK)),
        ([MASK, ~MASK], [MASK, ~MASK]),
        ([(0, MASK), 3], [(0, MASK), 3]),
        (np.array([[0.5, -1.0]]), np.array([[0.5, -1.0]])),
        (np.array([0.5], np.float32), np.array([0.5], np.float32)),
        ([np.ones(2), np.zeros(2)], [np.ones(2), np.zeros(2)]),
        ([[(1, 2), (0, 1)]], [[(1, 2), (0, 1)]]),
        ([[(1, 2)]], [[(1, 2)]]),
        ([[(1, 2), (0, MASK)], 4], [[(1, 2), (0, MASK)], 4]),
        (np.array([[[1, 2], [0, 1]]]), [[(1, 2), (0, 1)]]),
    ],
    ids=repr,
)
def test_masks_weights_and_regions_come_back_as_they_were(given: Any, same: Any) -> None:
    request = values.AttributionRequest("m", {}, target=values.Target(index=given, minus=given))
    (target,) = requests.from_request(requests.to_request(request)).each_target
    for found in (target.index, target.minus):
        assert shown(found) == shown(same)


def shown(index: Any) -> Any:
    """An index with its arrays as lists, and what they hold."""
    if isinstance(index, np.ndarray):
        return index.dtype.name, index.tolist()
    if isinstance(index, list | tuple):
        return type(index), [shown(one) for one in index]
    return index


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        (pb.Selector(axes=[pb.Axis(mask=tensors.encode("", np.ones(2, np.int64)))]), "a mask is of BOOL"),
        (pb.Selector(weights=tensors.encode("", np.ones(2, np.int64))), "weights of a target are floats"),
        (pb.Selector(weights=tensors.encode("", np.ones(2)), automatic=True), "not several of these"),
        (pb.Selector(elements=[pb.Selector(automatic=True)]), "have axes only"),
        (pb.Selector(axes=[pb.Axis(mask=pb.Tensor(datatype="BOOL", shape=[3], raw=b"1"))]), "bytes"),
    ],
    ids=str,
)
def test_a_selector_of_the_wire_that_has_no_meaning_is_refused(selector: pb.Selector, words: str) -> None:
    message = requests.to_request(values.AttributionRequest("m", {"x": np.ones(2)}))
    message.target.selectors.append(selector)
    with pytest.raises(InvalidArgument, match=words):
        requests.from_request(message)


@pytest.mark.parametrize(
    "index",
    [
        [],
        np.array([], np.int64),
        True,
        [True, False],
        (1, False),
        range(3),
        {1, 2},
        "seven",
        2.0,
        np.array(["a"]),
        np.array(True),
        np.zeros((1, 1, 1, 1), np.int64),
        [[[[1]]]],
        [[(1, 2), np.ones(2)]],
        (1, [2]),
        (1, np.array([2])),
        (1, np.array([0.5])),
        (None, 1),
        slice(None, None, 0),
        slice("a", None),
        slice(1.5, None),
        slice(True, None),
        1 << 70,
    ],
    ids=repr,
)
def test_target_without_a_meaning_is_refused(index: Any) -> None:
    for target in (values.Target(index=index), values.Target(minus=index)):
        with pytest.raises(InvalidArgument) as caught:
            requests.to_request(values.AttributionRequest("m", {}, target=target))
        assert caught.value.reason == "TARGET_INVALID"
        assert set(caught.value.violations) == {"target"}


def test_bare_names_are_lists_of_one() -> None:
    message = requests.to_request(values.AttributionRequest("m", {}, layers="conv2", source="relu1"))
    assert (list(message.layers), list(message.source)) == (["conv2"], ["relu1"])


def test_request_comes_back_as_it_was() -> None:
    request = values.AttributionRequest(
        "m",
        {},
        "deeplift_rescale",
        ("a",),
        ("b",),
        values.Target("t", 1),
        {"b": 0.5},
        request_id="id",
        multiply_by_inputs=False,
        near_zero="reference",
    )
    assert requests.from_request(requests.to_request(request)) == request


def test_absent_fields_take_the_defaults() -> None:
    message = pb.AttributeRequest(model="m", neuron_ig=pb.NeuronIG())
    assert requests.from_request(message) == values.AttributionRequest("m", {})


def test_every_violation_is_named() -> None:
    message = pb.AttributeRequest(
        inputs=[pb.Tensor(name="x", datatype="FP8"), pb.Tensor(name="y", datatype="FP32", shape=[2])],
        neuron_ig=pb.NeuronIG(steps=0, max_steps=-1, tolerance=float("nan")),
        request_id="a" * 65,
        target=pb.Target(selectors=[pb.Selector(axes=[pb.Axis()])]),
        baselines={"x": pb.Baseline()},
    )
    with pytest.raises(InvalidArgument) as caught:
        requests.from_request(message)
    assert set(caught.value.violations) == {
        "model", "inputs.x", "inputs.y", "neuron_ig.steps", "neuron_ig.max_steps", "neuron_ig.tolerance",
        "request_id", "target", "baselines.x",
    }  # fmt: skip


def test_a_request_without_a_method_is_told_which_there_are() -> None:
    with pytest.raises(InvalidArgument, match="a method is required, one of: gradient, ") as caught:
        requests.from_request(pb.AttributeRequest(model="m"))
    assert set(caught.value.violations) == {"method"}


def test_a_word_of_a_newer_protocol_is_unsupported() -> None:
    newer = pb.NeuronIG(quadrature=99)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="quadrature number 99"):
        requests.from_request(pb.AttributeRequest(model="m", neuron_ig=newer))


def test_empty_messages_are_named_by_their_field() -> None:
    message = pb.AttributeRequest(
        model="m",
        occlusion=pb.Occlusion(groups={"z": pb.Tensor()}),
        baselines={"x": pb.Baseline(references=pb.References()), "y": pb.Baseline(tensor=pb.Tensor())},
    )
    with pytest.raises(InvalidArgument) as caught:
        requests.from_request(message)
    found = caught.value.violations
    assert set(found) == {"baselines.x", "baselines.y", "occlusion.groups.z"}
    assert all(text.startswith(f"tensor '{field[-1]}': expected one of") for field, text in found.items())


def test_a_selector_is_automatic_or_has_axes() -> None:
    both = pb.Selector(axes=[pb.Axis(index=1)], automatic=True)
    message = pb.AttributeRequest(model="m", gradient=pb.Gradient(), target=pb.Target(selectors=[both]))
    with pytest.raises(
        InvalidArgument, match="automatic or has axes, weights or elements, not several of these"
    ):
        requests.from_request(message)
