"""Arrays as JSON and back, exactly: a number that its type cannot hold is refused, and none that is not finite is lost.

JSON has no NaN and no infinity: "NaN", "Infinity" and "-Infinity" stand for them, as in the JSON of protocol buffers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.parameters import shown
from onnx_attribution.proto import tensors
from onnx_attribution.values import Array

__all__ = ["from_json", "number", "parsed", "shaped", "switch", "to_json", "written"]

WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
EXACT = 2.0**53  # integers beyond are not all float64


def parsed(body: bytes) -> dict[str, Any]:
    """The object that a body holds. Raises: InvalidArgument."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise InvalidArgument(f"the body is no JSON: {why}") from None
    if not isinstance(found, dict):
        raise InvalidArgument(f"the body is an object in JSON, not {shown(found)}")
    return found


def written(value: object) -> bytes:
    """The body that holds a value."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def from_json(name: str, value: object, datatype: str) -> Array:
    """The array of lists of numbers, truth values or texts.

    Raises:
        InvalidArgument: lists of different lengths, or a value that the type cannot hold.
    """
    if datatype not in tensors.DATATYPES and datatype != "BYTES":
        raise _refusal(name, f"{datatype} has no form in JSON; send it as binary data")
    try:
        array = np.asarray(value) if datatype != "BYTES" else np.asarray(value, object)
    except (ValueError, OverflowError, RecursionError):
        raise InvalidArgument(
            f"tensor {name!r}: the lists are of different lengths, or too deep",
            reason=Reason.SHAPE_MISMATCH, input=name,
        ) from None  # fmt: skip
    if datatype == "BYTES":
        return _all(name, array, lambda item: isinstance(item, str), "texts")
    dtype = tensors.DATATYPES[datatype]
    if not array.size:
        return array.astype(dtype)
    if dtype.kind == "b":
        if array.dtype.kind != "b":
            raise _refusal(name, f"expected true and false, got {_example(array)}")
        return array
    if dtype.kind in "iu":
        return _integers(name, value, array, dtype)
    if array.dtype.kind not in "iuf":
        array = _floats(name, np.asarray(value, object))
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if (np.isfinite(array) & ~np.isfinite(cast)).any():
        raise _refusal(name, f"a number is too large for {datatype}")
    return cast


def shaped(name: str, array: Array, shape: Sequence[int]) -> Array:
    """The array in a shape, which it has already, or of which it is the flat values."""
    if array.shape == tuple(shape) or (
        array.ndim == 1 and array.size == math.prod(shape) and min(shape, default=0) >= 0
    ):
        return array.reshape(shape)
    raise InvalidArgument(
        f"tensor {name!r}: expected values for {list(shape)}, got {list(array.shape)}",
        reason=Reason.SHAPE_MISMATCH, input=name,
    )  # fmt: skip


def to_json(array: Array) -> Any:
    """The lists of an array."""
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "f":
        return array.tolist()
    if np.isfinite(array).all():
        return array.tolist()
    flat = np.array([number(item) for item in array.ravel().tolist()], object)
    return flat.reshape(array.shape).tolist()


def number(value: float) -> float | str:
    """A number, or the word for it."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def switch(given: Mapping[str, Any], name: str) -> bool:
    """A truth value of an object, false where it has none. Raises: InvalidArgument."""
    found = given.get(name, False)
    if not isinstance(found, bool):
        raise InvalidArgument(f"{name} is true or false, not {shown(found)}")
    return found


def _integers(name: str, value: object, array: Array, dtype: np.dtype[Any]) -> Array:
    if array.dtype.kind == "f" and (np.abs(array) <= EXACT).all() and (array == np.trunc(array)).all():
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":  # or integers that no type of numpy holds together
        array = _all(
            name, np.asarray(value, object), lambda item: type(item) is int, f"integers for {dtype.name}"
        )
    bounds = np.iinfo(dtype)
    if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
        raise _refusal(name, f"a number is out of the range of {dtype.name}")
    return array.astype(dtype)


def _floats(name: str, array: Array) -> Array:
    """Numbers among which there are words."""

    def is_number(item: object) -> bool:
        return (isinstance(item, int | float) and not isinstance(item, bool)) or (
            isinstance(item, str) and item in WORDS
        )

    checked = _all(name, array, is_number, "numbers")
    try:
        found = [WORDS[item] if isinstance(item, str) else float(item) for item in checked.ravel().tolist()]
    except OverflowError:
        raise _refusal(name, "a number is too large") from None
    return np.array(found, np.float64).reshape(checked.shape)


def _all(name: str, array: Array, fits: Any, what: str) -> Array:
    for item in array.ravel().tolist():
        if not fits(item):
            raise _refusal(name, f"expected {what}, got {_text(item)}")
    return array


def _example(array: Array) -> str:
    return f"such as {_text(array.ravel().tolist()[0])}"


def _text(item: object) -> str:
    """An item as JSON says it."""
    kinds = {dict: "an object", list: "a list", type(None): "null"}
    return kinds.get(type(item)) or shown(item)


def _refusal(name: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"tensor {name!r}: {what}", reason=Reason.DTYPE_MISMATCH, input=name)
