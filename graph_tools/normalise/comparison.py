"""Whether two models have the same outputs, and which differs by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnx_attribution.errors import ModelError
from onnx_attribution.graph_tools.ir.runner import Runner
from onnx_attribution.values import Array

TOLERANCE = 1e-4  # relative to the largest magnitude; kernels chosen differently differ by 1e-6 or so


def same_values(found: Array, wanted: Array, tolerance: float = TOLERANCE, floor: float = 0.0) -> bool:
    """Whether two outputs agree: shape, NaNs, and numbers relative to the largest magnitude, or to `floor`."""
    if not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray):
        return str(found) == str(wanted)
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if wanted.dtype.kind not in "fV" or wanted.size == 0:
        return bool(np.array_equal(found, wanted))
    left, right = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(right)
    if not np.array_equal(finite, np.isfinite(left)) or not np.array_equal(
        left[~finite], right[~finite], equal_nan=True
    ):
        return False
    if wanted.dtype.itemsize < 4:
        tolerance = max(tolerance, 2e-2)  # half precision: eleven bits, summed in any order
    scale = max(float(np.abs(right[finite]).max(initial=0)), floor, 1e-6)
    return bool(np.abs(left[finite] - right[finite]).max(initial=0) <= tolerance * scale)


def difference(
    model: onnx.ModelProto,
    run: Runner,
    samples: Sequence[Mapping[str, Array]],
    expected: Sequence[dict[str, Array]],
    loose: bool = False,
) -> str:
    """Which output is not as expected on a sample, and by how much; "" where all are.

    With `loose` an output may have more or fewer axes of size 1.
    """
    for sample, wanted in zip(samples, expected, strict=True):
        try:
            found = run(model, dict(sample), list(wanted))
        except ModelError as error:
            return error.message
        for name, values in wanted.items():
            same = _alike(found[name], values) if loose else found[name]
            if not same_values(same, values):
                return f"output {name!r} {_by_how_much(same, values)}"
    return ""


def restless(
    model: onnx.ModelProto,
    run: Runner,
    samples: Sequence[Mapping[str, Array]],
    expected: Sequence[dict[str, Array]],
) -> list[str]:
    """The outputs that are something else when the model is run again."""
    found: dict[str, None] = {}
    for sample, wanted in zip(samples, expected, strict=True):
        again = run(model, {name: np.copy(array) for name, array in sample.items()}, list(wanted))
        found |= {name: None for name, values in wanted.items() if not same_values(again[name], values)}
    return list(found)


def _alike(found: Array, wanted: Array) -> Array:
    """An array in the shape of another one, where they differ by axes of size 1."""
    if not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray):
        return found
    same = [d for d in found.shape if d != 1] == [d for d in wanted.shape if d != 1]
    return found.reshape(wanted.shape) if same else found


def _by_how_much(found: Array, wanted: Array) -> str:
    if not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray):
        return "holds other entries"
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return f"is {found.dtype.name} {list(found.shape)}, not {wanted.dtype.name} {list(wanted.shape)}"
    if wanted.dtype.kind not in "fV":
        return f"has {int(np.count_nonzero(found != wanted))} other elements of {wanted.size}"
    left, right = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(left) & np.isfinite(right)
    far, size = np.abs(left - right)[finite].max(initial=0), np.abs(right[finite]).max(initial=0)
    return f"by {far:.3g}, where its largest element is {size:.3g}"
