"""Methods to messages and back: a field of a message is called as the parameter that it holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from google.protobuf import struct_pb2
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from onnx_attribution import methods
from onnx_attribution.errors import InvalidArgument, Unsupported
from onnx_attribution.methods import Custom, Method, MethodInfo, Parameter
from onnx_attribution.parameters import EXACT, Kind, is_whole, parameters_of, shown
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import tensors
from onnx_attribution.register import method_named

__all__ = ["from_info", "from_method", "to_info", "to_method"]

ONEOF = "method"
CUSTOM = "custom"


def to_method(method: Method, message: pb.AttributeRequest) -> None:
    """Fills in the request's method: the message of its name, or `custom` where there is none.

    Raises:
        InvalidArgument: a value that has no form on the wire.
    """
    names = [one.name for one in pb.AttributeRequest.DESCRIPTOR.oneofs_by_name[ONEOF].fields]
    if isinstance(method, Custom) or method.name not in names:
        message.custom.name = _text(method.name)
        message.custom.parameters.update({_text(n): _plain(n, x) for n, x in method.parameters().items()})
        return
    part = getattr(message, method.name)
    part.SetInParent()
    for name, value in method.parameters().items():
        if value is not None:
            _set(part, part.DESCRIPTOR.fields_by_name[name], value)


def from_method(message: pb.AttributeRequest) -> Method:
    """The method of a request.

    Raises:
        InvalidArgument: there is none, or a parameter is out of its bounds; `violations` names its field.
        Unsupported: a word of a newer protocol.
    """
    which = message.WhichOneof(ONEOF)
    if which is None:
        known = ", ".join(methods.registered())
        text = f"a method is required, one of: {known}"
        raise InvalidArgument(text, violations={ONEOF: text})
    if which == CUSTOM:
        return _from_custom(message.custom)
    part = getattr(message, which)
    given, found = dict[str, Any](), dict[str, str]()
    for one in part.DESCRIPTOR.fields:
        if _is_set(part, one):
            given[one.name] = _value(part, one, f"{which}.{one.name}", found)
    if found:
        raise InvalidArgument("; ".join(found.values()), violations=found)
    return _made(which, given, which)


def _from_custom(message: pb.CustomMethod) -> Method:
    cls, place = method_named(message.name), f"{CUSTOM}.parameters"
    kinds = {one.name: one.kind for one in parameters_of(cls)}
    given, found = dict[str, Any](), dict[str, str]()
    for name, value in message.parameters.fields.items():
        try:
            plain = MessageToDict(value)
        except ValueError:
            found[f"{place}.{name}"] = f"{name} holds NaN or an infinite number, which JSON has not"
            continue
        arrays = kinds.get(name) == "arrays" and isinstance(plain, dict)
        given[name] = {n: _array(item) for n, item in plain.items()} if arrays else plain
    if found:
        raise InvalidArgument("; ".join(found.values()), violations=found)
    return _made(message.name, given, place)


def _array(given: Any) -> Any:
    """The array of lists in JSON, which has no integers; lists of different lengths as they are."""
    try:
        array = np.asarray(given)
    except ValueError:
        return given
    return array.astype(np.int64) if is_whole(array) else array


def _made(name: str, given: Mapping[str, Any], place: str) -> Method:
    try:
        return methods.make(name, given)
    except InvalidArgument as error:
        violations = {f"{place}.{field}": text for field, text in error.violations.items()}
        raise InvalidArgument(
            error.message, reason=error.reason, violations=violations, **error.metadata
        ) from None


def _is_set(part: Message, one: FieldDescriptor) -> bool:
    return part.HasField(one.name) if one.has_presence else bool(getattr(part, one.name))


def _is_map(one: FieldDescriptor) -> bool:
    return one.message_type is not None and one.message_type.GetOptions().map_entry


def _set(part: Message, one: FieldDescriptor, value: Any) -> None:
    if one.enum_type is not None:
        setattr(part, one.name, _numbers(one.enum_type)[value])
    elif isinstance(value, Mapping):
        for name, item in value.items():
            held = getattr(part, one.name)[_text(name)]
            if isinstance(held, pb.Tensor):
                held.CopyFrom(tensors.encode(name, np.asarray(item)))
            else:
                held.sizes.extend(item)
    elif hasattr(held := getattr(part, one.name), "extend"):
        held[:] = value if isinstance(value, tuple) else [value]
    else:
        try:
            setattr(part, one.name, value)
        except (TypeError, ValueError):
            raise InvalidArgument(f"{one.name} is {value!r}, which the wire cannot hold") from None


def _value(part: Message, one: FieldDescriptor, place: str, found: dict[str, str]) -> Any:
    """What a field holds; what is wrong with it goes to `found`, by its place."""
    held = getattr(part, one.name)
    if one.enum_type is not None:
        words = {number: word for word, number in _numbers(one.enum_type).items()}
        if held not in words:
            message = f"{one.name} number {held} is not known here; known are: {', '.join(words.values())}"
            raise Unsupported(message, number=held)
        return words[held]
    if _is_map(one):
        parts = {}
        for name, item in held.items():
            try:
                parts[name] = (
                    tensors.decode(item, name=name) if isinstance(item, pb.Tensor) else tuple(item.sizes)
                )
            except InvalidArgument as error:
                found[f"{place}.{name}"] = error.message
        return parts
    return held


def _numbers(enum: EnumDescriptor) -> dict[str, int]:
    """The words of an enum: RIEMANN_LEFT of QUADRATURE_RIEMANN_LEFT, in lower case; the unspecified is none."""
    prefix = "".join(f"_{c}" if c.isupper() else c.upper() for c in enum.name).lstrip("_") + "_"
    return {one.name.removeprefix(prefix).lower(): one.number for one in enum.values if one.number}


def _plain(name: str, value: Any) -> Any:
    """The value of a parameter as JSON has it. Raises: InvalidArgument for one that it cannot hold."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {_text(key): _plain(name, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if value is None or isinstance(value, bool) or _is_text(value):
        return value
    if isinstance(value, int) and abs(value) <= EXACT:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InvalidArgument(
        f"{name} holds {shown(value)}; a message holds text, truth values, finite numbers, integers up to 2**53, "
        "and lists and dicts of these",
        option=name,
    )


def _text(name: Any) -> str:
    if not _is_text(name):
        raise InvalidArgument(f"a name is text; it cannot be {shown(name)}")
    return str(name)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value == value.encode(errors="ignore").decode()


# --- what is known of methods


def to_info(info: MethodInfo) -> pb.MethodInfo:
    """What is known of a method, as a message."""
    return pb.MethodInfo(
        parameters=[_to_parameter(one) for one in info.parameters],
        **{name: getattr(info, name) for name in _info_fields()},
    )


def from_info(message: pb.MethodInfo) -> MethodInfo:
    """What a server says of a method. Raises: Unsupported for a kind of parameter of a newer protocol."""
    parameters = tuple(_from_parameter(one) for one in message.parameters)
    return MethodInfo(parameters=parameters, **{name: getattr(message, name) for name in _info_fields()})


def _info_fields() -> list[str]:
    return [one.name for one in pb.MethodInfo.DESCRIPTOR.fields if one.name != "parameters"]


_BOUNDS = ("at_least", "above", "at_most")


def _to_parameter(one: Parameter) -> pb.Parameter:
    default = struct_pb2.Value()
    if one.default is None or isinstance(one.default, Mapping):
        default.null_value = struct_pb2.NULL_VALUE
    elif isinstance(one.default, bool):
        default.bool_value = one.default
    elif isinstance(one.default, str):
        default.string_value = one.default
    else:
        default.number_value = one.default
    return pb.Parameter(
        name=one.name,
        kind=cast("pb.Parameter.Kind", _numbers(pb.Parameter.Kind.DESCRIPTOR)[one.kind]),
        default=default,
        help=one.help,
        optional=one.optional,
        choices=one.choices,
        accuracy=one.accuracy,
        **{bound: getattr(one, bound) for bound in _BOUNDS},
    )


def _from_parameter(message: pb.Parameter) -> Parameter:
    kinds = {number: word for word, number in _numbers(pb.Parameter.Kind.DESCRIPTOR).items()}
    if message.kind not in kinds:
        raise Unsupported(f"parameter kind number {message.kind} is not known here", number=message.kind)
    kind = cast("Kind", kinds[message.kind])
    default: Any = {} if kind in ("arrays", "sizes") else MessageToDict(message.default)
    return Parameter(
        name=message.name,
        kind=kind,
        default=int(default) if kind == "integer" and default is not None else default,
        help=message.help,
        optional=message.optional,
        choices=tuple(message.choices),
        accuracy=message.accuracy,
        at_least=_bound(message, "at_least"),
        above=_bound(message, "above"),
        at_most=_bound(message, "at_most"),
    )


def _bound(message: pb.Parameter, name: str) -> float | None:
    return getattr(message, name) if message.HasField(name) else None
