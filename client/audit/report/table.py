"""`attributions.parquet`: one line for each sample, method and layer, with the map of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnx_attribution.client.audit.columns import OF_ANSWERS, schema_of
from onnx_attribution.client.audit.run import Audit

COLUMNS = (("item", "int64"), ("id", "string"), ("label", "int64"), ("predicted", "int64"), *OF_ANSWERS)
LINES = 64
"""Samples that are written at once."""


def write_table(audit: Audit, path: Path) -> None:
    """Writes the table. Hidden layers have their sums and no values.

    Raises:
        InvalidArgument: pyarrow is missing.
    """
    schema = schema_of(COLUMNS, "onnx-attribution/attributions/1")
    import pyarrow
    from pyarrow import parquet

    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        waiting: list[dict[str, Any]] = []
        for k in range(len(audit.data)):
            waiting.extend(_lines(audit, k))
            if (k + 1) % LINES == 0 or k + 1 == len(audit.data):
                writer.write_table(pyarrow.Table.from_pylist(waiting, schema=schema))
                waiting = []


def _lines(audit: Audit, k: int) -> Iterator[dict[str, Any]]:
    told = audit.item(k)
    for method, numbers in told["methods"].items():
        if "error" in numbers:
            continue
        maps = audit.maps(k, method)
        for layer, one in numbers["layers"].items():
            yield {
                "item": k,
                "id": told["id"],
                "label": told["label"],
                "predicted": told["prediction"] and told["prediction"]["index"],
                "method": method,
                "layer": layer,
                "target_tensor": numbers["target"]["tensor"],
                "target_index": numbers["target"]["index"],
                "value": numbers["target"]["value"],
                "baseline_value": numbers["target"]["baseline_value"],
                "sum": one["sum"],
                "residual": one["residual"],
                "error_estimate": one["error_estimate"],
                "cut": one["cut"],
                "steps": numbers["steps"],
                "evaluations": numbers["evaluations"],
                "shape": one["shape"],
                "values": maps[layer].ravel() if layer in maps else None,
            }
