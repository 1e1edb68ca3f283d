"""What can go wrong with a call, each with its status, its reason and the details that clients act on: one table.

The reasons' classes and the texts have tests of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from google.rpc import error_details_pb2, status_pb2
from onnx.parser import parse_model

from onnx_attribution import errors
from onnx_attribution.errors import Reason
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import tensors
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.service.repository import Repository
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import X
from tests.server.service.states import changing, draining, failing, guarded, held, opening
from tests.server.stubs import INPUT, Stubs, ask, serving

NETS = {
    "linear": "h = MatMul(x, w) y = Relu(h)",
    "stairs": "h = Floor(x) y = MatMul(h, w)",
    "places": "h = MatMul(x, w) y = ArgMax<axis = 1, keepdims = 1>(h)",
    "root": "h = Sqrt(x) y = MatMul(h, w)",
    "failing": "far = Constant<value = int64[1] {99}>() y = Gather<axis = 1>(x, far)",
}
LAST = {"places": "int64[N,1]", "failing": "float[N,1]"}
SAMPLES = {"failing": "1"}


def net(name: str) -> onnx.ModelProto:
    samples = SAMPLES.get(name, "N")
    return parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[{samples},3] x) => ({LAST.get(name, "float[N,2]")} y)
        <float[3,2] w = {{1, -2, 3, 0.5, 0, 4}}> {{ {NETS[name]} }}"""
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the server that most situations are about."""
    found = tmp_path_factory.mktemp("models")
    for name in NETS:
        onnx.save(net(name), found / f"{name}.onnx")
    (found / "broken.onnx").write_bytes(b"no model")
    later = net("linear")
    later.opset_import[0].version = 99
    onnx.save(later, found / "later.onnx")
    onnx.save(net("linear"), found / "carded.onnx")
    (found / "carded.toml").write_text("nonsense = 1")
    return found


@pytest.fixture(scope="module")
def models(folder: Path) -> Iterator[Stubs]:
    with Engine(provider="cpu", threads=1) as engine:
        repository = Repository(engine, [folder])
        repository.start(lambda file, why: None)
        settings = Settings(port=0, models=(folder,), uploads=True, max_samples=4, max_upload_mib=1)
        with app.background(engine, settings, repository) as (address, _):
            stubs = Stubs(address)
            with stubs.channel:
                yield stubs


@dataclass(frozen=True)
class Situation:
    """What is asked of which server (None: that of `models`), and how it ends; "" is a status that is not ours."""

    name: str
    ask: Callable[[Stubs], object]
    code: grpc.StatusCode
    reason: str
    details: tuple[str, ...] = ()
    server: Callable[[], AbstractContextManager[Stubs]] | None = None


def attribute(model: str = "linear", **fields: Any) -> Callable[[Stubs], object]:
    return lambda stubs: stubs.attributions.Attribute(ask(model, **fields), timeout=20)


def stream(model: str = "linear", seconds: float | None = 20, **fields: Any) -> Callable[[Stubs], object]:
    return lambda stubs: list(stubs.attributions.StreamAttribute(ask(model, **fields), timeout=seconds))


def predict(model: str, *inputs: pb.Tensor) -> Callable[[Stubs], object]:
    return lambda stubs: stubs.attributions.Predict(
        pb.PredictRequest(model=model, inputs=inputs or [INPUT]), timeout=20
    )


def of_model(call: str, **fields: Any) -> Callable[[Stubs], object]:
    request = getattr(pb, f"{call}Request")
    return lambda stubs: getattr(stubs.models, call)(request(**fields), timeout=20)


def raw(call: str, data: bytes) -> Callable[[Stubs], object]:
    return lambda stubs: stubs.channel.unary_unary(f"/onnx_attribution.v1.{call}")(data, timeout=20)


def newer(message: Any, field: int = 0) -> Callable[[Stubs], object]:
    """An attribution with an empty message in a field that is not known yet; `field` is where it belongs."""
    data = message.SerializeToString() + b"\xba\x3e\x00"  # field 999
    if field:
        outer = pb.AttributeRequest(model="linear", inputs=[INPUT]).SerializeToString()
        data = outer + bytes([field << 3 & 127 | 130, field >> 4, len(data)]) + data
    return raw("AttributionService/Attribute", data)


def audit(*sent: str) -> Callable[[Stubs], object]:
    messages = [
        opening() if one == "open" else pb.AuditRequest(item=pb.AuditItem(sequence=int(one), inputs=[INPUT]))
        for one in sent
    ]
    return lambda stubs: list(stubs.attributions.Audit(iter(messages), timeout=20))


def upload(data: bytes, **begin: Any) -> Callable[[Stubs], object]:
    fields = {"name": "new", "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **begin}
    parts = [
        pb.UploadModelRequest(begin=pb.UploadModelRequest.Begin(**fields)),
        pb.UploadModelRequest(data=data),
    ]
    return lambda stubs: stubs.models.UploadModel(iter(parts), timeout=20)


def tensor(array: Any, name: str = "x") -> pb.Tensor:
    return tensors.encode(name, np.asarray(array))


def bare(**fields: Any) -> pb.Tensor:
    return pb.Tensor(**{"name": "x", "datatype": "FP32", "shape": [2, 3], "raw": bytes(24), **fields})


def target(*index: int, **fields: Any) -> pb.Target:
    selectors = [pb.Selector(axes=[pb.Axis(index=one)]) for one in index]
    return pb.Target(selectors=selectors, **fields)


def external() -> bytes:
    model = net("linear")
    weight = model.graph.initializer[0]
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/hostname")
    return model.SerializeToString()


def later() -> bytes:
    model = net("linear")
    model.opset_import[0].version = 99
    return model.SerializeToString()


def given_up(stubs: Stubs) -> None:
    call = stubs.attributions.StreamAttribute(ask("slow"), timeout=20)
    next(call)
    call.cancel()
    list(call)


S = grpc.StatusCode
RETRY, QUOTA = ("RetryInfo",), ("RetryInfo", "QuotaFailure")
FIELDS, RESOURCE, CONDITION = ("BadRequest",), ("ResourceInfo",), ("PreconditionFailure",)
NAN = np.array([[1, np.nan, 3]], np.float32)
ROW = X[:1]
ZERO = np.array([[1, 0, 3]], np.float32)
SITUATIONS = [
    # what is not there
    Situation("unknown model", attribute("lineal"), S.NOT_FOUND, "MODEL_NOT_FOUND", RESOURCE),
    Situation("unknown version", attribute("linear/versions/7"), S.NOT_FOUND, "VERSION_NOT_FOUND", RESOURCE),
    Situation("unknown layer", attribute(layers=["hidden"]), S.NOT_FOUND, "NODE_NOT_FOUND", RESOURCE),
    Situation("unknown target", attribute(target=target(0, tensor="z")), S.NOT_FOUND, "NODE_NOT_FOUND", RESOURCE),
    Situation("unknown model to load", of_model("LoadModel", model="lineal"), S.NOT_FOUND, "MODEL_NOT_FOUND", RESOURCE),
    Situation("unknown model to unload", of_model("UnloadModel", model="lineal"), S.NOT_FOUND, "MODEL_NOT_FOUND",
              RESOURCE),
    Situation("unknown call", raw("AttributionService/Explain", b""), S.UNIMPLEMENTED, ""),
    # models
    Situation("model that is no model", attribute("broken"), S.FAILED_PRECONDITION, "MODEL_INVALID", CONDITION),
    Situation("model of a later opset", attribute("later"), S.FAILED_PRECONDITION, "OPSET_UNSUPPORTED", CONDITION),
    Situation("model with a wrong card", attribute("carded"), S.FAILED_PRECONDITION, "CARD_INVALID", CONDITION),
    Situation("model that does not run", attribute("failing"), S.FAILED_PRECONDITION, "MODEL_LOAD_FAILED", CONDITION),
    Situation("model being loaded", attribute(), S.UNAVAILABLE, "MODEL_NOT_READY", RETRY,
              failing(errors.NotReady("being loaded", reason=Reason.MODEL_NOT_READY))),
    Situation("process that ended", attribute(), S.UNAVAILABLE, "PROCESS_ENDED", RETRY,
              failing(errors.NotReady("it has ended", reason=Reason.PROCESS_ENDED))),
    Situation("another change under way", of_model("LoadModel", model="linear"), S.ABORTED, "CONCURRENT_OPERATION", (),
              changing),
    # inputs
    Situation("missing input", attribute(inputs=[]), S.INVALID_ARGUMENT, "INPUT_MISSING", FIELDS),
    Situation("extra input", attribute(inputs=[INPUT, tensor(X, "z")]), S.INVALID_ARGUMENT, "INPUT_UNKNOWN", FIELDS),
    Situation("input given twice", attribute(inputs=[INPUT, INPUT]), S.INVALID_ARGUMENT, "INPUT_DUPLICATE", FIELDS),
    Situation("input of another type", attribute(inputs=[tensor([["a", "b", "c"]])]), S.INVALID_ARGUMENT,
              "DTYPE_MISMATCH", FIELDS),
    Situation("input of another size", attribute(inputs=[tensor(X[:, :2])]), S.INVALID_ARGUMENT, "SHAPE_MISMATCH",
              FIELDS),
    Situation("input of another rank", attribute(inputs=[tensor(X[0])]), S.INVALID_ARGUMENT, "SHAPE_MISMATCH", FIELDS),
    Situation("bytes that are too few", attribute(inputs=[bare(raw=b"123")]), S.INVALID_ARGUMENT, "BYTES_MISMATCH",
              FIELDS),
    Situation("negative size", attribute(inputs=[bare(shape=[-2, 3])]), S.INVALID_ARGUMENT, "SHAPE_MISMATCH", FIELDS),
    Situation("size beyond numbers", attribute(inputs=[bare(shape=[1 << 62, 1 << 62])]), S.INVALID_ARGUMENT,
              "SHAPE_MISMATCH", FIELDS),
    Situation("type that nobody knows", attribute(inputs=[bare(datatype="FP8")]), S.INVALID_ARGUMENT,
              "DTYPE_MISMATCH", FIELDS),
    Situation("numbers that are none", attribute(inputs=[tensor(NAN)]), S.INVALID_ARGUMENT, "NON_FINITE_INPUT", FIELDS),
    # targets, baselines, parameters
    Situation("class out of range", attribute(target=target(9)), S.INVALID_ARGUMENT, "TARGET_INVALID"),
    Situation("targets for other samples", attribute(target=target(0, 1, 0)), S.INVALID_ARGUMENT, "TARGET_INVALID"),
    Situation("baseline of another shape", attribute(baselines={"x": pb.Baseline(tensor=tensor(X[:, :2], ""))}),
              S.INVALID_ARGUMENT, "BASELINE_INVALID"),
    Situation("baseline of nothing", attribute(baselines={"z": pb.Baseline(scalar=0)}), S.INVALID_ARGUMENT,
              "BASELINE_INVALID"),
    Situation("no steps", attribute(neuron_ig=pb.NeuronIG(steps=0)), S.INVALID_ARGUMENT, "PARAMETER_INVALID", FIELDS),
    Situation("steps beyond the limit", attribute(neuron_ig=pb.NeuronIG(steps=16385)), S.INVALID_ARGUMENT,
              "PARAMETER_INVALID", FIELDS),
    Situation("doubling beyond the limit", attribute(neuron_ig=pb.NeuronIG(max_steps=1 << 30)), S.INVALID_ARGUMENT,
              "PARAMETER_INVALID", FIELDS),
    Situation("tolerance below zero", stream(neuron_ig=pb.NeuronIG(tolerance=-1)), S.INVALID_ARGUMENT,
              "PARAMETER_INVALID", FIELDS),
    Situation("no method", raw("AttributionService/Attribute", pb.AttributeRequest(model="linear").SerializeToString()),
              S.INVALID_ARGUMENT, "PARAMETER_INVALID", FIELDS),
    Situation("method without a name", attribute(custom=pb.CustomMethod()), S.INVALID_ARGUMENT, "PARAMETER_INVALID",
              FIELDS),
    Situation("method that nobody knows", attribute(custom=pb.CustomMethod(name="nonsense")), S.INVALID_ARGUMENT,
              "PARAMETER_INVALID", FIELDS),
    Situation("word of a newer client", attribute(neuron_ig=pb.NeuronIG(quadrature=77)),  # type: ignore[arg-type]
              S.UNIMPLEMENTED, "METHOD_UNSUPPORTED"),
    Situation("method of a newer client", newer(pb.AttributeRequest(model="linear", inputs=[INPUT])),
              S.UNIMPLEMENTED, "METHOD_UNSUPPORTED"),
    Situation("parameter of a newer client", newer(pb.NeuronIG(steps=8), 24), S.UNIMPLEMENTED, "METHOD_UNSUPPORTED"),
    Situation("bytes that are no message", raw("AttributionService/Attribute", b"\xff\xff\xff"), S.INVALID_ARGUMENT,
              "PARAMETER_INVALID"),
    Situation("page of a negative size", of_model("ListModels", page_size=-1), S.INVALID_ARGUMENT,
              "PARAMETER_INVALID", FIELDS),
    Situation("page of another query", of_model("ListModels", page_token="LTEuMDA="), S.INVALID_ARGUMENT,
              "PAGE_TOKEN_INVALID"),
    Situation("page of nothing", of_model("ListModels", page_token="x"), S.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"),
    # derivatives
    Situation("derivative that is zero", attribute("stairs"), S.FAILED_PRECONDITION, "ZERO_DERIVATIVE", CONDITION),
    Situation("target without floats", attribute("places", target=target(0, tensor="y")), S.FAILED_PRECONDITION,
              "NOT_FLOAT", CONDITION),
    Situation("layer behind the target", attribute(layers=["y"], target=target(0, tensor="h")),
              S.FAILED_PRECONDITION, "NO_PATH", CONDITION),
    # sizes
    Situation("samples beyond the limit", attribute(inputs=[tensor(ROW.repeat(5, 0))]), S.INVALID_ARGUMENT,
              "REQUEST_TOO_LARGE"),
    Situation("answer beyond a message", attribute("big"), S.INVALID_ARGUMENT, "RESULT_TOO_LARGE", (), serving),
    Situation("outputs beyond a message", predict("big"), S.INVALID_ARGUMENT, "RESULT_TOO_LARGE", (), serving),
    Situation("frame beyond the limit", attribute(inputs=[bare(raw=bytes(2 << 20))]), S.RESOURCE_EXHAUSTED, "", (),
              partial(serving, max_request_mib=1)),
    # how many, and how long
    Situation("as many calls as may", attribute(), S.RESOURCE_EXHAUSTED, "QUEUE_FULL", QUOTA,
              partial(held, "unary", max_unary=1)),
    Situation("as many streams as may", stream(), S.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", QUOTA,
              partial(held, "stream", max_streams=1)),
    Situation("as many audits as may", audit("open"), S.RESOURCE_EXHAUSTED, "TOO_MANY_AUDITS", QUOTA,
              partial(held, "audit", max_audits=1)),
    Situation("as many calls as a caller may", attribute(), S.RESOURCE_EXHAUSTED, "RATE_LIMITED", QUOTA,
              partial(held, "stream", max_per_caller=1)),
    Situation("no turn in time", lambda stubs: stubs.attributions.Attribute(ask()),
              S.RESOURCE_EXHAUSTED, "QUEUE_FULL", RETRY, partial(held, "busy", workers=1, unary_seconds=0.6)),
    Situation("memory that does not suffice", attribute(), S.RESOURCE_EXHAUSTED, "DEVICE_OUT_OF_MEMORY", RETRY,
              failing(errors.Overloaded("too little", reason=Reason.DEVICE_OUT_OF_MEMORY))),
    Situation("server that ends", attribute(), S.UNAVAILABLE, "DRAINING", RETRY, draining),
    Situation("deadline before a result", stream("stuck", None), S.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT", (),
              partial(serving, stream_seconds=0.5)),
    Situation("deadline beyond the limit", lambda stubs: stubs.attributions.Attribute(ask(), timeout=4000),
              S.INVALID_ARGUMENT, "DEADLINE_TOO_LONG"),
    Situation("client that gives up", given_up, S.CANCELLED, "", (), serving),
    # callers
    Situation("no token", attribute(), S.UNAUTHENTICATED, "CREDENTIALS_MISSING", (), guarded),
    Situation("wrong token", attribute(), S.UNAUTHENTICATED, "CREDENTIALS_INVALID", (), partial(guarded, given="no")),
    Situation("role that does not do", attribute(), S.PERMISSION_DENIED, "PERMISSION_DENIED", (),
              partial(guarded, "read")),
    Situation("role that does not do, for what is not there", attribute("nowhere"), S.PERMISSION_DENIED,
              "PERMISSION_DENIED", (), partial(guarded, "read")),
    # uploads
    Situation("uploads that are off", upload(b"x"), S.UNIMPLEMENTED, "UPLOADS_OFF", (), serving),
    Situation("upload of other bytes", upload(b"x", sha256="0" * 64), S.INVALID_ARGUMENT, "UPLOAD_DIGEST_MISMATCH"),
    Situation("upload of another size", upload(b"x", size=2), S.INVALID_ARGUMENT, "UPLOAD_DIGEST_MISMATCH"),
    Situation("upload beyond the limit", upload(b"x", size=1 << 50), S.INVALID_ARGUMENT, "PARAMETER_INVALID", FIELDS),
    Situation("upload of no model", upload(b"no model"), S.FAILED_PRECONDITION, "MODEL_INVALID", CONDITION),
    Situation("upload with values elsewhere", upload(external()), S.FAILED_PRECONDITION, "MODEL_INVALID", CONDITION),
    Situation("upload of a later opset", upload(later()), S.FAILED_PRECONDITION, "OPSET_UNSUPPORTED", CONDITION),
    Situation("upload of a version that is there", upload(net("linear").SerializeToString(), name="linear", version=1),
              S.INVALID_ARGUMENT, "VERSION_EXISTS"),
    Situation("upload under no name", upload(b"x", name="../up"), S.INVALID_ARGUMENT, "PARAMETER_INVALID", FIELDS),
    # audits
    Situation("audit without an opening", audit("0"), S.INVALID_ARGUMENT, "AUDIT_PROTOCOL"),
    Situation("audit opened twice", audit("open", "open"), S.INVALID_ARGUMENT, "AUDIT_PROTOCOL"),
    Situation("audit of nothing", audit(), S.INVALID_ARGUMENT, "AUDIT_PROTOCOL"),
    Situation("audit that sends an item twice", audit("open", "1", "1"), S.INVALID_ARGUMENT, "AUDIT_PROTOCOL"),
    Situation("audit that counts backwards", audit("open", "2", "1"), S.INVALID_ARGUMENT, "AUDIT_PROTOCOL"),
    # faults of ours
    Situation("fault of ours", attribute(), S.INTERNAL, "INTERNAL", (), failing(ValueError("secret"))),
    Situation("run that fails", attribute(), S.INTERNAL, "RUNTIME_FAILURE", (),
              failing(errors.ModelError("it fails", reason=Reason.RUNTIME_FAILURE))),
    # what is no error
    Situation("tolerance that is not reached", attribute(neuron_ig=pb.NeuronIG(steps=2, max_steps=2, tolerance=1e-12)),
              S.OK, ""),
    Situation("gradient that is infinite", attribute("root", inputs=[tensor(ZERO)], gradient=pb.Gradient()),
              S.OK, ""),
]  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS, ids=[one.name for one in SITUATIONS])
def test_situation_has_its_status_and_reason(situation: Situation, request: pytest.FixtureRequest) -> None:
    if situation.server is None:
        told = outcome(situation.ask, request.getfixturevalue("models"))
    else:
        with situation.server() as stubs:
            told = outcome(situation.ask, stubs)
    assert told == (situation.code, situation.reason, set(situation.details))


def outcome(ask_for: Callable[[Stubs], object], stubs: Stubs) -> tuple[grpc.StatusCode, str, set[str]]:
    """The status of a call, and what its details say: the reason, and the names of those beside it."""
    try:
        ask_for(stubs)
    except grpc.RpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        details = status_pb2.Status.FromString(trailing.get("grpc-status-details-bin", b"")).details
        names = {one.TypeName().rpartition(".")[2] for one in details}
        info = error_details_pb2.ErrorInfo()
        reason = next((info.reason for one in details if one.Unpack(info)), "")
        return error.code(), reason, names - {"ErrorInfo"}
    return grpc.StatusCode.OK, "", set()
