"""The data set of `audit`: a folder of files, an npz or a parquet file, as samples with labels."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_attribution.client.audit.data import Dataset, Item, joined
from onnx_attribution.errors import AttributionError, InvalidArgument, Reason
from onnx_attribution.server.cli.files import read_file, typed
from onnx_attribution.server.cli.masks import MASKS, truths
from onnx_attribution.server.cli.pictures import FLOATS, Picture
from onnx_attribution.server.cli.pixels import SUFFIXES
from onnx_attribution.server.cli.samples import taken
from onnx_attribution.values import Array, BatchMode, ModelInfo, TensorInfo

if TYPE_CHECKING:
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

LABELS = ("label", "labels", "y", "target", "targets", "class")
"""What arrays and columns of labels are called, where no input is called so."""
PARQUET = (".parquet", ".pq")
TRIED = 8
"""Rows of which one has to be readable."""
NAMES = ("id", "name", "file", "filename")
KINDS = (".npy", ".npz", *SUFFIXES)


def read_dataset(place: Path, info: ModelInfo, picture: Picture, rows: slice | None) -> Dataset:
    """The samples of a folder, an npz or a parquet file, or the chosen ones of them.

    Raises:
        InvalidArgument: there is nothing of the kind, or an input that it has no array for.
    """
    is_part = rows is not None
    if not place.exists():
        raise InvalidArgument(f"--data {str(place)!r}: there is no such file", file=place)
    if place.is_dir():
        found = _folder(place, info, picture)
    elif place.suffix.lower() == ".npz":
        found = _npz(place, info)
    elif place.suffix.lower() in PARQUET:
        found, rows = _parquet(place, info, rows), None
    else:
        raise InvalidArgument(f"--data {str(place)!r} is no folder, .npz or .parquet file", file=place)
    items = list(found.items if rows is None else found.items[rows])
    if not items:
        raise InvalidArgument(f"--data {str(place)!r} holds no samples{' in these rows' * is_part}")
    return Dataset(found.name, items, found.features)


@dataclass(frozen=True)
class FileSource:
    """A data set that is read in parts, in any process; what is no parquet file is read once in each."""

    place: Path
    picture: Picture

    def digest(self) -> str:
        """A SHA-256 of the file, or of the names and contents of those files of a folder that samples are read of."""
        kinds = (*KINDS, ".csv")
        files = [self.place]
        if self.place.is_dir():
            files = sorted(
                one for one in self.place.rglob("*") if one.suffix.lower() in kinds and one.is_file()
            )
        found = hashlib.sha256()
        for file in files:
            if file != self.place:
                found.update(f"{file.relative_to(self.place).as_posix()}\0".encode())
            with file.open("rb") as opened:
                found.update(hashlib.file_digest(opened, "sha256").digest())
        return found.hexdigest()

    def count(self, info: ModelInfo) -> int:
        """How many samples there are. Raises: as `read_dataset`."""
        if not self._is_parquet:
            return len(self._whole(info))
        failures = []
        for row in range(TRIED):  # one row may be the only one that cannot be read
            try:
                read_dataset(self.place, info, self.picture, slice(row, row + 1))
                break
            except InvalidArgument as error:
                failures.append(error)
        else:
            raise failures[0]
        from pyarrow import parquet

        return int(parquet.read_metadata(self.place).num_rows)

    def read(self, info: ModelInfo, rows: slice) -> Dataset:
        """Some of the samples. Raises: as `read_dataset`."""
        if self._is_parquet:
            return read_dataset(self.place, info, self.picture, rows)
        whole = self._whole(info)
        return Dataset(whole.name, whole.items[rows], whole.features)

    @property
    def _is_parquet(self) -> bool:
        return self.place.suffix.lower() in PARQUET and self.place.is_file()

    def _whole(self, info: ModelInfo) -> Dataset:
        key = (str(self.place), repr(self.picture), info.digest)
        if key not in _read:
            _read.clear()
            _read[key] = read_dataset(self.place, info, self.picture, None)
        return _read[key]


_read: dict[tuple[str, str, str], Dataset] = {}
"""The data set that this process has read last."""


def read_labelled(
    place: Path, info: ModelInfo, picture: Picture, rows: slice | None
) -> tuple[dict[str, Array], Labels]:
    """The samples of a folder, an npz, a parquet file or an npy as one array for each input, and their labels, if they
    have some: one for each, or one-hot rows. An npy stays on the disk until its rows are read.

    Raises:
        InvalidArgument: as `read_dataset`, or a sample that has another shape than the first.
    """
    known = {one.name: one for one in info.inputs}
    if place.suffix.lower() == ".npy" and len(known) == 1:
        (only,) = info.inputs
        try:
            whole = np.load(place, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # numpy fails in many ways on a broken file
            raise InvalidArgument(f"{str(place)!r} cannot be read: {error}", file=place) from error
        kind = only.dtype if only.dtype != "bfloat16" else "float32"
        arrays = {only.name: whole if whole.dtype.name == kind else typed(np.asarray(whole), only)}
        return taken(arrays, known, info.batch, rows), None
    if place.suffix.lower() == ".npz" and place.is_file():
        arrays, labels, _ = _arrays(place, info)
        arrays, count = _whole(place.name, arrays, info)
        told: Labels = None
        if labels is not None and labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "biuf":
            told = labels
        elif labels is not None:
            told = [_label(one) for one in _one_each(place.name, labels, count)]
        return taken(arrays, known, info.batch, rows), told if rows is None or told is None else told[rows]
    found = read_dataset(place, info, picture, rows)
    parts = {name: [item.inputs[name] for item in found.items] for name in found.items[0].inputs}
    arrays = {
        name: given[0]
        if known[name].batch_axis is None and info.batch != "single"
        else joined(name, given, known[name], info.batch)
        for name, given in parts.items()
    }
    own = [item.label for item in found.items]
    return arrays, None if all(one is None for one in own) else own


Labels = list[int | str | None] | Array | None


def indices_of(labels: Sequence[int | str | None], classes: Sequence[str]) -> list[int]:
    """Labels as indices, of names those of the classes. Raises: InvalidArgument: a sample has none, or no class's."""
    found = []
    for k, label in enumerate(labels):
        if label is None:
            raise InvalidArgument(f"sample {k} has no label; --labels gives one for each")
        if isinstance(label, str):
            if label not in classes:
                known = f"the classes are {', '.join(classes[:10])}{', ...' * (len(classes) > 10)}"
                raise InvalidArgument(
                    f"the label {label!r} of sample {k} is no class; "
                    + (known if classes else "the model does not name its classes: give their indices"),
                    reason=Reason.TARGET_INVALID,
                )
            label = list(classes).index(label)
        found.append(label)
    return found


# --- a folder


def _folder(place: Path, info: ModelInfo, picture: Picture) -> Dataset:
    """A sample for each file; labels of the csv beside them, or the names of the folders they lie in."""
    tables = sorted(place.glob("*.csv"))
    if len(tables) > 1:
        raise InvalidArgument(f"{str(place)!r} has several csv files; one says the labels: file,label")
    labels = _csv(tables[0]) if tables else {}
    files = sorted(one for one in place.rglob("*") if one.suffix.lower() in KINDS and one.is_file())
    items = []
    for file in files:
        name = file.relative_to(place).as_posix()
        if labels and not {name, file.name, file.stem} & labels.keys():
            continue
        own = next((labels[one] for one in (name, file.name, file.stem) if one in labels), None)
        if not labels and file.parent != place:
            own = file.parent.name
        items.append(Item(name, _sample(file, info, picture), _label(own)))
    return Dataset(place.name, items)


def _csv(file: Path) -> dict[str, str]:
    """Label by file, of `file,label`, with or without a line of titles."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            lines = [line for line in csv.reader(opened) if len(line) > 1]
    except (OSError, ValueError, csv.Error) as error:
        raise InvalidArgument(f"{str(file)!r} cannot be read: {error}", file=file) from error
    if lines and lines[0][1].strip().lower() in LABELS:
        lines = lines[1:]
    return {line[0].strip(): line[1].strip() for line in lines}


def _sample(file: Path, info: ModelInfo, picture: Picture) -> dict[str, Array]:
    """The inputs of one file: those of its names in an npz, else the only input's."""
    if file.suffix.lower() == ".npz" and len(info.inputs) > 1:
        return {
            one.name: _alone(read_file(f"{file}:{one.name}", one, picture), one, info.batch)
            for one in info.inputs
        }
    if len(info.inputs) != 1:
        listed = ", ".join(repr(one.name) for one in info.inputs)
        raise InvalidArgument(
            f"{file.name!r}: the model has {len(info.inputs)} inputs ({listed}); a sample is an npz of all of them",
            file=file,
        )
    (one,) = info.inputs
    return {one.name: _alone(read_file(str(file), one, picture), one, info.batch)}


def _alone(array: Array, info: TensorInfo, batch: BatchMode | None) -> Array:
    return joined(info.name, [typed(array, info)], info, batch)


def _label(text: object) -> int | str | None:
    if text is None or text == "":
        return None
    if isinstance(text, int | np.integer):
        return int(text)
    if isinstance(text, float | np.floating):
        return int(text) if float(text).is_integer() else None
    words = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return int(words) if words.removeprefix("-").isdecimal() else words


# --- an npz


def _npz(place: Path, info: ModelInfo) -> Dataset:
    arrays, labels, masks = _arrays(place, info)
    found = _of_arrays(place.name, arrays, labels, info)
    if masks is None:
        return found
    if not masks.ndim or len(masks) != len(found):
        raise InvalidArgument(
            f"{place.name!r} holds {len(found)} samples, and masks of shape {list(masks.shape)}"
        )
    known = truths(masks, f"{place.name}:masks")
    return replace(found, items=[replace(one, mask=known[k]) for k, one in enumerate(found.items)])


def _arrays(place: Path, info: ModelInfo) -> tuple[dict[str, Array], Any, Any]:
    """Arrays by the names of the inputs; `x` or any other name where there is one input and one array that fits. And
    the labels and the masks, if there are some."""
    try:
        with place.open("rb") as file:  # np.load leaves a broken one open
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise InvalidArgument(
                    f"{str(place)!r} holds one array, as .npy files do; name it .npy", file=place
                )
            keys = list(loaded.files)
            labels = next((loaded[key] for key in LABELS if key in keys and key not in _names(info)), None)
            masks = next((loaded[key] for key in MASKS if key in keys and key not in _names(info)), None)
            others = [key for key in keys if key in _names(info)]
            if not others:
                others = [_only_array(place, keys, loaded, info)]
            arrays = {name: loaded[key] for name, key in zip(_named(info, others), others, strict=True)}
    except AttributionError:
        raise
    except Exception as error:  # zipfile, zlib and numpy fail in many ways on a broken file
        raise InvalidArgument(f"{str(place)!r} cannot be read: {error}", file=place) from error
    return arrays, labels, masks


def _names(info: ModelInfo) -> list[str]:
    return [one.name for one in info.inputs]


def _named(info: ModelInfo, keys: Sequence[str]) -> list[str]:
    return [key if key in _names(info) else info.inputs[0].name for key in keys]


def _only_array(place: Path, keys: Sequence[str], arrays: Mapping[str, Array], info: ModelInfo) -> str:
    """The key of the samples in a file that names no input."""
    fitting = []
    if len(info.inputs) == 1:
        (one,) = info.inputs
        rank = len(one.shape or ())
        fitting = [
            key for key in keys if arrays[key].ndim in (rank, rank + 1) and key not in (*LABELS, *MASKS)
        ]
        fitting = [key for key in fitting if arrays[key].ndim == rank] or fitting
    if len(fitting) != 1:
        raise InvalidArgument(
            f"{place.name!r} has the arrays {', '.join(keys)}; name them as the inputs: "
            f"{', '.join(map(repr, _names(info)))}, and labels 'labels'",
            file=place,
        )
    return fitting[0]


def _of_arrays(
    name: str,
    arrays: Mapping[str, Array],
    labels: Any,
    info: ModelInfo,
    ids: Sequence[str] = (),
    features: Mapping[str, Sequence[str]] | None = None,
    first: int = 0,
) -> Dataset:
    whole, count = _whole(name, arrays, info)
    known = {one.name: one for one in info.inputs}
    axes = {key: known[key].sample_axis(array.shape, info.batch) for key, array in whole.items()}
    if labels is not None:
        labels = _one_each(name, labels, count)

    def items() -> Iterator[Item]:
        for k in range(count):
            one = taken(whole, known, info.batch, slice(k, k + 1)) if count > 1 or _any(axes) else whole
            label = None if labels is None else _label(labels[k])
            yield Item(ids[k] if ids else str(first + k), one, label)

    return Dataset(name, list(items()), features or {})


def _whole(name: str, arrays: Mapping[str, Array], info: ModelInfo) -> tuple[dict[str, Array], int]:
    """The arrays in the types of the inputs, and how many samples they hold."""
    known = {one.name: one for one in info.inputs}
    if missing := [one for one in known if one not in arrays]:
        raise InvalidArgument(f"{name!r} has no array for input {missing[0]!r}")
    whole = {
        key: joined(key, [typed(array, known[key])], known[key], info.batch) for key, array in arrays.items()
    }
    axes = {key: known[key].sample_axis(array.shape, info.batch) for key, array in whole.items()}
    sizes = {key: whole[key].shape[axis] for key, axis in axes.items() if axis is not None}
    counts = set(sizes.values())
    if len(counts) > 1:
        listed = ", ".join(f"{size} of {key!r} along axis {axes[key]}" for key, size in sizes.items())
        raise InvalidArgument(f"the arrays of {name!r} hold different numbers of samples: {listed}")
    return whole, counts.pop() if counts else 1


def _one_each(name: str, labels: Any, count: int) -> list[object]:
    """Labels as Python has them. Raises: InvalidArgument: they are not one for each sample, such as one-hot rows."""
    found = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if isinstance(labels, np.ndarray) and labels.ndim == 2 and labels.shape[1] == 1:
        found = [one for (one,) in found]
    if not isinstance(found, list) or any(isinstance(one, list | dict) for one in found):
        raise InvalidArgument(
            f"the labels of {name!r} are not one for each sample: give indices or names of classes; of one-hot rows, "
            "labels.argmax(axis=1)"
        )
    if len(found) != count:
        raise InvalidArgument(f"{name!r} holds {count} samples and {len(found)} labels")
    return found


def _any(axes: Mapping[str, int | None]) -> bool:
    return any(axis is not None for axis in axes.values())


# --- a parquet file


def _parquet(place: Path, info: ModelInfo, rows: slice | None = None) -> Dataset:
    """Columns by the names of the inputs, of numbers, text or lists; of a model with one input of rows, the columns of
    numbers are its features, in their order."""
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise InvalidArgument("parquet files need pyarrow: pip install 'onnx-attribution[audit]'") from None
    try:
        table, first = _part(parquet.ParquetFile(place), rows)
    except Exception as error:  # as above
        raise InvalidArgument(f"{str(place)!r} cannot be read: {error}", file=place) from error
    if not len(table):
        return Dataset(place.name, [])
    columns = {name: table[name] for name in table.column_names}
    label = next((name for name in LABELS if name in columns and name not in _names(info)), None)
    called = next((name for name in NAMES if name in columns and name not in _names(info)), None)
    ids = [str(one) for one in columns[called].to_pylist()] if called else []
    labels = columns[label].to_pylist() if label else None
    known = {one.name: one for one in info.inputs}
    features: dict[str, Sequence[str]] = {}
    arrays: dict[str, Array] = {}
    for name, one in known.items():
        if name in columns:
            arrays[name] = _shaped(_stacked(name, columns[name], one, first), one)
    chosen = [name for name in columns if name not in (label, called)]
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
    found = _of_arrays(place.name, arrays, labels, info, ids, features, first)
    if len(found) != len(table):
        shapes = ", ".join(f"{key!r} is {list(array.shape)}" for key, array in arrays.items())
        raise InvalidArgument(
            f"{place.name!r} has rows that are no samples of the model: of {len(table)} rows {shapes}"
        )
    return found


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
