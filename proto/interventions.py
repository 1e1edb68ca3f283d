"""Interventions to messages and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.interventions import (
    MEAN,
    Edit,
    Intervened,
    InterventionRequest,
    Patch,
    Ranked,
    Replacement,
)
from onnx_attribution.parameters import shown
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import events, requests, tensors, words
from onnx_attribution.proto.requests import Violations
from onnx_attribution.values import Array, Selection, Target

__all__ = ["from_answer", "from_request", "to_answer", "to_request"]


def to_request(request: InterventionRequest, violations: Violations | None = None) -> pb.InterveneRequest:
    """Raises: InvalidArgument with every argument that has no form on the wire, and the `violations` found before."""
    found = violations or Violations()
    message = pb.InterveneRequest()
    with found.at("model"):
        message.model = requests.text_of(request.model)
    with found.at("outputs"):
        message.outputs.extend(requests.names_of(request.outputs))
    for field, arrays in (("inputs", request.inputs), ("donors", request.donors)):
        for name, array in arrays.items():
            with found.at(f"{field}.{name}"):
                getattr(message, field).append(tensors.encode(name, array))
    with found.at("target"):
        message.target.CopyFrom(requests.to_target(request.target))
    numbers: dict[int, int] = {}
    for k, edits in enumerate(request.interventions):
        intervention = message.interventions.add()
        for edit in edits:
            with found.at(f"interventions[{k}]"):
                one = _to_edit(edit)
                if isinstance(edit.at, Ranked):
                    if id(edit.at.numbers) not in numbers:
                        message.numbers.append(tensors.encode("", np.asarray(edit.at.numbers)))
                        numbers[id(edit.at.numbers)] = len(message.numbers) - 1
                    one.ranked.numbers = numbers[id(edit.at.numbers)]
                intervention.edits.append(one)
    found.raise_if_any()
    return message


def from_request(message: pb.InterveneRequest) -> InterventionRequest:
    """Raises: InvalidArgument with every violation."""
    found = Violations()
    found.require(bool(message.model), "model", "a model name is required")
    plain = len(message.request_id) <= 64 and message.request_id.isprintable()
    found.require(plain, "request_id", "must be at most 64 printable characters")
    found.require(bool(message.interventions), "interventions", "there is no intervention")
    inputs = requests.from_tensors(message.inputs, "inputs", found)
    donors = requests.from_tensors(message.donors, "donors", found)
    numbers: list[Array] = []
    for k, tensor in enumerate(message.numbers):
        with found.at(f"numbers[{k}]"):
            numbers.append(tensors.decode(tensor))
    target = Target()
    if message.HasField("target"):
        with found.at("target"):
            target = requests.from_target(message.target)
    interventions: list[tuple[Edit, ...]] = []
    for k, one in enumerate(message.interventions):
        with found.at(f"interventions[{k}]"):
            interventions.append(tuple(_from_edit(edit, numbers) for edit in one.edits))
    found.raise_if_any()
    return InterventionRequest(
        message.model, inputs, interventions, target, tuple(message.outputs), donors or None
    )


def _to_edit(edit: Edit) -> pb.Edit:
    message = pb.Edit(layer=requests.text_of(edit.layer))
    if isinstance(edit.at, Ranked):
        message.ranked.start = _whole("start", edit.at.start)
        if edit.at.stop is not None:
            message.ranked.stop = _whole("stop", edit.at.stop)
    else:
        message.at.extend(_to_selectors(edit.at))
    if edit.scale is not None:
        message.scale = float(edit.scale)
    elif isinstance(edit.to, Patch):
        rows = () if edit.to.rows is None else np.asarray(edit.to.rows).reshape(-1)
        message.patch.rows.extend(_whole("rows of Patch", row) for row in rows)
        message.patch.SetInParent()
    elif isinstance(edit.to, str):
        message.mean = True
    elif isinstance(edit.to, int | float) and not isinstance(edit.to, bool):
        message.number = float(edit.to)
    else:
        message.tensor.CopyFrom(tensors.encode("", np.asarray(edit.to)))
    return message


def _to_selectors(at: Selection) -> list[pb.Selector]:
    try:
        found = requests.to_selectors(at)
    except InvalidArgument as error:
        raise _refused(error.message.replace("target ", "layer ")) from None
    if any(not one.axes for one in found):
        raise _refused("at is made of indices, slices and masks, or is Ranked")
    return found


def _from_edit(message: pb.Edit, numbers: Sequence[Array]) -> Edit:
    if message.at and message.HasField("ranked"):
        raise _refused("an edit has at or ranked, not both")
    at: Selection | Ranked
    if message.HasField("ranked"):
        given = message.ranked
        if not 0 <= given.numbers < len(numbers):
            raise _refused(f"ranked names numbers[{given.numbers}]; there are {len(numbers)}")
        at = Ranked(numbers[given.numbers], given.start, given.stop if given.HasField("stop") else None)
    else:
        if any(not one.axes for one in message.at):
            raise _refused("the selectors of an edit have axes, and nothing else")
        at = requests.from_selectors(message.at)
    to: Replacement = 0.0
    match message.WhichOneof("change"):
        case "scale":
            return Edit(message.layer, at, scale=message.scale)
        case "number":
            to = message.number
        case "tensor":
            to = tensors.decode(message.tensor, name="values")
        case "mean" if message.mean:
            to = MEAN
        case "patch":
            rows = list(message.patch.rows)
            to = Patch((rows[0] if len(rows) == 1 else rows) if rows else None)
    return Edit(message.layer, at, to)


def _whole(what: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise _refused(f"{what} is a whole number, not {shown(value)}")
    return int(value)


def to_answer(answer: Intervened) -> pb.InterveneResponse:
    return pb.InterveneResponse(
        target=events.to_resolved(answer.target),
        values=answer.values.ravel().tolist(),
        largest=answer.largest.ravel().tolist(),
        largest_before=answer.largest_before.tolist(),
        outputs=[tensors.encode(*item) for item in answer.outputs.items()],
        outputs_before=[tensors.encode(*item) for item in answer.outputs_before.items()],
        batch_mode=words.BATCH_MODES.number(answer.batch),
        evaluations=answer.evaluations,
        seconds=answer.seconds,
        digest=answer.digest,
        provider=answer.provider,
        warnings=answer.warnings,
    )


def from_answer(message: pb.InterveneResponse) -> Intervened:
    target = events.from_resolved(message.target)
    samples = len(target.value)
    return Intervened(
        target,
        np.array(message.values, np.float64).reshape(-1, samples),
        np.array(message.largest, np.int64).reshape(-1, samples),
        np.array(message.largest_before, np.int64),
        requests.from_tensors(message.outputs, "outputs"),
        requests.from_tensors(message.outputs_before, "outputs_before"),
        words.BATCH_MODES.word(message.batch_mode),
        message.evaluations,
        message.seconds,
        message.digest,
        message.provider,
        tuple(message.warnings),
    )


def _refused(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason=Reason.LAYER_INVALID)
