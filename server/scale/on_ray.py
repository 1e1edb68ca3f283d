"""A Ray cluster: actors that hold the model, restarted where they are lost."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from onnx_attribution.errors import InvalidArgument, NotReady
from onnx_attribution.server.scale.batch import ATTEMPTS, Said, compute
from onnx_attribution.server.scale.folder import Folder
from onnx_attribution.server.scale.job import Job, Open
from onnx_attribution.server.scale.shards import Shard


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
        actors = [actor.remote(self.open, job, folder) for _ in range(min(self._room(ray), len(shards)))]
        waiting, idle = deque(shards), deque(actors)
        running: dict[Any, tuple[Any, Shard]] = {}
        attempts: Counter[int] = Counter()
        try:
            while waiting or running:
                while waiting and idle:
                    one, shard = idle.popleft(), waiting.popleft()
                    running[one.run.remote(shard)] = one, shard
                (ref,), _ = ray.wait(list(running), num_returns=1)
                one, shard = running.pop(ref)
                idle.append(one)
                try:
                    yield ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except (
                    ray.exceptions.RayError
                ) as error:  # the actor is lost, and another one begins in its place
                    attempts[shard.number] += 1
                    if attempts[shard.number] == ATTEMPTS:
                        raise NotReady(
                            f"shard {shard.number} was tried {ATTEMPTS} times, and its actor lost each time: "
                            f"{type(error).__name__}. Less memory is needed with smaller shards"
                        ) from None
                    waiting.append(shard)
        finally:
            for one in actors:
                ray.kill(one)

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


class _Actor:
    """One process of the cluster."""

    def __init__(self, opened: Open, job: Job, folder: Folder) -> None:
        self._stack = ExitStack()
        self._worker = self._stack.enter_context(opened())
        self._job, self._folder = job, folder

    def run(self, shard: Shard) -> Said:
        return compute(self._worker, self._job, self._folder, shard)


def _connected(address: str | None) -> Any:
    """Ray, connected. Raises: InvalidArgument: it is not installed. NotReady: there is no cluster at the address."""
    try:
        import ray
    except ModuleNotFoundError:
        raise InvalidArgument("a Ray cluster needs ray: pip install 'onnx-attribution[ray]'") from None
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(
                address=address, include_dashboard=False if address is None else None, log_to_driver=False
            )
        except ConnectionError as error:
            raise NotReady(f"there is no Ray cluster at {address!r}: {error}") from None
    return ray
