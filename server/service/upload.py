"""Models that clients send: checked, and put into a model directory as a whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.server.engine.models.folders import NAME

MIB = 1 << 20


class Upload:
    """One file on its way to `<folder>/<name>/<version>/model.onnx`; leaving the block without `commit` forgets it.

    Version 0 is the next one after those that are `taken`, wherever their files are.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        version: int,
        size: int,
        sha256: str,
        most: int,
        taken: Callable[[str], set[int]],
    ) -> None:
        violations = {}
        if not NAME.fullmatch(name):
            violations["begin.name"] = (
                "a name is at most 128 letters, digits, '.', '_', '-', and no sign first, not "
                + repr(name[:64])
            )
        if not 0 <= version < 10**9:
            violations["begin.version"] = f"a version is a number from 1 on, not {version}"
        if not 0 < size <= most:
            violations["begin.size"] = f"a model has 1 to {most} bytes, not {size}"
        if len(sha256) != 64 or not set(sha256.lower()) <= set("0123456789abcdef"):
            violations["begin.sha256"] = "a digest is 64 hexadecimal digits"
        if violations:
            raise InvalidArgument("; ".join(violations.values()), violations=violations)
        there = taken(name) | {int(one.name) for one in (folder / name).glob("*") if one.name.isdigit()}
        self.name, self.version = name, version or max(there, default=0) + 1
        if self.version in there:
            raise self._exists()
        self._size, self._digest = size, sha256.lower()
        self._target = folder / name / str(self.version)
        self._folder = Path(tempfile.mkdtemp(prefix=".upload-", dir=folder))
        self._file = open(self._folder / "model.onnx", "wb")  # noqa: SIM115  # closed by the block
        self._hash, self._received = hashlib.sha256(), 0

    def add(self, data: bytes) -> None:
        """The file's next bytes. Raises: InvalidArgument, for more than were announced."""
        self._received += len(data)
        if self._received > self._size:
            raise InvalidArgument(
                f"more than the {self._size} bytes came that `begin` said",
                reason=Reason.UPLOAD_DIGEST_MISMATCH,
            )
        self._hash.update(data)
        self._file.write(data)

    def commit(self) -> Path:
        """Puts the file in its place. Raises: InvalidArgument, if it is not the one that was announced."""
        if self._received != self._size or self._hash.hexdigest() != self._digest:
            raise InvalidArgument(
                f"{self._received} bytes with the digest {self._hash.hexdigest()} came, not the {self._size} with "
                f"{self._digest} that `begin` said",
                reason=Reason.UPLOAD_DIGEST_MISMATCH,
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._target.parent.mkdir(exist_ok=True)
        try:
            os.rename(self._folder, self._target)
        except OSError:  # another upload was quicker
            raise self._exists() from None
        return self._target

    def _exists(self) -> InvalidArgument:
        return InvalidArgument(
            f"model {self.name!r} has a version {self.version}, and versions are never changed",
            reason=Reason.VERSION_EXISTS, model=self.name, version=self.version,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)
