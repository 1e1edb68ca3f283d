"""A data set that is read in parts, by whatever process needs them, and that must stay as it was meanwhile."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from onnx_attribution.client.audit.data import Item, joined
from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.server.cli.data_arrays import arrays_of, count_of, keys_of, one_each, samples_of
from onnx_attribution.server.cli.data_folder import KINDS, labelled, names_in, read_sample
from onnx_attribution.server.cli.data_lazy import Lazy, arrays_in, check_sound
from onnx_attribution.server.cli.data_parquet import PARQUET, called, opened, samples_in
from onnx_attribution.server.cli.files import typed
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.scale.shards import Sample, Unread
from onnx_attribution.values import Array, ModelInfo

if TYPE_CHECKING:
    from pyarrow import Table

STEP = 128
"""Rows that are read of a parquet file at a time."""


@dataclass(frozen=True)
class Seen:
    """A file as it was when the data set was looked at, by its name in the folder; the data set itself has none."""

    name: str
    size: int
    time: int
    sha256: str


@dataclass(frozen=True)
class FileSource:
    """A folder, an npz or a parquet file, of which only the samples that are asked for are read."""

    place: Path
    picture: Picture
    files: tuple[Seen, ...]
    sha256: str

    @classmethod
    def of(cls, place: Path, picture: Picture) -> Self:
        """The data set as it is now, of which every byte is read once.

        Raises:
            InvalidArgument: there is none, or it is damaged.
        """
        if not place.exists():
            raise InvalidArgument(f"--data {str(place)!r}: there is no such file", file=place)
        if not place.is_dir() and place.suffix.lower() not in (".npz", *PARQUET):
            raise InvalidArgument(f"--data {str(place)!r} is no folder, .npz or .parquet file", file=place)
        names = names_in(place, (*KINDS, ".csv")) if place.is_dir() else [""]
        try:
            files = tuple(_seen(place, name) for name in names)
            if place.suffix.lower() == ".npz" and zipfile.is_zipfile(place):
                check_sound(place)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise InvalidArgument(f"{str(place)!r} cannot be read: {error}", file=place) from error
        found = hashlib.sha256()
        for file in files:
            found.update(f"{file.name}\0{file.sha256}\0".encode())
        return cls(place.absolute(), picture, files, found.hexdigest())

    def digest(self) -> str:
        """A SHA-256 of the file, or of the names and contents of those files of a folder that samples are read of."""
        return self.sha256

    def count(self, info: ModelInfo) -> int:
        """How many samples there are. Raises: InvalidArgument: none, or not for the inputs of the model."""
        if not (found := self._reader(info).count):
            raise InvalidArgument(f"--data {str(self.place)!r} holds no samples")
        return found

    def read(self, info: ModelInfo, rows: slice) -> Sequence[Sample]:
        """Some of the samples, each of which may be one that cannot be read.

        Raises:
            InvalidArgument: the data set has changed since it was looked at.
        """
        reader = self._reader(info)
        chosen = range(reader.count)[rows]
        files = [self.files[k] for k in reader.files(chosen)]
        for file in files:
            self._check(file)
        try:
            return reader.read(chosen)
        except AttributionError:
            raise
        except Exception as error:  # as below
            raise InvalidArgument(f"{str(self.place)!r} cannot be read: {error}", file=self.place) from error
        finally:
            for file in files:  # it may have changed while it was read
                self._check(file)

    def _reader(self, info: ModelInfo) -> Reader:
        key = (str(self.place), self.sha256, repr(self.picture), info.digest)
        if getattr(_here, "key", None) != key:
            for file in self.files if not self.place.is_dir() else ():
                self._check(file)
            _here.reader, _here.key = _reader_of(self, info), key
        found: Reader = _here.reader
        return found

    def _check(self, file: Seen) -> None:
        """Raises: InvalidArgument: the file is not as it was."""
        place = self.place / file.name
        try:
            now = place.stat()
            if (now.st_size, now.st_mtime_ns) == (file.size, file.time):
                return
            known = (str(place), now.st_size, now.st_mtime_ns, file.sha256)
            if known in _same or (
                now.st_size == file.size and _seen(self.place, file.name).sha256 == file.sha256
            ):
                _same.add(known)
                return
        except OSError as error:
            raise InvalidArgument(
                f"{str(place)!r} cannot be read any more: {error.strerror}", file=place
            ) from error
        raise InvalidArgument(
            f"{str(place)!r} has changed since the batch began: put back what it was, or begin once more with --anew",
            file=place,
        )


_here = threading.local()
"""The data set that this thread has read last."""
_same: set[tuple[str, int, int, str]] = set()
"""Files that were written again and have the same bytes."""


def _seen(place: Path, name: str) -> Seen:
    file = place / name
    with file.open("rb") as reading:
        now = file.stat()
        return Seen(name, now.st_size, now.st_mtime_ns, hashlib.file_digest(reading, "sha256").hexdigest())


class Reader(Protocol):
    """A data set for the inputs of one model."""

    count: int

    def files(self, chosen: range) -> Sequence[int]:
        """Which of the files have these samples."""
        ...

    def read(self, chosen: range) -> list[Sample]: ...


def _reader_of(source: FileSource, info: ModelInfo) -> Reader:
    if source.place.is_dir():
        return _Folder(source, info)
    if source.place.suffix.lower() == ".npz":
        return _Arrays(source.place, info)
    return _Rows(source.place, info)


class _Folder:
    def __init__(self, source: FileSource, info: ModelInfo) -> None:
        self._source, self._info = source, info
        known = {one.name: k for k, one in enumerate(source.files)}
        self._tables = [k for name, k in known.items() if name.lower().endswith(".csv") and "/" not in name]
        for k in self._tables:
            source._check(source.files[k])
        named = [name for name in known if not name.lower().endswith(".csv")]
        self._samples = [(known[name], name, label) for name, label in labelled(source.place, named)]
        self.count = len(self._samples)

    def files(self, chosen: range) -> Sequence[int]:
        return [*self._tables, *(self._samples[k][0] for k in chosen)]

    def read(self, chosen: range) -> list[Sample]:
        return [self._read(k) for k in chosen]

    def _read(self, k: int) -> Sample:
        _, name, label = self._samples[k]
        source = self._source
        try:
            return Item(name, read_sample(source.place / name, self._info, source.picture), label)
        except InvalidArgument as error:
            return Unread(name, label, error)


class _Arrays:
    def __init__(self, place: Path, info: ModelInfo) -> None:
        self._name, self._info = place.name, info
        self._known = {one.name: one for one in info.inputs}
        if not zipfile.is_zipfile(place):
            arrays_of(place, info)  # says what it is
        try:
            there = arrays_in(place)
            keys, label, _ = keys_of(place, there, info)
            self._labels: list[object] | None = None
            labels = None if label is None else there[label].whole()
        except AttributionError:
            raise
        except Exception as error:  # zipfile, zlib and numpy fail in many ways on a broken file
            raise InvalidArgument(f"{str(place)!r} cannot be read: {error}", file=place) from error
        self._arrays = {name: there[key] for name, key in keys.items()}
        like = {name: self._joined(name, one.like()) for name, one in self._arrays.items()}
        if missing := [name for name in self._known if name not in like]:
            raise InvalidArgument(f"{place.name!r} has no array for input {missing[0]!r}")
        self._axes = {
            name: self._known[name].sample_axis(one.shape, info.batch) for name, one in like.items()
        }
        self.count = count_of(place.name, like, info)
        if labels is not None:
            self._labels = one_each(place.name, labels, self.count)

    def files(self, chosen: range) -> Sequence[int]:
        return [0]

    def read(self, chosen: range) -> list[Sample]:
        labels = None if self._labels is None else self._labels[chosen.start : chosen.stop]
        parts = {name: self._part(name, one, chosen) for name, one in self._arrays.items()}
        return list(samples_of(self._name, parts, labels, self._info, first=chosen.start).items)

    def _part(self, name: str, array: Lazy, chosen: range) -> Array:
        axis = self._axes[name]
        if axis is None:
            return typed(array.whole(), self._known[name])
        if axis == 0 and array.ndim == len(self._joined(name, array.like()).shape):
            return typed(array.rows(chosen.start, chosen.stop), self._known[name])
        whole = self._joined(name, array.whole())
        return typed(whole.take(chosen, axis=axis), self._known[name])

    def _joined(self, name: str, array: Array) -> Array:
        return joined(name, [array], self._known[name], self._info.batch)


class _Rows:
    def __init__(self, place: Path, info: ModelInfo) -> None:
        self._place, self._info = place, info
        file = opened(place)
        groups = [file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)]
        self._begins = [sum(groups[:k]) for k in range(len(groups))]
        self.count = sum(groups)
        self._file = file
        self._batches: Iterator[Any] | None = None
        self._first, self._held = 0, file.schema_arrow.empty_table()

    def files(self, chosen: range) -> Sequence[int]:
        return [0]

    def read(self, chosen: range) -> list[Sample]:
        try:
            table = self._table(chosen.start, chosen.stop)
        except Exception as error:  # pyarrow fails in many ways on a broken file
            self._batches = None
            failure = InvalidArgument(f"{str(self._place)!r} cannot be read: {error}", file=self._place)
            return [Unread(None, None, failure) for _ in chosen]
        try:
            return list(samples_in(self._place, table, chosen.start, self._info).items)
        except InvalidArgument:
            return [self._alone(table, k, chosen.start + k) for k in range(len(table))]

    def _alone(self, table: Table, k: int, row: int) -> Sample:
        alone = table.slice(k, 1)
        try:
            (found,) = samples_in(self._place, alone, row, self._info).items
        except InvalidArgument as error:
            own = called(alone.column_names, self._info)
            return Unread(str(alone[own][0].as_py()) if own else None, None, error)
        return found

    def _table(self, low: int, high: int) -> Table:
        """Some rows; those after the last ones are read on, others from the group that they are in."""
        import pyarrow

        group = max((k for k, begin in enumerate(self._begins) if begin <= low), default=0)
        end = self._first + len(self._held)
        if self._batches is None or low < self._first or self._begins[group] > end:
            self._batches = self._file.iter_batches(STEP, range(group, len(self._begins)))
            self._first, self._held = self._begins[group], self._held[:0]
        while (end := self._first + len(self._held)) < high:
            kept = self._held[min(max(low - self._first, 0), len(self._held)) :]
            self._first = end - len(kept)
            read = pyarrow.Table.from_batches([next(self._batches)])
            self._held = pyarrow.concat_tables([kept, read]) if len(kept) else read
        return self._held[low - self._first : high - self._first]
