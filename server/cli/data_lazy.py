"""Arrays of an npz that stay on the disk until their rows are read."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal

import numpy as np

from onnx_attribution.values import Array

LOCAL = struct.Struct("<26xHH")
"""The header before a file in a zip: how long its name and what follows the name are."""
STEP = 1 << 24


class Lazy:
    """One array. What is stored as it is lies in memory where it is looked at; what is compressed is read forwards, and
    whole where its rows do not follow each other in the file."""

    def __init__(self, place: Path, name: str) -> None:
        self._place, self._name = place, name
        self._reading: IO[bytes] | None = None
        self._at = 0
        self._whole: Array | None = None
        with zipfile.ZipFile(place) as archive:
            member = archive.getinfo(name)
            with archive.open(member) as opened:
                self.shape, self._is_fortran, self.dtype = _header(opened)
                begin = opened.tell()
        if self.dtype.hasobject:
            raise ValueError("arrays of Python's objects are not read")
        if member.compress_type == zipfile.ZIP_STORED and 0 not in self.shape and self.dtype.itemsize:
            with place.open("rb") as file:
                file.seek(member.header_offset)
                before = LOCAL.size + sum(LOCAL.unpack(file.read(LOCAL.size)))
            order: Literal["F", "C"] = "F" if self._is_fortran else "C"
            at = member.header_offset + before + begin
            self._whole = np.memmap(place, self.dtype, "r", at, self.shape, order)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def like(self) -> Array:
        """An array of the same shape and type that takes no memory and says nothing."""
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)

    def whole(self) -> Array:
        if self._whole is None:
            with zipfile.ZipFile(self._place) as archive, archive.open(self._name) as opened:
                self._whole = np.lib.format.read_array(opened, allow_pickle=False)
        return self._whole

    def rows(self, low: int, high: int) -> Array:
        """Those of the first axis."""
        if self._whole is not None or self._is_fortran or not self.dtype.itemsize:
            return np.array(self.whole()[low:high])
        size = int(self.dtype.itemsize * np.prod(self.shape[1:], dtype=np.int64))
        if self._reading is None or self._at > low:
            self.close()
            self._reading = zipfile.ZipFile(self._place).open(self._name)  # noqa: SIM115 - until `close`
            _header(self._reading)
            self._at = 0
        _skip(self._reading, (low - self._at) * size)
        data = self._reading.read((high - low) * size)
        self._at = high
        return np.frombuffer(bytearray(data), self.dtype).reshape(-1, *self.shape[1:])

    def close(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None


def arrays_in(place: Path) -> Mapping[str, Lazy]:
    """The arrays of a file by their names. Raises: what zipfile and numpy raise of a broken one."""
    with zipfile.ZipFile(place) as archive:
        names = archive.namelist()
    return {name.removesuffix(".npy"): Lazy(place, name) for name in names if name.endswith(".npy")}


def check_sound(place: Path) -> None:
    """Reads the file once, as what is looked at later is not checked. Raises: ValueError: an array is damaged."""
    with zipfile.ZipFile(place) as archive:
        if (name := archive.testzip()) is not None:
            raise ValueError(f"the array {name.removesuffix('.npy')!r} is damaged")


def _header(opened: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(opened)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(opened)


def _skip(opened: IO[bytes], count: int) -> None:
    while count > 0:
        found = len(opened.read(min(count, STEP)))
        if not found:
            raise ValueError("the file ends before its arrays do")
        count -= found
