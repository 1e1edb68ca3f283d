"""Tensors, tuples and indices as the file of cases writes them, and results nested as the tuples of a library are."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
Nested = Any
"""An array, or lists of them as deep as the library's tuples."""


def array(value: Any) -> Floats:
    """A tensor of the file."""
    if isinstance(value, dict) and "b64_f32le" in value:
        return (
            np.frombuffer(base64.b64decode(value["b64_f32le"]), "<f4")
            .reshape(value["shape"])
            .astype(np.float32)
        )
    if isinstance(value, dict) and "data" in value:
        return np.asarray(value["data"], dtype=value.get("dtype", "float32")).reshape(value["shape"])
    return np.asarray(value, dtype=np.float64)


def nested(value: Any) -> Nested:
    """A tensor, or the file's tuple of such as a list."""
    if isinstance(value, dict) and "tuple" in value:
        return [nested(part) for part in value["tuple"]]
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return [nested(part) for part in value]
    return array(value)


def is_tensor(value: Any) -> bool:
    return isinstance(value, dict) and ("data" in value or "b64_f32le" in value)


def index_of(value: Any) -> Any:
    """A target or neuron selector in our form: an int, a tuple with slices, one of these per sample in a list."""
    if value is None or isinstance(value, int):
        return value
    if is_tensor(value):
        return array(value).tolist()
    if isinstance(value, list):
        return [index_of(part) for part in value]
    if "tuple" in value:
        return tuple(index_of(part) for part in value["tuple"])
    return slice(*value["slice"])


def at(result: Nested, path: Sequence[int]) -> Floats:
    """The array at a path into nested results."""
    for k in path:
        result = result[k]
    return np.asarray(result)


def distance(actual: Floats, expected: Floats, mode: str) -> float:
    """How far apart two results are in one of the file's modes."""
    apart = np.abs(np.asarray(actual, np.float64).reshape(-1) - np.asarray(expected, np.float64).reshape(-1))
    return float(apart.sum() if mode == "sum" else apart.max(initial=0.0))


def flatten(result: Nested) -> list[Floats]:
    """The arrays of nested results in order."""
    return [a for part in result for a in flatten(part)] if isinstance(result, list) else [np.asarray(result)]


def size(result: Nested) -> float:
    """The largest number of nested results."""
    return max(float(np.abs(a).max(initial=0.0)) for a in flatten(result))
