"""Servers, each asked for one shard at a time; while one is lost the others have its shards."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from onnx_attribution.errors import AttributionError, DeadlineExceeded, ModelError, NotReady, Overloaded
from onnx_attribution.server.scale.batch import ATTEMPTS, Said, compute
from onnx_attribution.server.scale.folder import Folder
from onnx_attribution.server.scale.job import Job, Open, Worker
from onnx_attribution.server.scale.shards import Shard

WAIT, LONGEST = 1.0, 30.0
"""Seconds until a lost server is asked again, doubled after each failure up to the longest."""
PATIENCE = 6
"""How often every server has to fail in turn, each time after a longer pause, before all of them are lost."""
ELSEWHERE = (NotReady, Overloaded, DeadlineExceeded)
"""What may go well later, or at another server."""


@dataclass(frozen=True)
class Server:
    """What a server is called, and how it is reached."""

    name: str
    open: Open


@dataclass(frozen=True)
class Served:
    """Shards over servers. All serve the same model: the digest of each is that of the plan. While one answers, the
    lost ones are asked again, with pauses that grow; `warn` hears of the first failure of each.
    """

    servers: Sequence[Server]
    digest: str
    warn: Callable[[str], None] = lambda _: None

    def run(self, job: Job, folder: Folder, shards: Sequence[Shard]) -> Iterator[Said]:
        work = _Work(self, job, folder)
        for shard in shards:
            work.waiting.put(shard)
        threads = [
            threading.Thread(target=work.ask, args=(k,), daemon=True) for k in range(len(self.servers))
        ]
        for thread in threads:
            thread.start()
        left = len(shards)
        try:
            while left:
                said = work.found.get()
                if isinstance(said, BaseException):
                    raise said
                left -= 1
                yield said
        finally:
            work.over.set()
            for thread in threads if not left else ():  # what is asked for still is not waited for
                thread.join()


class _GivenUp(Exception):
    """A shard that no server lives through."""


@dataclass
class _Work:
    """What the threads of a batch share: one for each server."""

    of: Served
    job: Job
    folder: Folder
    waiting: queue.Queue[Shard] = field(default_factory=queue.Queue)
    found: queue.Queue[Said | BaseException] = field(default_factory=queue.Queue)
    over: threading.Event = field(default_factory=threading.Event)
    failures: Counter[int] = field(default_factory=Counter)
    """By server, since it last committed something."""
    attempts: Counter[int] = field(default_factory=Counter)
    """By shard: how often its server was lost."""

    def ask(self, k: int) -> None:
        """Asks one server until all is done."""
        while not self.over.is_set():
            try:
                with self.of.servers[k].open() as worker:
                    self._check(k, worker)
                    while not self.over.is_set():
                        self._one(k, worker)
            except _GivenUp as error:
                self.found.put(NotReady(str(error)))
                return
            except ELSEWHERE as error:
                self._lost(k, error)
                self.over.wait(min(WAIT * 2 ** (self.failures[k] - 1), LONGEST))
            except BaseException as error:
                self.found.put(error)
                return

    def _check(self, k: int, worker: Worker) -> None:
        name = self.of.servers[k].name
        try:
            digest = worker.info().digest
        except ELSEWHERE:
            raise
        except AttributionError as error:
            raise type(error)(f"the server {name}: {error.message}", reason=error.reason) from error
        if digest != self.of.digest:
            raise ModelError(
                f"the server {name} has another model of that name: its digest is {digest[:12]}, that of the batch "
                f"{self.of.digest[:12]}"
            )

    def _one(self, k: int, worker: Worker) -> None:
        try:
            shard = self.waiting.get(timeout=0.1)
        except queue.Empty:
            return  # another one's shard may come back
        try:
            said = compute(worker, self.job, self.folder, shard)
        except BaseException as error:
            if isinstance(error, ELSEWHERE) and not isinstance(error, Overloaded):
                self.attempts[shard.number] += 1
                if self.attempts[shard.number] >= ATTEMPTS + len(self.of.servers):
                    raise _GivenUp(
                        f"shard {shard.number} was given up: its servers were lost {self.attempts[shard.number]} times "
                        f"({error}); what is done stays. Less memory and time are needed with smaller shards"
                    ) from None
            self.waiting.put(shard)
            raise
        self.failures[k] = 0
        self.found.put(said)

    def _lost(self, k: int, error: AttributionError) -> None:
        self.failures[k] += 1
        if self.failures[k] == 1:
            self.of.warn(f"{self.of.servers[k].name} is asked again later: {error.message}")
        if all(self.failures[one] >= PATIENCE for one in range(len(self.of.servers))):
            names = ", ".join(sorted({one.name for one in self.of.servers}))
            self.found.put(
                NotReady(
                    f"no server answers any more ({names}): {error.message}; what is done stays, and the same command "
                    "goes on with the rest"
                )
            )
            self.over.set()
