"""What both clients send: requests from arguments. No input or output of its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from onnx_attribution.errors import DeadlineExceeded, InvalidArgument, Reason, ServerBug
from onnx_attribution.interventions import Intervention, InterventionRequest
from onnx_attribution.methods import DEFAULT, Method, make
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import interventions as intervention_messages
from onnx_attribution.proto import requests, wire
from onnx_attribution.values import (
    Array,
    AttributionRequest,
    Baseline,
    ChannelSums,
    ModelInfo,
    References,
    Selection,
    Target,
)

__all__ = [
    "STREAM_SECONDS",
    "UNARY_SECONDS",
    "Inputs",
    "arrays",
    "from_prediction",
    "is_serving",
    "only_input",
    "options_of",
    "seconds",
    "to_health",
    "to_intervene",
    "to_predict",
    "to_request",
    "to_stream",
    "to_upload",
]

UNARY_SECONDS = 60.0
STREAM_SECONDS = 600.0
PART = 1 << 20  # bytes of a message of an upload
MAX_SECONDS = 1e9  # what gRPC can count to

Inputs = Mapping[str, ArrayLike] | ArrayLike


def options_of(request: AttributionRequest) -> dict[str, Any]:
    """What a client's calls are told of a request beside its model and inputs."""
    names = ("method", "layers", "source", "target", "targets", "baselines", "sums_only", "channel_sums")
    return {name: getattr(request, name) for name in names}


def to_request(model: str, inputs: Mapping[str, ArrayLike], **options: Any) -> pb.AttributeRequest:
    """The request message; `options` are those of `AttributionRequest`, the parameters of its method included.

    Raises InvalidArgument for values that cannot be encoded; the server checks them against the model.
    """
    request, found = _asked(model, inputs, **options)
    return requests.to_request(request, violations=found)


def to_stream(model: str, inputs: Mapping[str, ArrayLike], last_only: bool, **options: Any) -> bytes:
    """The same in protobuf's encoding, without the revisions of which it is known that a better one follows."""
    request, found = _asked(model, inputs, **options)
    return requests.to_bytes(request, last_only=last_only, violations=found)


def _asked(
    model: str,
    inputs: Mapping[str, ArrayLike],
    *,
    method: Method | str = DEFAULT,
    layers: str | Sequence[str] = (),
    source: str | Sequence[str] = (),
    target: Target | Selection = None,
    targets: Sequence[Target | Selection] | Array | None = None,
    baselines: Mapping[str, ArrayLike | References] | None = None,
    request_id: str = "",
    sums_only: bool = False,
    channel_sums: ChannelSums = None,
    **parameters: Any,
) -> tuple[AttributionRequest, requests.Violations]:
    """The request, and what is wrong with what it was made of."""
    found, value = requests.Violations(), DEFAULT
    with found.at("method"):
        value = make(method, parameters)
    several = None
    with found.at("targets"):
        if targets is not None and target is not None:
            raise InvalidArgument("give target or targets, not both", reason=Reason.TARGET_INVALID)
        several = None if targets is None else Target.each_of(targets)
    one = target if isinstance(target, Target) else Target(index=target)
    request = AttributionRequest(
        model=model,
        inputs=arrays(inputs),
        method=value,
        layers=layers,
        source=source,
        target=one if several is None else None,
        targets=several,
        baselines={} if baselines is None else _baselines(baselines),
        request_id=request_id,
        sums_only=sums_only,
        channel_sums=channel_sums,
    )
    return request, found


def _baselines(given: Mapping[str, ArrayLike | References]) -> dict[str, Baseline]:
    """Arrays, and references as they are. Raises: InvalidArgument with every one that is neither."""
    if not isinstance(given, Mapping):
        return dict(arrays(given, "baselines", Reason.BASELINE_INVALID))  # which refuses it
    several = {name: value for name, value in given.items() if isinstance(value, References)}
    points = {name: value for name, value in given.items() if not isinstance(value, References)}
    one = arrays(points, "baselines", Reason.BASELINE_INVALID)
    many = arrays(
        {name: value.values for name, value in several.items()}, "baselines", Reason.BASELINE_INVALID
    )
    return {**one, **{name: replace(several[name], values=array) for name, array in many.items()}}


def to_predict(model: str, inputs: Mapping[str, ArrayLike], outputs: Sequence[str]) -> bytes:
    """The PredictRequest in protobuf's encoding. Raises: InvalidArgument for what has no form on the wire."""
    fields = [
        part
        for name, array in arrays(inputs).items()
        for part in wire.tensor(pb.PredictRequest.INPUTS_FIELD_NUMBER, name, array)
    ]
    names = (outputs,) if isinstance(outputs, str) else outputs
    try:
        return wire.joined(pb.PredictRequest(model=model, outputs=names), fields)
    except (TypeError, ValueError):
        raise InvalidArgument(f"model and outputs are names, not {model!r} and {outputs!r}") from None


def from_prediction(response: bytes) -> dict[str, Array]:
    """The outputs by name. Raises: ServerBug for bytes that are none."""
    try:
        return requests.from_prediction(response)
    except InvalidArgument as error:
        raise ServerBug(f"the server's answer is broken: {error.message}") from error


def to_intervene(
    model: str,
    inputs: Mapping[str, ArrayLike],
    interventions: Intervention | Sequence[Intervention],
    target: Target | Selection,
    outputs: Sequence[str],
    donors: Mapping[str, ArrayLike] | None,
) -> pb.InterveneRequest:
    """The message of interventions. Raises: InvalidArgument with all that has no form on the wire."""
    others = None if donors is None else arrays(donors, "donors")
    request = InterventionRequest(model, arrays(inputs), interventions, target, outputs, others)
    return intervention_messages.to_request(request)


def to_upload(name: str, file: str | PathLike[str], version: int) -> Iterator[pb.UploadModelRequest]:
    """The messages of an upload, read from the file as they are sent.

    Raises: InvalidArgument, at once, for a file that cannot be read.
    """
    try:
        digest, size = hashlib.sha256(), Path(file).stat().st_size
        with open(file, "rb") as stream:
            while part := stream.read(PART):
                digest.update(part)
    except (OSError, TypeError) as error:
        raise InvalidArgument(f"the file {file!r} cannot be read: {error}") from None

    def messages() -> Iterator[pb.UploadModelRequest]:
        begin = pb.UploadModelRequest.Begin(name=name, version=version, size=size, sha256=digest.hexdigest())
        yield pb.UploadModelRequest(begin=begin)
        with open(file, "rb") as stream:
            while part := stream.read(PART):
                yield pb.UploadModelRequest(data=part)

    return messages()


def arrays(
    given: Mapping[str, ArrayLike], field: str = "inputs", reason: Reason = Reason.INPUT_INVALID
) -> dict[str, Array]:
    """Anything that numpy takes, as arrays. Raises: InvalidArgument with every one that is none."""
    if not isinstance(given, Mapping):
        raise InvalidArgument(
            f"{field} are a dict of arrays by name, not {type(given).__name__}", reason=reason
        )
    found, problems = dict[str, Array](), requests.Violations()
    for name, value in given.items():
        with problems.at(f"{field}.{name}"):
            if not isinstance(name, str):
                raise InvalidArgument(f"a name is text, not {name!r}", reason=reason)
            try:
                found[name] = np.asarray(value)
            except (TypeError, ValueError, OverflowError) as error:  # lists of different lengths, say
                raise InvalidArgument(f"numpy makes no array of it: {error}", reason=reason) from None
    problems.raise_if_any()
    return found


def seconds(timeout: float | None, default: float) -> float:
    """The time of a call. Raises: InvalidArgument for what is no number; DeadlineExceeded where there is no time."""
    given: Any = default if timeout is None else timeout
    if isinstance(given, bool) or not isinstance(given, int | float | np.number) or math.isnan(given):
        raise InvalidArgument(f"timeout is a number of seconds, not {given!r}")
    if given <= 0:
        raise DeadlineExceeded(f"the timeout is {given}: there is no time for the call")
    return min(float(given), MAX_SECONDS)


def only_input(info: ModelInfo) -> str:
    """The name that an array given without one belongs to. Raises: InvalidArgument if there are several."""
    if len(info.inputs) != 1:
        names = ", ".join(one.name for one in info.inputs)
        raise InvalidArgument(
            f"model {info.name!r} has {len(info.inputs)} inputs ({names}); give a dict of arrays by name",
            reason=Reason.INPUT_INVALID,
        )
    return info.inputs[0].name


# grpc.health.v1, small enough to need no package: HealthCheckRequest{string service = 1} and
# HealthCheckResponse{enum status = 1}, in which SERVING is 1.
HEALTH_METHOD = "/grpc.health.v1.Health/Check"


def to_health(service: str) -> bytes:
    return pb.GetModelRequest(model=service).SerializeToString()  # the same field, so the same bytes


def is_serving(response: bytes) -> bool:
    return response == b"\x08\x01"
