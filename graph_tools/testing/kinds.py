"""Element types, arrays and tolerances of the checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Evaluate = Callable[[Arrays], list[Array]]
Prepare = Callable[[onnx.ModelProto], Evaluate]
"""From a model to what runs it: from its inputs by name to its outputs, in order."""

FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
NARROW = FLOATS[:3]
FLOAT32, FLOAT16, MEASURED = 1e-4, 2e-2, 2e-2
"""Tolerances, relative to the size of what is compared: our float32 graph against float64; a float16 graph, which
rounds every value to 3 digits; any graph against differences of float32 values over a step of 1e-2."""


def elem_type(info: onnx.ValueInfoProto) -> int:
    return int(info.type.tensor_type.elem_type)
