"""A batch: the shards that are not committed yet, given to an executor, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from onnx_attribution.server.scale.folder import Folder
from onnx_attribution.server.scale.job import Job, Open, Worker, run_shard
from onnx_attribution.server.scale.shards import Shard

Said = dict[str, Any]
ATTEMPTS = 3
"""How often a shard is tried whose process, actor or server was lost."""


class Executor(Protocol):
    """Runs shards somewhere, each committed where it was computed; yields what the manifest says of them."""

    def run(self, job: Job, folder: Folder, shards: Sequence[Shard]) -> Iterator[Said]:
        """Raises: AttributionError, for what is no fault of a sample."""
        ...


def run_batch(
    executor: Executor,
    job: Job,
    folder: Folder,
    shards: Sequence[Shard],
    progress: Callable[[Said], None] = lambda _: None,
    warn: Callable[[str], None] = lambda _: None,
) -> list[Said]:
    """Does the shards that are not committed, and tells of all of them, in order; `warn` hears of committed files
    that are damaged.

    Raises:
        AttributionError: what is no fault of a sample; what is committed by then stays.
    """
    done = {}
    for number, said in folder.written_down().items():
        if words := folder.take_away_damaged(said):
            warn(f"{said['file']!r} {words}: it is computed once more")
        else:
            done[number] = said
            progress(said)
    left = [shard for shard in shards if shard.number not in done]
    for said in executor.run(job, folder, left) if left else ():
        done[said["shard"]] = said
        progress(said)
    return [done[shard.number] for shard in shards]


def compute(worker: Worker, job: Job, folder: Folder, shard: Shard) -> Said:
    """Computes and commits one shard, in whatever process this is."""
    return folder.commit(shard, run_shard(worker, job, shard))


__all__ = ["ATTEMPTS", "Executor", "Open", "Said", "compute", "run_batch"]
