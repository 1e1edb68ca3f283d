"""The state of an audit on disk: what is done is not done again when it is started once more."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import Array

PLAN, NUMBERS = "plan.json", "numbers.json"


class State:
    """One file for each step that is done, complete or not there; `plan` says what they belong to.

    Raises:
        InvalidArgument: the folder holds the state of another audit, or none that can be read.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder = folder
        settle(folder, plan, "the state of an audit")

    @property
    def begun(self) -> datetime:
        """When the audit was begun, however often it went on since."""
        return datetime.fromtimestamp((self.folder / PLAN).stat().st_mtime, UTC)

    def has(self, step: str) -> bool:
        """Whether a step is done; one of which the file is broken is to be done once more."""
        return zipfile.is_zipfile(self._file(step))

    def save(self, step: str, numbers: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Keeps what a step has found, at once or not at all."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(NUMBERS, json.dumps(numbers))
            archive.writestr("names.json", json.dumps(list(arrays)))
            for k, array in enumerate(arrays.values()):
                with archive.open(f"{k}.npy", "w", force_zip64=True) as opened:
                    np.lib.format.write_array(opened, np.ascontiguousarray(array), allow_pickle=False)
        write_whole(self._file(step), buffer.getvalue())

    def numbers(self, step: str) -> dict[str, Any]:
        """What a step has found, but for its arrays."""
        with zipfile.ZipFile(self._file(step)) as archive:
            found: dict[str, Any] = json.loads(archive.read(NUMBERS))
            return found

    def arrays(self, step: str, prefix: str = "") -> dict[str, Array]:
        """The arrays of a step whose names begin so."""
        with zipfile.ZipFile(self._file(step)) as archive:
            names = json.loads(archive.read("names.json"))
            found = {}
            for k, name in enumerate(names):
                if name.startswith(prefix):
                    with archive.open(f"{k}.npy") as opened:
                        found[name] = np.lib.format.read_array(opened, allow_pickle=False)
            return found

    def _file(self, step: str) -> Path:
        return self.folder / f"{step}.npz"


def settle(folder: Path, plan: Mapping[str, Any], kind: str, named: Path | None = None) -> None:
    """Makes the folder of a plan, or checks that it holds the same one; `kind` is what it holds, in words, and `named`
    the folder that is spoken of.

    Raises:
        InvalidArgument: it holds what belongs to another plan, or none that can be read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(f"{str(folder)!r} cannot be made: {error.strerror}", file=folder) from error
    own = json.loads(json.dumps(plan))
    file = folder / PLAN
    if not file.is_file():
        write_whole(file, json.dumps(own, indent=1).encode())
        return
    try:
        there = json.loads(file.read_bytes())
    except ValueError:
        there = None
    if not isinstance(there, dict):
        raise InvalidArgument(
            f"{str(file)!r} cannot be read: --anew begins once more, or write to another folder",
            file=file,
        )
    changed = sorted(key for key in own.keys() | there.keys() if own.get(key) != there.get(key))
    if changed:
        raise InvalidArgument(
            f"{str(named or folder)!r} holds {kind} with another {', '.join(changed)}: --anew begins once "
            "more, or write to another folder"
        )


def write_whole(file: Path, data: bytes) -> None:
    """A file that is whole whenever it is there."""
    part = file.with_name(f"{file.name}.part")
    with part.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    part.replace(file)
