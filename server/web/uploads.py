"""Files that were given to the page: kept in a folder of this process until they are too many, or it ends."""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from onnx_attribution.errors import InvalidArgument, Reason

MOST = 64
MOST_BYTES = 64 << 20
"""Of one file."""
NAME = re.compile(r"[^\w.\- ]+")


class Uploads:
    """Groups of files by their keys, the oldest of which give way."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="onnx-attribution-page-"))
        self._known: OrderedDict[str, tuple[tuple[str, Path], ...]] = OrderedDict()

    def add(self, name: str, data: bytes, *, input: str = "", beside: str = "") -> str:
        """The key of a group that has the file, and those of another group but for the same input.

        Raises:
            InvalidArgument: it is empty or too large; there is no such group.
        """
        if not data:
            raise InvalidArgument(f"{name!r} is empty")
        if len(data) > MOST_BYTES:
            raise InvalidArgument(f"{name!r} is larger than {MOST_BYTES >> 20} MiB")
        before = self.files(beside) if beside else ()
        key = secrets.token_hex(8)  # refusals leave it out
        file = self.folder / key / (NAME.sub("_", Path(name).name)[-80:].lstrip(".") or "file")
        file.parent.mkdir()
        file.write_bytes(data)
        self._known[key] = (*(one for one in before if input and one[0] != input), (input, file))
        while len(self._known) > MOST:
            self._known.popitem(last=False)
        kept = {file.parent for files in self._known.values() for _, file in files}
        for folder in self.folder.iterdir():
            if folder not in kept:
                rmtree(folder, ignore_errors=True)
        return key

    def files(self, key: str) -> tuple[tuple[str, Path], ...]:
        """Raises: InvalidArgument: there is no such group."""
        if key not in self._known:
            raise InvalidArgument(
                "the file is not here any more; choose it again", reason=Reason.PARAMETER_INVALID, key=key
            )
        return self._known[key]

    def close(self) -> None:
        rmtree(self.folder, ignore_errors=True)
