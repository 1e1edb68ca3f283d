"""Where the results of a batch lie: `parts/`, a file a shard, whole whenever it is there; and beside it what belongs to
the batch, under a name that readers of folders pass over."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from onnx_attribution.client.audit.columns import schema_of
from onnx_attribution.client.audit.state import PLAN, settle
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.scale.job import COLUMNS, SCHEMA
from onnx_attribution.server.scale.shards import Shard

if TYPE_CHECKING:
    import pyarrow

PARTS, STATE, MANIFEST = "parts", "_batch", "manifest.jsonl"
OWN = r"part-\d{6,}\.parquet(\.part)?"
SAID = {"shard", "first", "samples", "errors", "file", "bytes", "sha256"}
KIND = "the results of a batch"


class Folder:
    """The results of one plan. Several processes may commit to it, even the same shard: the first one counts.

    `anew`: what an earlier batch has left is taken away, whatever its plan was, and nothing else. A plan of which
    nothing was done is no obstacle to another one.

    Raises:
        InvalidArgument: the folder holds the results of another plan, or cannot be written.
    """

    def __init__(self, place: Path, plan: Mapping[str, Any], *, anew: bool = False) -> None:
        self.place = place.absolute()
        self.plan: dict[str, Any] = json.loads(json.dumps(plan))
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
            self.state.mkdir(exist_ok=True)
            with self._locked():
                self._clear_earlier(anew)
                if (self.state / PLAN).is_file():
                    files = [one for one in self.parts.glob("part-*") if re.fullmatch(OWN, one.name)]
                    if anew:
                        for one in (self.manifest, *files):
                            one.unlink(missing_ok=True)
                    if anew or not (files or self.manifest.is_file()):
                        (self.state / PLAN).unlink()
                self._sweep()
                settle(self.state, plan, KIND, self.place)
        except OSError as error:
            raise _unwritable(self.place, error) from error

    @property
    def parts(self) -> Path:
        """Where the files of results lie, and nothing else."""
        return self.place / PARTS

    @property
    def state(self) -> Path:
        return self.place / STATE

    @property
    def manifest(self) -> Path:
        return self.state / MANIFEST

    def committed(self) -> dict[int, dict[str, Any]]:
        """What is said of each shard that is done and whose file is there, by its number."""
        return {
            number: said
            for number, said in self.written_down().items()
            if (self.parts / said["file"]).is_file()
        }

    def written_down(self) -> dict[int, dict[str, Any]]:
        """What the manifest says of shards. A line that was cut off is none, and what was said last counts."""
        found: dict[int, dict[str, Any]] = {}
        if not self.manifest.is_file():
            return found
        with self.manifest.open(encoding="utf-8", errors="replace") as opened:
            for line in opened:
                try:
                    said = json.loads(line)
                except ValueError:
                    continue
                if isinstance(said, dict) and said.keys() >= SAID:
                    found[said["shard"]] = said
        return found

    def take_away_damaged(self, said: Mapping[str, Any]) -> str:
        """Why a committed file is not what was committed, whereupon it is gone; "" of one that is sound."""
        file = self.parts / said["file"]
        try:
            if (size := file.stat().st_size) != said["bytes"]:
                words = f"has {size} bytes and not {said['bytes']}"
            elif _digest(file) != said["sha256"]:
                words = "has other bytes than were written"
            else:
                return ""
        except FileNotFoundError:
            return "is gone"
        except OSError as error:
            words = f"cannot be read: {error.strerror}"
        with self._locked():
            if self.committed().get(said["shard"]) == said:
                file.unlink(missing_ok=True)
        return words

    def commit(self, shard: Shard, batches: Iterable[pyarrow.RecordBatch]) -> dict[str, Any]:
        """Keeps the results of a shard: the file at once, then its line in the manifest."""
        file = self.parts / shard.file
        try:
            with self._written(batches) as (written, errors):
                said = {
                    "shard": shard.number,
                    "first": shard.first,
                    "samples": shard.count,
                    "errors": errors,
                    "file": shard.file,
                    "bytes": written.stat().st_size,
                    "sha256": _digest(written),
                }
                with self._locked():
                    settle(self.state, self.plan, KIND, self.place)  # another one may have begun meanwhile
                    if file.is_file() and (there := self.committed().get(shard.number)) is not None:
                        return there
                    written.replace(file)
                    with self.manifest.open("a+b") as opened:
                        cut_off = opened.tell() and not _ends_whole(opened)
                        opened.write(b"\n" * bool(cut_off) + json.dumps(said).encode() + b"\n")
                        opened.flush()
                        os.fsync(opened.fileno())
        except OSError as error:
            raise _unwritable(file, error) from error
        return said

    @contextmanager
    def _written(self, batches: Iterable[pyarrow.RecordBatch]) -> Iterator[tuple[Path, int]]:
        """A file of its own of what is written a batch at a time, and how many lines tell of an error."""
        from pyarrow import parquet

        with self._locked():  # whoever sweeps finds it locked
            written, errors = self.state / f"part-{uuid4().hex}.part", 0
            opened = written.open("xb")
            fcntl.flock(opened, fcntl.LOCK_EX)
        try:
            with opened:
                with parquet.ParquetWriter(opened, schema_of(COLUMNS, SCHEMA), compression="zstd") as writer:
                    for batch in batches:
                        errors += len(batch) - batch.column("error").null_count
                        writer.write_batch(batch)
                opened.flush()
                os.fsync(opened.fileno())
                yield written, errors
        finally:
            with suppress(OSError):
                written.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Takes away what killed processes had begun to write: nobody holds it any more."""
        for one in self.state.glob("part-*.part"):
            with suppress(OSError), one.open("r+b") as opened:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                one.unlink()

    def _clear_earlier(self, anew: bool) -> None:
        """Raises: InvalidArgument: results of an earlier version, which had no folder of their own, are there."""
        earlier, lock = self.place / MANIFEST, self.place / f"{MANIFEST}.lock"
        if not ((self.place / PLAN).is_file() and (earlier.is_file() or lock.is_file())):
            return
        if earlier.is_file() and not anew:
            raise InvalidArgument(
                f"{str(self.place)!r} holds {KIND} of an earlier version, beside their {MANIFEST}: write to another "
                "folder, or --anew takes them away"
            )
        files = [one for one in self.place.glob("part-*") if re.fullmatch(OWN, one.name)]
        for one in (*files, earlier, lock, self.place / PLAN):
            one.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else writes to the folder meanwhile."""
        with (self.state / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
            yield


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _ends_whole(opened: Any) -> bool:
    """Whether the last line is whole; what is written after that is appended all the same."""
    opened.seek(-1, os.SEEK_END)
    return bool(opened.read(1) == b"\n")


def _unwritable(place: Path, error: OSError) -> InvalidArgument:
    words = error.strerror or str(error)
    return InvalidArgument(f"{str(place)!r} cannot be written: {words}", file=place)
