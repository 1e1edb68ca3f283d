"""Servers, each asked for one shard at a time; one that is lost gives its shard to the others."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx_attribution.errors import DeadlineExceeded, ModelError, NotReady, Overloaded
from onnx_attribution.server.scale.batch import ATTEMPTS, Said, compute
from onnx_attribution.server.scale.folder import Folder
from onnx_attribution.server.scale.job import Job, Open
from onnx_attribution.server.scale.shards import Shard

WAIT = 1.0  # seconds, doubled after each failure
ELSEWHERE = (NotReady, Overloaded, DeadlineExceeded)
"""What may go well later, or at another server."""


@dataclass(frozen=True)
class Served:
    """Shards over servers, by how each is reached. All serve the same model: the digest of each is that of the plan."""

    opens: Sequence[Open]
    digest: str

    def run(self, job: Job, folder: Folder, shards: Sequence[Shard]) -> Iterator[Said]:
        waiting: queue.Queue[Shard] = queue.Queue()
        for shard in shards:
            waiting.put(shard)
        found: queue.Queue[Said | Exception] = queue.Queue()
        over = threading.Event()
        threads = [
            threading.Thread(target=self._work, args=(one, job, folder, waiting, found, over), daemon=True)
            for one in self.opens
        ]
        for thread in threads:
            thread.start()
        left, lost = len(shards), 0
        try:
            while left:
                said = found.get()
                if isinstance(said, ELSEWHERE) and (lost := lost + 1) < len(threads):
                    continue
                if isinstance(said, Exception):
                    raise said
                left -= 1
                yield said
        finally:
            over.set()
            for thread in threads if not left else ():  # what is asked for still is not waited for
                thread.join()

    def _work(
        self,
        opened: Open,
        job: Job,
        folder: Folder,
        waiting: queue.Queue[Shard],
        found: queue.Queue[Said | Exception],
        over: threading.Event,
    ) -> None:
        """Asks one server until all is done; a server that fails too often is asked no more."""
        failures = 0
        while not over.is_set():
            try:
                with opened() as worker:
                    if (digest := worker.info().digest) != self.digest:
                        raise ModelError(
                            f"a server has another model of that name: its digest is {digest[:12]}, the first one's "
                            f"{self.digest[:12]}"
                        )
                    while not over.is_set():
                        try:
                            shard = waiting.get(timeout=0.1)
                        except queue.Empty:
                            continue  # another one's shard may come back
                        try:
                            found.put(compute(worker, job, folder, shard))
                            failures = 0
                        except BaseException:
                            waiting.put(shard)
                            raise
            except Exception as error:
                failures += 1
                if not isinstance(error, ELSEWHERE) or failures == ATTEMPTS:
                    found.put(error)
                    return
                over.wait(WAIT * 2**failures)
