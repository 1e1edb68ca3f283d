"""Answers as lines of a table: what the columns of one sample and layer are called, for all tables that are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import Attribution

if TYPE_CHECKING:
    import pyarrow

OF_ANSWERS = (
    ("method", "string"),
    ("layer", "string"),
    ("target_tensor", "string"),
    ("target_index", "string"),
    ("value", "float64"),
    ("baseline_value", "float64"),
    ("sum", "float64"),
    ("residual", "float64"),
    ("error_estimate", "float64"),
    ("cut", "bool"),
    ("steps", "int64"),
    ("evaluations", "int64"),
    ("shape", "list<int64>"),
    ("values", "list<float32>"),
)
"""Columns by name and type. `evaluations` are those of the request, which may have been about several samples."""


def schema_of(columns: Sequence[tuple[str, str]], name: str) -> pyarrow.Schema:
    """The schema of a table, which says its own name.

    Raises:
        InvalidArgument: pyarrow is missing.
    """
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise InvalidArgument("tables need pyarrow: pip install 'onnx-attribution[audit]'") from None
    fields = [(column, _type_of(kind)) for column, kind in columns]
    return pyarrow.schema(fields, metadata={"schema": name})


def _type_of(kind: str) -> pyarrow.DataType:
    import pyarrow

    elements = kind.removeprefix("list<").removesuffix(">")
    found = pyarrow.type_for_alias(elements)
    return found if elements == kind else pyarrow.list_(found)


def lines_of(answer: Attribution, k: int) -> Iterator[dict[str, Any]]:
    """The lines of the sample `k` of an answer: one for each target and layer."""
    for one in answer.each():
        for name, layer in one.layers.items():
            values = np.asarray(layer.values[k])
            yield {
                "method": one.method,
                "layer": name,
                "target_tensor": one.target.tensor,
                "target_index": one.target.index[k],
                "value": float(one.target.value[k]),
                "baseline_value": float(one.target.baseline_value[k]),
                "sum": float(layer.sum[k]),
                "residual": float(layer.residual[k]),
                "error_estimate": float(layer.error_estimate[k]),
                "cut": layer.cut,
                "steps": one.steps,
                "evaluations": one.evaluations,
                "shape": list(values.shape),
                "values": values.ravel().astype(np.float32, copy=False),
            }
