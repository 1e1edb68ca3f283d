"""The Open Inference Protocol over gRPC, by bare messages; tests/interop asks by the clients that people have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from onnx.parser import parse_model

from onnx_attribution import __version__
from onnx_attribution.client.errors import from_rpc_error
from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.proto import open_inference_pb2 as oip
from onnx_attribution.proto import open_inference_pb2_grpc as rpc
from onnx_attribution.server import app
from onnx_attribution.server.engine.engine import Engine
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine, W, X
from tests.server.stubs import ask, serving

TYPES = {
    "BOOL": "bool", "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64", "UINT8": "uint8",
    "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "FP16": "float16", "FP32": "float", "FP64": "double",
}  # fmt: skip
NUMPY = {"float": "float32", "double": "float64"}
FIELDS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip


def stub_of(stubs: Any) -> Any:
    return rpc.GRPCInferenceServiceStub(stubs.channel)


@pytest.fixture(scope="module")
def stub() -> Iterator[Any]:
    engine = FakeEngine({"failed": ModelError("no")})
    with serving(engine, max_samples=4) as stubs:
        yield stub_of(stubs)


@pytest.fixture(scope="module")
def real() -> Iterator[Any]:
    """Models `t_TYPE` that return what they are given, `s` for text, `two` with two inputs and outputs."""
    with Engine(provider="cpu", threads=1) as engine:
        for word, name in {**TYPES, "BYTES": "string"}.items():
            text = f"g ({name}[N, 2] x) => ({name}[N, 2] y) {{ y = Identity(x) }}"
            engine.add(f"t_{word}", parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'))
        engine.add("two", parse_model(TWO))
        engine.add("two", parse_model(TWO.replace("Add", "Sub")), version=3)
        with serving(engine) as stubs:  # type: ignore[arg-type]
            yield stub_of(stubs)


TWO = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] a, float[N, 2] b) => (float[N, 2] c, float[N, 2] d)
         { c = Add(a, b) d = Mul(a, b) }"""


def tensor(
    name: str, array: Any, datatype: str = "FP32", **contents: Any
) -> oip.ModelInferRequest.InferInputTensor:
    held = oip.InferTensorContents(**contents) if contents else None
    return oip.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=array.shape, contents=held
    )


def infer(model: str = "linear", **fields: Any) -> oip.ModelInferRequest:
    default = {"inputs": [tensor("x", X)], "raw_input_contents": [X.tobytes()]}
    return oip.ModelInferRequest(model_name=model, **{**default, **fields})


def outputs_of(response: Any) -> dict[str, Any]:
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {one.name: np.frombuffer(raw, np.float32).reshape(one.shape) for one, raw in pairs}


def test_server_says_what_it_is(stub: Any) -> None:
    assert stub.ServerLive(oip.ServerLiveRequest()).live
    assert stub.ServerReady(oip.ServerReadyRequest()).ready
    metadata = stub.ServerMetadata(oip.ServerMetadataRequest())
    assert (metadata.name, metadata.version) == ("onnx-attribution", __version__)


def test_draining_server_is_live_and_not_ready() -> None:
    with app.background(FakeEngine(), Settings(port=0)) as (address, server):
        server.work.draining.set()
        with grpc.insecure_channel(address) as channel:
            stub: Any = rpc.GRPCInferenceServiceStub(channel)
            assert stub.ServerLive(oip.ServerLiveRequest()).live
            assert not stub.ServerReady(oip.ServerReadyRequest()).ready
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(infer())
            assert from_rpc_error(caught.value).reason == Reason.DRAINING


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("linear", "", True),
        ("linear", "1", True),
        ("linear", "2", False),
        ("failed", "", False),
        ("no", "", False),
    ],
)
def test_readiness_of_a_model(stub: Any, name: str, version: str, ready: bool) -> None:
    assert stub.ModelReady(oip.ModelReadyRequest(name=name, version=version)).ready is ready


def test_metadata_has_versions_types_and_shapes(real: Any) -> None:
    two = real.ModelMetadata(oip.ModelMetadataRequest(name="two"))
    assert (two.name, list(two.versions), two.platform) == ("two", ["1", "3"], "onnx_onnxv1")
    assert [(one.name, one.datatype, list(one.shape)) for one in two.inputs] == [
        ("a", "FP32", [-1, 2]),
        ("b", "FP32", [-1, 2]),
    ]
    assert [one.name for one in two.outputs] == ["c", "d"]
    for word in [*TYPES, "BYTES"]:
        found = real.ModelMetadata(oip.ModelMetadataRequest(name=f"t_{word}"))
        assert [one.datatype for one in (*found.inputs, *found.outputs)] == [word, word]


def test_raw_contents_are_answered_raw(stub: Any) -> None:
    response = stub.ModelInfer(infer(id="7", model_version="1"))
    assert (response.model_name, response.model_version, response.id) == ("linear", "1", "7")
    assert [(one.name, one.datatype) for one in response.outputs] == [("y", "FP32")]
    assert np.array_equal(outputs_of(response)["y"], X @ W)


@pytest.mark.parametrize("word", TYPES)
@pytest.mark.parametrize("typed", [False, True])
def test_every_type_comes_back_as_it_was_sent(real: Any, word: str, typed: bool) -> None:
    array = np.array([[0, 1], [1, 0], [1, 1]], NUMPY.get(TYPES[word], TYPES[word]))
    if not typed:
        request = infer(f"t_{word}", inputs=[tensor("x", array, word)], raw_input_contents=[array.tobytes()])
    elif word in FIELDS:
        given = tensor("x", array, word, **{FIELDS[word]: array.ravel().tolist()})
        request = infer(f"t_{word}", inputs=[given], raw_input_contents=[])
    else:
        return  # FP16 has no field
    response = real.ModelInfer(request)
    assert response.raw_output_contents[0] == array.tobytes()
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == (word, [3, 2])


def test_text_comes_back_as_it_was_sent(real: Any) -> None:
    words = [b"", b"a", "häß".encode(), b"dd"]
    raw = b"".join(len(word).to_bytes(4, "little") + word for word in words)
    empty = np.empty((2, 2))
    for given in (
        infer("t_BYTES", inputs=[tensor("x", empty, "BYTES")], raw_input_contents=[raw]),
        infer("t_BYTES", inputs=[tensor("x", empty, "BYTES", bytes_contents=words)], raw_input_contents=[]),
    ):
        response = real.ModelInfer(given)
        assert response.raw_output_contents[0] == raw
        assert response.outputs[0].datatype == "BYTES"


def test_outputs_come_as_they_are_asked_for_and_versions_differ(real: Any) -> None:
    a, b = np.array([[1, 2]], np.float32), np.array([[3, 5]], np.float32)
    both = {"inputs": [tensor("a", a), tensor("b", b)], "raw_input_contents": [a.tobytes(), b.tobytes()]}

    def outputs(*names: str, version: str = "") -> tuple[str, dict[str, Any]]:
        wanted = [Asked(name=name) for name in names]
        response = real.ModelInfer(infer("two", outputs=wanted, model_version=version, **both))
        return response.model_version, {name: array.tolist() for name, array in outputs_of(response).items()}

    assert outputs(version="1") == ("1", {"c": [[4, 7]], "d": [[3, 10]]})
    assert outputs() == ("3", {"c": [[-2, -3]], "d": [[3, 10]]})
    version, found = outputs("d", "c", version="1")
    assert (version, list(found)) == ("1", ["d", "c"])
    assert list(outputs("d")[1]) == ["d"]


def typed(**contents: Any) -> dict[str, Any]:
    return {"inputs": [tensor("x", X, **contents)], "raw_input_contents": []}


Asked = oip.ModelInferRequest.InferRequestedOutputTensor
YES = oip.InferParameter(string_param="region")
WRONG: dict[str, tuple[oip.ModelInferRequest, str, str]] = {
    "no name": (infer(""), "PARAMETER_INVALID", "model name"),
    "unknown model": (infer("no"), "MODEL_NOT_FOUND", "no model"),
    "both": (
        infer(inputs=[tensor("x", X, fp32_contents=X.ravel().tolist())]),
        "BYTES_MISMATCH", "contents beside raw_input_contents",
    ),
    "too few raw": (infer(inputs=[tensor("x", X)] * 2), "PARAMETER_INVALID", "1 entries for 2 inputs"),
    "twice": (infer(inputs=[tensor("x", X)] * 2, raw_input_contents=[X.tobytes()] * 2), "INPUT_DUPLICATE", "twice"),
    "short raw": (infer(raw_input_contents=[b"1234"]), "BYTES_MISMATCH", "expected 24 bytes"),
    "no values": (infer(raw_input_contents=[]), "BYTES_MISMATCH", "expected 6 values"),
    "few values": (infer(**typed(fp32_contents=[1, 2])), "BYTES_MISMATCH", "expected 6 values for .2, 3., got 2"),
    "wrong field": (infer(**typed(fp64_contents=[1] * 6)), "DTYPE_MISMATCH", "given in fp32_contents, not in fp64"),
    "two fields": (
        infer(**typed(fp32_contents=[1] * 6, int_contents=[1])), "DTYPE_MISMATCH", "not in int_contents"
    ),
    "half typed": (
        infer(inputs=[tensor("x", X, "FP16", fp32_contents=[1] * 6)], raw_input_contents=[]),
        "DTYPE_MISMATCH", "FP16 are given in raw_input_contents",
    ),
    "range": (
        infer(inputs=[tensor("x", X, "INT8", int_contents=[300] * 6)], raw_input_contents=[]),
        "DTYPE_MISMATCH", "out of the range of INT8",
    ),
    "word": (infer(inputs=[tensor("x", X, "FLOAT")]), "DTYPE_MISMATCH", "expected one of"),
    "shared memory": (
        infer(inputs=[oip.ModelInferRequest.InferInputTensor(name="x", parameters={"shared_memory_region": YES})]),
        "PARAMETER_INVALID", "no shared memory",
    ),
    "classification": (
        infer(outputs=[Asked(name="y", parameters={"classification": oip.InferParameter(int64_param=3)})]),
        "PARAMETER_INVALID", "classes are not ranked",
    ),
    "many samples": (
        infer(inputs=[tensor("x", np.empty((5, 3)))], raw_input_contents=[bytes(60)]), "REQUEST_TOO_LARGE", "at most 4"
    ),
    "large": (infer("big"), "RESULT_TOO_LARGE", "fewer samples or outputs"),
    "failed": (infer("failed"), "MODEL_LOAD_FAILED", "no"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_reason(stub: Any, case: str) -> None:
    request, reason, text = WRONG[case]
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    error = from_rpc_error(caught.value)
    assert error.reason == reason
    with pytest.raises(type(error), match=text):
        raise error


def test_message_that_is_none_is_an_invalid_argument() -> None:
    with serving() as stubs:
        call = stubs.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff")
    assert from_rpc_error(caught.value).code == "INVALID_ARGUMENT"


def test_calls_count_as_admitted() -> None:
    engine = FakeEngine()
    with serving(engine, max_unary=1) as stubs:
        slow = stubs.attributions.Attribute.future(ask("slow"), timeout=5)
        assert engine.computing.wait(5)
        with pytest.raises(grpc.RpcError) as caught:
            stub_of(stubs).ModelInfer(infer())
        slow.cancel()
    assert from_rpc_error(caught.value).reason == Reason.QUEUE_FULL
