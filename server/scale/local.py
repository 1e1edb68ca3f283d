"""Processes of this machine, each with an engine of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import connection

from onnx_attribution.errors import NotReady
from onnx_attribution.server.scale.batch import ATTEMPTS, Said, compute
from onnx_attribution.server.scale.folder import Folder
from onnx_attribution.server.scale.job import Job, Open, Worker
from onnx_attribution.server.scale.shards import Shard


@dataclass(frozen=True)
class Local:
    """Shards over `processes` (0: one for each core), each of which opens the model once; one runs in this process.

    A process that is lost is replaced, and its shard tried again.
    """

    open: Open
    processes: int = 0

    def run(self, job: Job, folder: Folder, shards: Sequence[Shard]) -> Iterator[Said]:
        processes = min(self.processes or len(os.sched_getaffinity(0)), len(shards))
        if processes == 1:
            with self.open() as worker:
                for shard in shards:
                    yield compute(worker, job, folder, shard)
            return
        left = list(shards)
        for attempt in range(ATTEMPTS):
            try:
                for said in self._pooled(job, folder, left, processes):
                    left = [shard for shard in left if shard.number != said["shard"]]
                    yield said
                return
            except BrokenProcessPool:
                done = folder.committed()
                yield from (done[shard.number] for shard in left if shard.number in done)
                left = [shard for shard in left if shard.number not in done]
                if attempt == ATTEMPTS - 1:
                    raise NotReady(
                        f"processes of the batch were killed {ATTEMPTS} times; {len(left)} shards are left. Less "
                        "memory is needed with smaller shards or fewer processes"
                    ) from None

    def _pooled(self, job: Job, folder: Folder, shards: Sequence[Shard], processes: int) -> Iterator[Said]:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(processes, context, _begin, (self.open, job, folder))
        is_done = False
        try:
            running: list[Future[Said]] = [pool.submit(_one, shard) for shard in shards]
            for future in as_completed(running):
                yield future.result()
            is_done = True
        finally:
            begun = [] if is_done else list((pool._processes or {}).values())
            for process in begun:  # what they work on is not waited for: it is done once more
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)


_here: dict[str, tuple[Worker, Job, Folder, ExitStack]] = {}
"""What this process works on."""


def _begin(opened: Open, job: Job, folder: Folder) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the process that began this one, which ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    stack = ExitStack()
    _here["now"] = stack.enter_context(opened()), job, folder, stack


def _end_with_parent() -> None:
    """Ends this process when the one that began it is gone, however that ended."""
    if (parent := multiprocessing.parent_process()) is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _one(shard: Shard) -> Said:
    worker, job, folder, _ = _here["now"]
    return compute(worker, job, folder, shard)
