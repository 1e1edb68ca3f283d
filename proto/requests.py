"""Requests to messages and back, with everything that is wrong with one found at once."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from onnx_attribution import values as v
from onnx_attribution.errors import InvalidArgument, Reason, Unsupported
from onnx_attribution.methods import DEFAULT
from onnx_attribution.parameters import shown
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import method_messages, tensors, wire
from onnx_attribution.values import Array

__all__ = [
    "Violations",
    "from_prediction",
    "from_request",
    "from_selectors",
    "from_target",
    "from_tensors",
    "names_of",
    "text_of",
    "to_bytes",
    "to_request",
    "to_selectors",
    "to_target",
]


class Violations:
    """Collects what is wrong with a request, so that its sender learns everything at once."""

    def __init__(self) -> None:
        self._found: dict[str, InvalidArgument] = {}

    @contextmanager
    def at(self, field: str) -> Iterator[None]:
        """An InvalidArgument raised inside is kept under the field's name."""
        try:
            yield
        except InvalidArgument as error:
            parts = {
                name: InvalidArgument(text, reason=error.reason) for name, text in error.violations.items()
            }
            self._found.update(parts or {field: error})

    def require(
        self, holds: bool, field: str, description: str, *, reason: Reason = Reason.PARAMETER_INVALID
    ) -> None:
        if not holds:
            self._found[field] = InvalidArgument(description, reason=reason)

    def raise_if_any(self) -> None:
        """Raises: InvalidArgument with every violation, and the reason and metadata of the first."""
        if not self._found:
            return
        first = next(iter(self._found.values()))
        violations = {field: error.message for field, error in self._found.items()}
        message = "; ".join(f"{field}: {text}" for field, text in violations.items())
        error = first.reworded(message)
        error.violations = violations
        raise error


def to_request(
    request: v.AttributionRequest, *, validate_only: bool = False, violations: Violations | None = None
) -> pb.AttributeRequest:
    """Raises: InvalidArgument with every argument that has no form on the wire, and the `violations` found before."""
    found = violations or Violations()
    message = _without_inputs(request, found)
    message.validate_only = validate_only
    for name, array in request.inputs.items():
        with found.at(f"inputs.{name}"):
            message.inputs.append(tensors.encode(name, array))
    found.raise_if_any()
    return message


def to_bytes(
    request: v.AttributionRequest, *, last_only: bool = False, violations: Violations | None = None
) -> bytes:
    """The message of `to_request` in protobuf's encoding, without copies of its inputs on the way. Raises: as that."""
    found = violations or Violations()
    message = _without_inputs(request, found)
    message.last_only = last_only
    fields = list[bytes | memoryview]()
    for name, array in request.inputs.items():
        with found.at(f"inputs.{name}"):
            fields += wire.tensor(pb.AttributeRequest.INPUTS_FIELD_NUMBER, name, array)
    found.raise_if_any()
    return wire.joined(message, fields)


def _without_inputs(request: v.AttributionRequest, found: Violations) -> pb.AttributeRequest:
    message = pb.AttributeRequest(sums_only=request.sums_only)
    if request.channel_sums is not None:
        message.channel_sums.SetInParent()
        if request.channel_sums != "auto":
            message.channel_sums.axis = request.channel_sums
    for field in ("model", "request_id"):
        with found.at(field):
            setattr(message, field, text_of(getattr(request, field)))
    for field in ("layers", "source"):
        with found.at(field):
            getattr(message, field).extend(names_of(getattr(request, field)))
    with found.at("method"):
        method_messages.to_method(request.method, message)
    for name, baseline in request.baselines.items():
        with found.at(f"baselines.{name}"):
            message.baselines[name].CopyFrom(_to_baseline(name, baseline))
    for k, target in enumerate(request.targets or ()):
        with found.at(f"targets[{k}]"):
            message.targets.append(to_target(target))
    if request.target is not None:
        with found.at("target"):
            message.target.CopyFrom(to_target(request.target))
    return message


def from_request(message: pb.AttributeRequest) -> v.AttributionRequest:
    """Raises: InvalidArgument with every violation; Unsupported for a field or a word of a newer protocol."""
    require_known(message, "")
    found = Violations()
    found.require(bool(message.model), "model", "a model name is required")
    plain = len(message.request_id) <= 64 and message.request_id.isprintable()
    found.require(plain, "request_id", "must be at most 64 printable characters")
    inputs = from_tensors(message.inputs, "inputs", found)
    baselines: dict[str, v.Baseline] = {}
    for name, baseline in message.baselines.items():
        with found.at(f"baselines.{name}"):
            baselines[name] = _from_baseline(name, baseline)
    method = DEFAULT
    with found.at("method"):
        method = method_messages.from_method(message)
    target, targets = None, list[v.Target]()
    if message.HasField("target"):
        with found.at("target"):
            target = from_target(message.target)
    for k, one in enumerate(message.targets):
        with found.at(f"targets[{k}]"):
            targets.append(from_target(one))
    channel_sums: v.ChannelSums = None
    if message.HasField("channel_sums"):
        told = message.channel_sums
        channel_sums = told.axis if told.HasField("axis") else "auto"
        found.require(channel_sums != 0, "channel_sums.axis", "axis 0 is that of the samples")
    alone = not (message.targets and message.HasField("target"))
    found.require(alone, "targets", "give target or targets, not both", reason=Reason.TARGET_INVALID)
    found.raise_if_any()
    return v.AttributionRequest(
        model=message.model,
        inputs=inputs,
        method=method,
        layers=tuple(message.layers),
        source=tuple(message.source),
        target=target,
        targets=targets or None,
        baselines=baselines,
        request_id=message.request_id,
        sums_only=message.sums_only,
        channel_sums=channel_sums,
    )


def require_known(message: Message, place: str) -> None:
    """Refuses fields of a newer protocol: without them another question would be answered than was asked.

    Raises:
        Unsupported: it names the message, which is at `place`, and the number of the field.
    """
    for one in UnknownFieldSet(message):  # type: ignore[attr-defined]  # its stubs leave that out
        where = f" of {place}" if place else ""
        raise Unsupported(
            f"field {one.field_number}{where} is not known here; take a server of the client's version",
            number=one.field_number,
        )
    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        several = value.values() if isinstance(value, Mapping) else value
        for part in [value] if isinstance(value, Message) else several:
            if isinstance(part, Message):
                require_known(part, field.name)


def from_tensors(
    messages: Iterable[pb.Tensor], field: str, violations: Violations | None = None
) -> dict[str, Array]:
    """Arrays by name. Raises: InvalidArgument with every tensor that is wrong, unless `violations` collects them."""
    found, arrays = violations or Violations(), {}
    for index, message in enumerate(messages):
        place = f"{field}.{message.name or index}"
        with found.at(place):
            if message.name in arrays:
                raise InvalidArgument(
                    f"{message.name!r} is given twice", reason=Reason.INPUT_DUPLICATE, input=message.name
                )
            arrays[message.name] = tensors.decode(message)
    if violations is None:
        found.raise_if_any()
    return arrays


def from_prediction(response: bytes) -> dict[str, Array]:
    """The arrays of a PredictResponse, which stay where they are. Raises: InvalidArgument, as `from_tensors` does."""
    numbers = pb.PredictResponse.OUTPUTS_FIELD_NUMBER, pb.Tensor.RAW_FIELD_NUMBER
    try:
        parts = [(pb.Tensor.FromString(head), raw) for head, raw in wire.parted(response, *numbers)]
    except (ValueError, DecodeError):
        raise InvalidArgument("the answer is no PredictResponse") from None
    return {head.name: tensors.decode_parted(head, raw) for head, raw in parts}


def to_target(target: v.Target) -> pb.Target:
    return pb.Target(
        tensor=target.tensor or "",
        selectors=to_selectors(target.index),
        minus=to_selectors(target.minus),
        logit=target.logit,
        mean_centred=target.mean_centred,
    )


def from_target(message: pb.Target) -> v.Target:
    return v.Target(
        tensor=message.tensor or None,
        index=from_selectors(message.selectors),
        minus=from_selectors(message.minus),
        logit=message.logit,
        mean_centred=message.mean_centred,
    )


def to_selectors(index: object) -> list[pb.Selector]:
    """A tuple is one selector, as is an array of truth values or floats; a list or an array of integers is one per
    sample, each an integer, a tuple, a list or a row, or a list of these: a region."""
    if index is None:
        return []
    if isinstance(index, np.ndarray) and not _is_map(index):
        index = index.tolist()
    if isinstance(index, list):
        if not index:
            raise InvalidArgument(
                "the list of target indices is empty; give one for each sample, or one for all",
                reason=Reason.TARGET_INVALID,
            )
        return [_to_selector(one) for one in index]
    if isinstance(index, Iterable) and not isinstance(index, tuple | str | bytes | np.ndarray):
        raise InvalidArgument(
            f"a target index for each sample is a list or an array, not {type(index).__name__}: write list(...)",
            reason=Reason.TARGET_INVALID,
        )
    return [_to_selector(index)]


def _is_map(value: object) -> bool:
    """Whether a value is a mask or an array of weights."""
    return (
        isinstance(value, np.ndarray) and value.ndim > 0 and (value.dtype.kind in "bf" or _is_bfloat(value))
    )


def _is_bfloat(value: Array) -> bool:
    return value.dtype.name == "bfloat16"


def _to_selector(selector: object) -> pb.Selector:
    if selector is None:
        return pb.Selector(automatic=True)
    if isinstance(selector, np.ndarray) and not _is_map(selector):
        selector = selector.tolist()
    if isinstance(selector, np.ndarray) and selector.dtype.kind != "b":
        return pb.Selector(weights=tensors.encode("", selector))
    if isinstance(selector, list):
        if any(isinstance(one, tuple | list) for one in selector):
            if any(isinstance(one, np.ndarray) and one.dtype.kind != "b" for one in selector):
                raise InvalidArgument(
                    "a target region is made of indices, slices and masks, not of weights",
                    reason=Reason.TARGET_INVALID,
                )
            return pb.Selector(
                elements=[_to_selector(tuple(e) if isinstance(e, list) else e) for e in selector]
            )
        selector = tuple(selector)
    axes = selector if isinstance(selector, tuple) else (selector,)
    return pb.Selector(axes=map(_to_axis, axes))


def _to_axis(index: object) -> pb.Axis:
    if isinstance(index, np.ndarray) and index.ndim:
        if index.dtype.kind != "b":
            message = f"a target index holds an array of type {index.dtype.name}; a mask is an array of truth values"
            raise InvalidArgument(message, reason=Reason.TARGET_INVALID)
        return pb.Axis(mask=tensors.encode("", index))
    try:
        if isinstance(index, slice):
            ends = {"start": index.start, "stop": index.stop, "step": index.step}
            ends = {word: _to_integer(end) for word, end in ends.items() if end is not None}
            if ends.get("step") == 0:
                raise InvalidArgument("a range cannot have step 0", reason=Reason.TARGET_INVALID)
            return pb.Axis(range=pb.Range(**ends))
        return pb.Axis(index=_to_integer(index))
    except (TypeError, ValueError):
        message = f"a target index is made of integers, slices and masks, not {shown(index)}"
        raise InvalidArgument(message, reason=Reason.TARGET_INVALID) from None


def _to_integer(value: object) -> int:
    if isinstance(value, bool | np.bool_):
        raise TypeError
    return operator.index(cast(int, value))


def from_selectors(messages: Sequence[pb.Selector]) -> v.Selection:
    selectors = [_from_selector(message) for message in messages]
    if not selectors:
        return None
    # `[None]` and a region in a list stay lists: None alone says nothing, and a list of tuples may be one per sample.
    alone = len(selectors) == 1 and selectors[0] is not None and not isinstance(selectors[0], list)
    return selectors[0] if alone else selectors


def _from_selector(message: pb.Selector, *, inner: bool = False) -> v.Selector:
    forms = [message.automatic, bool(message.axes), message.HasField("weights"), bool(message.elements)]
    if sum(forms) > 1:
        raise InvalidArgument(
            "a selector is automatic or has axes, weights or elements, not several of these",
            reason=Reason.TARGET_INVALID,
        )
    if inner and not message.axes:
        raise InvalidArgument("the elements of a selector have axes only", reason=Reason.TARGET_INVALID)
    if message.automatic:
        return None
    if message.HasField("weights"):
        weights = tensors.decode(message.weights, name="weights")
        if weights.dtype.kind != "f" and not _is_bfloat(weights):
            raise InvalidArgument(
                f"the weights of a target are floats, not {weights.dtype.name}", reason=Reason.TARGET_INVALID
            )
        return cast("NDArray[np.floating]", weights)
    if message.elements:
        return cast(
            "list[v.Index | tuple[v.Index, ...]]", [_from_selector(e, inner=True) for e in message.elements]
        )
    axes = tuple(_from_axis(axis) for axis in message.axes)
    return axes[0] if len(axes) == 1 and not inner else axes  # a list of integers is an index, no region


def _from_axis(message: pb.Axis) -> v.Index:
    match message.WhichOneof("kind"):
        case "index":
            return message.index
        case "range":
            ends = message.range
            start = ends.start if ends.HasField("start") else None
            stop = ends.stop if ends.HasField("stop") else None
            if ends.HasField("step") and ends.step == 0:
                raise InvalidArgument("a range cannot have step 0", reason=Reason.TARGET_INVALID)
            return slice(start, stop, ends.step if ends.HasField("step") else None)
        case "mask":
            mask = tensors.decode(message.mask, name="mask")
            if mask.dtype.kind != "b":
                raise InvalidArgument(
                    f"a mask is of BOOL, not of {mask.dtype.name}", reason=Reason.TARGET_INVALID
                )
            return cast("NDArray[np.bool_]", mask)
    raise InvalidArgument("an axis needs an index, a range or a mask", reason=Reason.TARGET_INVALID)


def _to_baseline(name: str, baseline: v.Baseline) -> pb.Baseline:
    if isinstance(baseline, v.References):
        tensor = tensors.encode(name, np.asarray(baseline.values))
        return pb.Baseline(references=pb.References(tensor=tensor, per_sample=_switch(baseline.per_sample)))
    array = np.asarray(baseline)
    if array.ndim == 0 and array.dtype.kind in "biuf":
        return pb.Baseline(scalar=float(array))
    return pb.Baseline(tensor=tensors.encode(name, array))


def _from_baseline(name: str, message: pb.Baseline) -> v.Baseline:
    match message.WhichOneof("kind"):
        case "scalar":
            return message.scalar
        case "tensor":
            return tensors.decode(message.tensor, name=name)
        case "references":
            given = message.references
            return v.References(tensors.decode(given.tensor, name=name), given.per_sample)
    raise InvalidArgument("a baseline needs a scalar, a tensor or references", reason=Reason.BASELINE_INVALID)


def text_of(text: object) -> str:
    try:
        if isinstance(text, str) and text.encode() is not None:
            return text
    except UnicodeEncodeError:
        pass
    raise InvalidArgument(f"is text; it cannot be {shown(text)}")


def names_of(names: object) -> list[str]:
    """Names in a list; a bare one is a list of one."""
    if isinstance(names, str):
        return [text_of(names)]
    if not isinstance(names, Iterable):
        raise InvalidArgument(f"is a name or a list of names; it cannot be {shown(names)}")
    return [text_of(name) for name in names]


def _switch(value: object) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise InvalidArgument(f"is True or False; it cannot be {shown(value)}")
