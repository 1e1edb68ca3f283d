"""A data set that is read in parts, by whatever process needs them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from onnx_attribution.client.audit.data import Dataset
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli.data_folder import KINDS
from onnx_attribution.server.cli.data_parquet import PARQUET
from onnx_attribution.server.cli.dataset import read_dataset
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.values import ModelInfo

TRIED = 8
"""Rows of which one has to be readable."""


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
