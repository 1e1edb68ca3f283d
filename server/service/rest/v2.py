"""Version 2 of KServe's protocol, the Open Inference Protocol, as JSON, with tensors behind it as binary data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.parameters import shown
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import open_inference_pb2 as oip
from onnx_attribution.proto import tensors
from onnx_attribution.server.service.inference import refuse_parameters
from onnx_attribution.server.service.rest.arrays import from_json, parsed, shaped, switch, to_json, written

__all__ = ["LENGTH", "Form", "infer_body", "infer_request", "metadata"]

LENGTH = "inference-header-content-length"
"""The header that says how many bytes of a body are JSON."""


@dataclass
class Form:
    """Which outputs are answered as binary data: those named here, the others by default."""

    default: bool = False
    outputs: dict[str, bool] = field(default_factory=dict)


def infer_request(
    model: str, version: str, headers: Mapping[str, str], body: bytes
) -> tuple[oip.ModelInferRequest, Form]:
    """The message of a body, and the form of its answer. Raises: InvalidArgument."""
    given, binary = _split(headers, body)
    inputs = _objects(given, "inputs")
    messages, raw = list[oip.ModelInferRequest.InferInputTensor](), list[bytes]()
    at = 0
    for one in inputs:
        name, datatype, parameters = _text(one, "name"), _text(one, "datatype"), _parameters(one)
        shape = _shape(one, name)
        refuse_parameters(f"input {name!r}", parameters)
        size = parameters.get("binary_data_size")
        if (size is None) == ("data" not in one):
            raise InvalidArgument(
                f"input {name!r}: give data, or binary_data_size among its parameters",
                reason=Reason.INPUT_MISSING, input=name,
            )  # fmt: skip
        if size is None:
            raw.append(
                tensors.to_bytes(shaped(name, from_json(name, one["data"], datatype), shape), name=name)
            )
        else:
            if not isinstance(size, int) or not 0 <= size <= len(binary) - at:
                left = len(binary) - at
                raise InvalidArgument(
                    f"input {name!r}: binary_data_size is {shown(size)}, and {left} bytes are left behind the JSON",
                    reason=Reason.BYTES_MISMATCH, input=name,
                )  # fmt: skip
            raw.append(binary[at : at + size])
            at += size
        messages.append(oip.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape))
    if at != len(binary):
        raise InvalidArgument(
            f"{len(binary)} bytes follow the JSON, and the inputs have {at}", reason=Reason.BYTES_MISMATCH
        )
    form = Form(default=switch(_parameters(given), "binary_data_output"))
    for one in _objects(given, "outputs") if given.get("outputs") else ():
        name, parameters = _text(one, "name"), _parameters(one)
        refuse_parameters(f"output {name!r}", parameters)
        form.outputs[name] = (
            switch(parameters, "binary_data") if "binary_data" in parameters else form.default
        )
    request = oip.ModelInferRequest(
        model_name=model,
        model_version=version,
        id=_text(given, "id") if given.get("id") is not None else "",
        inputs=messages,
        outputs=[oip.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in form.outputs],
        raw_input_contents=raw,
    )
    return request, form


def infer_body(response: oip.ModelInferResponse, form: Form) -> tuple[dict[str, str], bytes]:
    """Headers and body of an answer."""
    outputs, binary = [], []
    for one, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        output: dict[str, Any] = {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}
        if form.outputs.get(one.name, form.default):
            output["parameters"] = {"binary_data_size": len(raw)}
            binary.append(raw)
        else:
            tensor = pb.Tensor(name=one.name, datatype=one.datatype, shape=one.shape, raw=raw)
            output["data"] = to_json(tensors.decode(tensor).ravel())
        outputs.append(output)
    answer = {
        "model_name": response.model_name,
        "model_version": response.model_version,
        **({"id": response.id} if response.id else {}),
        "outputs": outputs,
    }
    head = written(answer)
    if not binary:
        return {}, head
    return {"content-type": "application/octet-stream", LENGTH: str(len(head))}, b"".join([head, *binary])


def metadata(message: oip.ModelMetadataResponse) -> dict[str, Any]:
    """What is known of a model."""
    described = [
        [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in several]
        for several in (message.inputs, message.outputs)
    ]
    return {
        "name": message.name,
        "versions": list(message.versions),
        "platform": message.platform,
        "inputs": described[0],
        "outputs": described[1],
    }


def _split(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, Any], bytes]:
    said = headers.get(LENGTH)
    if said is None:
        return parsed(body), b""
    length = int(said) if said.isdecimal() and len(said) < 12 else -1
    if not 0 < length <= len(body):
        raise InvalidArgument(
            f"{LENGTH} is {said[:20]!r}; it says how many of the body's {len(body)} bytes are JSON, of which there is "
            "always some",
            reason=Reason.BYTES_MISMATCH,
        )
    return parsed(body[:length]), body[length:]


def _objects(given: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = given.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InvalidArgument(f"{name} is a list of tensors, not {shown(found)}", violations={name: "a list"})
    return found


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    found = given.get("parameters") or {}
    if not isinstance(found, dict):
        raise InvalidArgument(f"parameters are an object, not {shown(found)}")
    return found


def _text(given: Mapping[str, Any], name: str) -> str:
    found = given.get(name)
    if not isinstance(found, str):
        raise InvalidArgument(f"{name} is a text, not {shown(found)}")
    return found


def _shape(given: Mapping[str, Any], name: str) -> list[int]:
    found = given.get("shape")
    if not isinstance(found, list) or not all(type(size) is int and abs(size) < 1 << 62 for size in found):
        raise InvalidArgument(
            f"input {name!r}: shape is a list of integers, not {shown(found)}",
            reason=Reason.SHAPE_MISMATCH, input=name,
        )  # fmt: skip
    return found
