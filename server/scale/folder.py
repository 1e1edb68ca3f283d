"""Where the results of a batch lie: a file a shard, whole whenever it is there, and a manifest of those committed."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_attribution.client.audit.state import PLAN, settle, write_whole
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.scale.shards import Shard

if TYPE_CHECKING:
    import pyarrow

MANIFEST = "manifest.jsonl"
OWN = r"part-\d{6,}\.parquet(\.part)?"
SAID = {"shard", "first", "samples", "errors", "file", "sha256"}


class Folder:
    """The results of one plan. Several processes may commit to it, even the same shard: the first one counts.

    `anew`: what an earlier batch has left is taken away, whatever its plan was, and nothing else. A plan of which
    nothing was done is no obstacle to another one.

    Raises:
        InvalidArgument: the folder holds the results of another plan, or cannot be written.
    """

    def __init__(self, place: Path, plan: Mapping[str, Any], *, anew: bool = False) -> None:
        self.place = place
        self.plan: dict[str, Any] = json.loads(json.dumps(plan))
        try:
            place.mkdir(parents=True, exist_ok=True)
            with self._locked():
                if (place / PLAN).is_file():
                    files = [one for one in place.glob("part-*") if re.fullmatch(OWN, one.name)]
                    if anew:
                        for one in (self.manifest, *files):
                            one.unlink(missing_ok=True)
                    if anew or not (files or self.manifest.is_file()):
                        (place / PLAN).unlink()
                settle(place, plan, "the results of a batch")
        except OSError as error:
            raise InvalidArgument(
                f"{str(place)!r} cannot be written: {error.strerror}", file=place
            ) from error

    @property
    def manifest(self) -> Path:
        return self.place / MANIFEST

    def committed(self) -> dict[int, dict[str, Any]]:
        """What is said of each shard that is done, by its number. A line that was cut off is none."""
        found: dict[int, dict[str, Any]] = {}
        if not self.manifest.is_file():
            return found
        for line in self.manifest.read_text("utf-8").splitlines():
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict) and said.keys() >= SAID and (self.place / said["file"]).is_file():
                found.setdefault(said["shard"], said)
        return found

    def commit(self, shard: Shard, table: pyarrow.Table) -> dict[str, Any]:
        """Keeps the results of a shard: the file at once, then its line in the manifest."""
        from pyarrow import parquet

        buffer = io.BytesIO()
        parquet.write_table(table, buffer, compression="zstd")
        data = buffer.getvalue()
        said = {
            "shard": shard.number,
            "first": shard.first,
            "samples": shard.count,
            "errors": sum(one is not None for one in table["error"].to_pylist()),
            "file": shard.file,
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        try:
            with self._locked():
                settle(
                    self.place, self.plan, "the results of a batch"
                )  # another one may have begun meanwhile
                if (there := self.committed().get(shard.number)) is not None:
                    return there
                write_whole(self.place / shard.file, data)
                with self.manifest.open("ab") as opened:
                    cut_off = opened.tell() and not self.manifest.read_bytes().endswith(b"\n")
                    opened.write(b"\n" * bool(cut_off) + json.dumps(said).encode() + b"\n")
                    opened.flush()
        except OSError as error:
            raise InvalidArgument(
                f"{str(self.place / shard.file)!r} cannot be written: {error.strerror}", file=shard.file
            ) from error
        return said

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else writes to the folder meanwhile."""
        with (self.place / f"{MANIFEST}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
            yield
