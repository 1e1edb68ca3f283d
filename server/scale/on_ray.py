"""A Ray cluster: actors that hold the model, restarted where they are lost."""

from __future__ import annotations

import os
import re
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from onnx_attribution.errors import InvalidArgument, NotReady
from onnx_attribution.server.scale.batch import ATTEMPTS, Said, compute
from onnx_attribution.server.scale.folder import Folder
from onnx_attribution.server.scale.job import Job, Open, Worker
from onnx_attribution.server.scale.shards import Shard

PAUSE, LONGEST, PATIENCE = 0.5, 10.0, 10
"""Seconds until a lost actor is asked again, up to the longest, and how often in turn before all of them are lost."""

SECONDS = 10
"""In which somebody answers at the address of a cluster."""


@dataclass(frozen=True)
class OnRay:
    """Shards over `actors` (0: as many as there is room for), each with `cpus` and `gpus`, which may be fractions.

    Every actor has one shard at a time and commits it itself, so that all nodes see the file of the model, the data and
    the folder of results under the same names. `address` is the cluster's; without one that which this process is
    connected to, or one that begins on this machine.
    """

    open: Open
    actors: int = 0
    cpus: float = 1
    gpus: float = 0
    address: str | None = None

    def run(self, job: Job, folder: Folder, shards: Sequence[Shard]) -> Iterator[Said]:
        ray = _connected(self.address)
        actor = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=-1)(_Actor)
        crew = _Crew(
            ray, [actor.remote(self.open, job, folder) for _ in range(min(self._room(ray), len(shards)))]
        )
        waiting, attempts, left = deque(shards), Counter[int](), len(shards)
        try:
            while left:
                while waiting and crew.idle:
                    crew.give(waiting.popleft())
                for shard, said in crew.answers():
                    if isinstance(said, dict):
                        left -= 1
                        yield said
                        continue
                    attempts[shard.number] += 1
                    if attempts[shard.number] == ATTEMPTS:
                        raise NotReady(
                            f"shard {shard.number} was tried {ATTEMPTS} times, and its actor lost each time: "
                            f"{type(said).__name__}; what is done stays. Less memory is needed with smaller shards"
                        )
                    waiting.append(shard)
        finally:
            crew.end()

    def _room(self, ray: Any) -> int:
        if self.actors:
            return self.actors
        there = ray.cluster_resources()
        room = [there.get("CPU", 0) // self.cpus] if self.cpus else []
        room += [there.get("GPU", 0) // self.gpus] if self.gpus else []
        if not (found := int(min(room, default=1))):
            raise InvalidArgument(
                f"the cluster has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs, and an actor wants "
                f"{self.cpus:g} and {self.gpus:g}"
            )
        return found


class _Crew:
    """Actors, of which those that have begun are given shards. One that is lost begins again where there is room."""

    def __init__(self, ray: Any, actors: Sequence[Any]) -> None:
        self._ray, self._actors = ray, actors
        self.idle = deque[int]()
        self._asked: dict[Any, tuple[int, Shard | None]] = {}
        """What is not answered yet: whose answer it is, and about which shard, or whether it has begun."""
        self._lost: dict[int, tuple[float, int]] = {}
        """When those that were lost are asked again, and how often that was to no avail."""
        for k in range(len(actors)):
            self._wake(k)

    def give(self, shard: Shard) -> None:
        k = self.idle.popleft()
        self._asked[self._actors[k].run.remote(shard)] = k, shard

    def answers(self) -> Iterator[tuple[Shard, Said | Exception]]:
        """Waits for something to happen; what is said of shards, or how their actors were lost.

        Raises:
            AttributionError: what an actor raises. NotReady: all are lost for good.
        """
        busy = {k for k, _ in self._asked.values()}
        for k, (due, _) in self._lost.items():
            if k not in busy and due <= time.monotonic():
                self._wake(k)
        if not self._asked:
            time.sleep(PAUSE)
            return
        done, _ = self._ray.wait(list(self._asked), timeout=PAUSE if self._lost else None)
        for ref in done:
            k, shard = self._asked.pop(ref)
            try:
                said = self._ray.get(ref)
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except self._ray.exceptions.RayError as error:
                if getattr(error, "actor_init_failed", False):
                    *_, last = str(error).strip().splitlines()
                    raise NotReady(f"an actor cannot begin: {last}") from None
                self._lose(k, error)
                said = error
            else:
                self._lost.pop(k, None)
                self.idle.append(k)
            if shard is not None:
                yield shard, said

    def end(self) -> None:
        for one in self._actors:
            self._ray.kill(one)

    def _wake(self, k: int) -> None:
        self._asked[self._actors[k].ready.remote()] = k, None

    def _lose(self, k: int, error: Exception) -> None:
        _, failures = self._lost.get(k, (0.0, 0))
        self._lost[k] = time.monotonic() + min(PAUSE * 2**failures, LONGEST), failures + 1
        if len(self._lost) == len(self._actors) and all(n >= PATIENCE for _, n in self._lost.values()):
            raise NotReady(
                f"no actor of the cluster answers any more: {type(error).__name__}; what is done stays, and the same "
                "command goes on with the rest"
            )


class _Actor:
    """One process of the cluster."""

    def __init__(self, opened: Open, job: Job, folder: Folder) -> None:
        self._open, self._job, self._folder = opened, job, folder
        self._stack = ExitStack()
        self._worker: Worker | None = None

    def ready(self) -> None:
        """Opens the model, whose errors reach the caller as they are."""
        if self._worker is None:
            self._worker = self._stack.enter_context(self._open())

    def run(self, shard: Shard) -> Said:
        self.ready()
        assert self._worker is not None
        return compute(self._worker, self._job, self._folder, shard)


def _connected(address: str | None) -> Any:
    """Ray, connected. Raises: InvalidArgument: it is not installed. NotReady: there is no cluster at the address."""
    try:
        import ray
    except ModuleNotFoundError:
        raise InvalidArgument("a Ray cluster needs ray: pip install 'onnx-attribution[ray]'") from None
    if not ray.is_initialized():
        check_reachable(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(
                address=address, include_dashboard=False if address is None else None, log_to_driver=False,
                logging_level="ERROR",
            )  # fmt: skip
        except ConnectionError as error:
            raise NotReady(f"there is no Ray cluster at {address!r}: {error}") from None
    return ray


def check_reachable(address: str | None) -> None:
    """Tries whether anybody listens at an address, for which Ray itself takes minutes.

    Raises:
        NotReady: nobody does.
    """
    found = re.fullmatch(r"(?:ray://)?(\S+):([0-9]{1,5})", address or "")
    if found is None:
        return
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), SECONDS).close()
    except (OSError, OverflowError) as error:
        raise NotReady(f"there is no Ray cluster at {address!r}: {error}") from None
