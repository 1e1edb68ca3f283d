"""Every failure has its status, and nothing but that reaches a caller."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from onnx_attribution import errors
from onnx_attribution.client.errors import from_rpc_error, translated
from onnx_attribution.errors import Reason
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server.service.status import scrubber
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine
from tests.server.stubs import Stubs, ask, serving


class Subclass(errors.NotFound):
    """Not in the table; its parent is."""


ROWS: list[tuple[Exception, grpc.StatusCode, str]] = [
    (errors.NotFound("m", reason=Reason.MODEL_NOT_FOUND), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    (errors.NotFound("m"), grpc.StatusCode.NOT_FOUND, "NODE_NOT_FOUND"),
    (Subclass("m"), grpc.StatusCode.NOT_FOUND, "NODE_NOT_FOUND"),
    (errors.NotReady("m"), grpc.StatusCode.UNAVAILABLE, "SERVER_UNREACHABLE"),
    (errors.ModelError("m"), grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED"),
    (errors.ModelError("m", reason=Reason.RUNTIME_FAILURE), grpc.StatusCode.INTERNAL, "RUNTIME_FAILURE"),
    (errors.InvalidArgument("m", reason=Reason.INPUT_MISSING), grpc.StatusCode.INVALID_ARGUMENT, "INPUT_MISSING"),
    (errors.InvalidArgument("m"), grpc.StatusCode.INVALID_ARGUMENT, "PARAMETER_INVALID"),
    (errors.Unsupported("m"), grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNSUPPORTED"),
    (errors.NotDifferentiable("m", reason=Reason.NO_PATH), grpc.StatusCode.FAILED_PRECONDITION, "NO_PATH"),
    *(
        (kind("m", reason=Reason("OF_A_LATER_VERSION")), grpc.StatusCode.FAILED_PRECONDITION, "OF_A_LATER_VERSION")
        for kind in (errors.ModelError, errors.NotDifferentiable)
    ),
    *(
        (kind("m", reason=reason), grpc.StatusCode[reason.status or kind.status], reason)
        for kind in errors.KINDS for reason in Reason if kind.__name__ in reason.errors and reason != "INTERNAL"
    ),
    (errors.Overloaded("m"), grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    (
        errors.Overloaded("m", reason=Reason.DEVICE_OUT_OF_MEMORY),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "DEVICE_OUT_OF_MEMORY",
    ),
    (errors.DeadlineExceeded("m"), grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT"),
    (errors.Cancelled("m"), grpc.StatusCode.CANCELLED, "CANCELLED"),
    (errors.Unauthenticated("m"), grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"),
    (errors.PermissionDenied("m"), grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
    (errors.MessageTooLarge("m"), grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE"),
    (errors.AttributionError("m"), grpc.StatusCode.INTERNAL, "INTERNAL"),
    (errors.ServerBug("m"), grpc.StatusCode.INTERNAL, "INTERNAL"),
    (RuntimeError("m"), grpc.StatusCode.INTERNAL, "INTERNAL"),
]  # fmt: skip


@pytest.fixture(scope="module")
def failing() -> Iterator[Stubs]:
    with serving(FakeEngine({str(index): error for index, (error, *_) in enumerate(ROWS)})) as stubs:
        yield stubs


@pytest.mark.parametrize(
    ("row", "code", "reason"),
    [(index, code, reason) for index, (_, code, reason) in enumerate(ROWS)],
    ids=[f"{type(error).__name__}-{reason}" for error, _, reason in ROWS],
)
@pytest.mark.parametrize("method", ["GetModel", "ListLayers", "Predict", "Attribute", "StreamAttribute"])
def test_failure_has_its_status_and_its_class(
    failing: Stubs, method: str, row: int, code: grpc.StatusCode, reason: str
) -> None:
    requests: dict[str, Callable[[], Any]] = {
        "GetModel": lambda: failing.models.GetModel(pb.GetModelRequest(model=str(row)), timeout=5),
        "ListLayers": lambda: failing.models.ListLayers(pb.ListLayersRequest(model=str(row)), timeout=5),
        "Predict": lambda: failing.attributions.Predict(pb.PredictRequest(model=str(row)), timeout=5),
        "Attribute": lambda: failing.attributions.Attribute(ask(str(row)), timeout=5),
        "StreamAttribute": lambda: list(failing.attributions.StreamAttribute(ask(str(row)), timeout=5)),
    }
    with pytest.raises(grpc.RpcError) as caught:
        requests[method]()
    assert caught.value.code() == code
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (code.name, reason)
    if reason != "INTERNAL":
        assert type(error) in type(ROWS[row][0]).__mro__[:2]  # the subclass is not known to the client
        assert error.message == "m"
    else:
        assert isinstance(error, errors.ServerBug)


def test_every_class_but_the_bugs_has_a_status_of_its_own() -> None:
    classes: set[type[errors.AttributionError]] = {errors.AttributionError, *errors.KINDS}
    assert {kind for kind in classes if kind.status == "INTERNAL"} == {
        errors.AttributionError,
        errors.ServerBug,
    }


def test_internal_error_hides_its_text_and_is_logged_with_its_traceback() -> None:
    secret = ValueError("secret /etc/path detail")
    with (
        structlog.testing.capture_logs() as logs,
        serving(FakeEngine({"broken": secret})) as stubs,
        pytest.raises(errors.ServerBug) as caught,
        translated(),
    ):
        list(stubs.attributions.StreamAttribute(ask("broken"), timeout=5))
    incident = caught.value.metadata["incident"]
    assert caught.value.message == f"the server failed; its log knows this as incident {incident}"
    [entry] = [entry for entry in logs if entry["event"] == "internal error"]
    assert (entry["incident"], entry["exc_info"]) == (incident, secret)


def test_no_folder_of_the_server_reaches_a_caller(tmp_path: Path) -> None:
    served = tmp_path / "models"
    served.mkdir()
    text = (
        f"cannot read {served}/m/1/model.onnx: node /conv1/Conv failed, {tempfile.gettempdir()}/x/y, "
        "/onnxruntime_src/onnxruntime/core/graph/graph.cc:1421 Graph::Graph(); Traceback (most recent call last)\n x"
    )
    engine = FakeEngine({"m": errors.ModelError(text, path=served / "m")})
    with serving(engine, models=(served,)) as stubs:
        with pytest.raises(errors.ModelError) as caught, translated():
            stubs.models.GetModel(pb.GetModelRequest(model="m"))
        listed = stubs.models.ListModels(pb.ListModelsRequest()).models
    expected = "cannot read m/1/model.onnx: node /conv1/Conv failed, x/y, graph.cc:1421 Graph::Graph(); "
    assert caught.value.message == expected
    assert caught.value.metadata["path"] == "m"
    assert [model.reason for model in listed if model.name == "m"] == [expected]


def test_scrubbing_leaves_names_that_only_begin_like_a_folder() -> None:
    scrub = scrubber([Path("/srv/models")])
    assert scrub("/srv/models2/x /srv/models/x /srv/models") == "/srv/models2/x x "


def test_scrubbing_leaves_a_word_that_is_the_relative_name_of_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    scrub = scrubber([Path("models")])
    assert scrub("the models are: x") == "the models are: x"
    assert scrub(f"no {tmp_path}/models/x.onnx") == "no x.onnx"
    assert Settings(models=(Path("models"),)).models == (tmp_path / "models",)
    monkeypatch.setenv("ONNX_ATTRIBUTION_MODELS", "models:more")
    assert Settings().models == (tmp_path / "models", tmp_path / "more")


def test_no_error_text_holds_a_path_or_a_type_name(failing: Stubs) -> None:
    for row in range(len(ROWS)):
        with pytest.raises(grpc.RpcError) as caught:
            failing.attributions.Attribute(ask(str(row)), timeout=5)
        assert not re.search(r"/|Traceback|Error|Exception|<class", caught.value.details())
