"""A data set that is a parquet file: a sample for each row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_attribution.client.audit.data import Dataset
from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.server.cli.data_arrays import LABELS, alone, names_of, samples_of
from onnx_attribution.server.cli.pictures import FLOATS
from onnx_attribution.values import Array, ModelInfo, TensorInfo

if TYPE_CHECKING:
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

PARQUET = (".parquet", ".pq")
NAMES = ("id", "name", "file", "filename")
"""What the column of names is called, where no input is called so."""


def read_parquet(place: Path, info: ModelInfo, rows: slice | None = None) -> Dataset:
    """Columns by the names of the inputs, of numbers, text or lists; of a model with one input of rows, the columns of
    numbers are its features, in their order."""
    file = opened(place)
    try:
        table, first = _part(file, rows)
    except Exception as error:  # pyarrow fails in many ways on a broken file
        raise InvalidArgument(f"{str(place)!r} cannot be read: {error}", file=place) from error
    return samples_in(place, table, first, info) if len(table) else Dataset(place.name, [])


def opened(place: Path) -> ParquetFile:
    """The file, of which only the end is read. Raises: InvalidArgument: it is no parquet file."""
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise InvalidArgument("parquet files need pyarrow: pip install 'onnx-attribution[audit]'") from None
    try:
        return parquet.ParquetFile(place)
    except Exception as error:  # as above
        raise InvalidArgument(f"{str(place)!r} cannot be read: {error}", file=place) from error


def called(names: Sequence[str], info: ModelInfo) -> str | None:
    """The column that has the names of the samples."""
    return next((name for name in NAMES if name in names and name not in names_of(info)), None)


def samples_in(place: Path, table: Table, first: int, info: ModelInfo) -> Dataset:
    """The rows of a table, which are those of the file from `first` on.

    Raises:
        InvalidArgument: they are no samples of the model.
    """
    columns = {name: table[name] for name in table.column_names}
    label = next((name for name in LABELS if name in columns and name not in names_of(info)), None)
    own = called(table.column_names, info)
    ids = [str(one) for one in columns[own].to_pylist()] if own else []
    labels = columns[label].to_pylist() if label else None
    known = {one.name: one for one in info.inputs}
    features: dict[str, Sequence[str]] = {}
    arrays: dict[str, Array] = {}
    shared: dict[str, list[Array]] = {}
    for name, one in known.items():
        if name not in columns:
            continue
        rows = _stacked(name, columns[name], one, first)
        if one.batch_axis is None and info.batch != "single":
            shared[name] = [alone(_whole(row, one), one, info.batch) for row in rows]
            arrays[name] = shared[name][0]
        else:
            arrays[name] = _shaped(rows, one)
    chosen = [name for name in columns if name not in (label, own)]
    if not arrays and len(known) == 1 and len(chosen) == 1 and _is_lists(columns[chosen[0]].type):
        (only,) = info.inputs
        arrays[only.name] = _shaped(_stacked(chosen[0], columns[chosen[0]], only, first), only)
    elif not arrays and len(known) == 1:
        (only,) = info.inputs
        try:
            stacked = np.stack([np.asarray(columns[name].to_pylist(), np.float64) for name in chosen], axis=1)
            if stacked.ndim != 2:
                raise ValueError
        except (TypeError, ValueError):
            raise InvalidArgument(
                f"{place.name!r} has columns that are no numbers, and none called {only.name!r}", file=place
            ) from None
        features[only.name] = chosen
        arrays[only.name] = _shaped(stacked, only)
    found = samples_of(place.name, arrays, labels, info, ids, features, first)
    if len(found) != len(table):
        shapes = ", ".join(f"{key!r} is {list(array.shape)}" for key, array in arrays.items())
        raise InvalidArgument(
            f"{place.name!r} has rows that are no samples of the model: of {len(table)} rows {shapes}"
        )
    if not shared:
        return found
    own_arrays = [{name: rows[k] for name, rows in shared.items()} for k in range(len(found))]
    items = zip(found.items, own_arrays, strict=True)
    return replace(found, items=[replace(item, inputs={**item.inputs, **more}) for item, more in items])


def _is_lists(kind: Any) -> bool:
    """Whether a column holds lists."""
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _stacked(name: str, column: Any, info: TensorInfo, first: int) -> Array:
    """The rows of a column as one array, in which what a row lacks is NaN where the input has numbers with a point.

    Raises:
        InvalidArgument: they have different sizes, or one lacks a value.
    """
    rows = column.to_pylist()
    if _is_lists(column.type) and None in rows:
        raise InvalidArgument(f"column {name!r} has no value in row {first + rows.index(None)}")
    try:
        array = np.asarray(rows)
    except ValueError:
        raise InvalidArgument(
            f"the rows of column {name!r} have different sizes", reason=Reason.SHAPE_MISMATCH
        ) from None
    if array.dtype != object:
        return array
    lacking = [k for k, row in enumerate(array.reshape(len(rows), -1).tolist()) if None in row]
    if lacking and info.dtype not in FLOATS:
        raise InvalidArgument(f"column {name!r} has no value in row {first + lacking[0]}")
    return array.astype(np.float64) if lacking else array


def _part(file: ParquetFile, rows: slice | None) -> tuple[Table, int]:
    """The chosen rows, of which only the groups that hold some are read, and the number of the first."""
    chosen = range(file.metadata.num_rows)[rows or slice(None)]
    if not chosen:
        return file.schema_arrow.empty_table(), 0
    low, high = min(chosen), max(chosen)
    groups, at, before = [], 0, 0
    for k in range(file.metadata.num_row_groups):
        count = file.metadata.row_group(k).num_rows
        if at + count <= low:
            before += count
        elif at <= high:
            groups.append(k)
        at += count
    return file.read_row_groups(groups).take([k - before for k in chosen]), low


def _whole(row: Array, info: TensorInfo) -> Array:
    """What a row holds of an input that has no axis of samples, in the input's shape where it has as many values."""
    shape = info.shape or ()
    sizes = [int(size) for size in shape if isinstance(size, int)]
    row = np.asarray(row)
    return row.reshape(sizes) if len(sizes) == len(shape) and math.prod(sizes) == row.size else row


def _shaped(array: Array, info: TensorInfo) -> Array:
    """Lists without axes that the input has, in its shape."""
    shape = info.shape or ()
    sizes = [size for axis, size in enumerate(shape) if axis != (info.batch_axis or 0)]
    if array.ndim == 1 and len(shape) == 2:
        return array[:, None]
    if array.ndim == 2 and len(shape) > 2 and all(isinstance(size, int) for size in sizes):
        whole = [int(size or 1) for size in sizes]
        return array.reshape(len(array), *whole) if math.prod(whole) == array.shape[1] else array
    return array
