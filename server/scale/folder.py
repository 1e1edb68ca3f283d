"""Where the results of a batch lie: a file a shard, whole whenever it is there, and a manifest of those committed."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_attribution.client.audit.state import settle, write_whole
from onnx_attribution.server.scale.shards import Shard

if TYPE_CHECKING:
    import pyarrow

MANIFEST = "manifest.jsonl"


class Folder:
    """The results of one plan. Several processes may commit to it, even the same shard: the first one counts.

    Raises:
        InvalidArgument: the folder holds the results of another plan.
    """

    def __init__(self, place: Path, plan: Mapping[str, Any]) -> None:
        self.place = place
        settle(place, plan, "the results of a batch")

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
            if (self.place / said["file"]).is_file():
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
        with (self.place / f"{MANIFEST}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
            if (there := self.committed().get(shard.number)) is not None:
                return there
            write_whole(self.place / shard.file, data)
            with self.manifest.open("ab") as opened:
                cut_off = opened.tell() and not self.manifest.read_bytes().endswith(b"\n")
                opened.write(b"\n" * bool(cut_off) + json.dumps(said).encode() + b"\n")
                opened.flush()
        return said
