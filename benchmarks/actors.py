"""How much sooner a batch is done by two actors of Ray than by one: `python -m benchmarks.actors`, where Ray is.

The engine is a stand-in that sleeps, so that two cores do not share what they have: this shows what Ray and the shards
add, and nothing of how fast a model is.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

from onnx_attribution.server.scale import Folder, Job, plan_shards, run_batch
from onnx_attribution.server.scale.on_ray import OnRay
from onnx_attribution.values import AttributionRequest
from tests.server.scale.places import Doubling, Rows, opened

SHARDS, SECONDS = 40, 0.5


def main() -> None:
    import ray

    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    taken = {}
    for actors in (1, 2, 4):
        with tempfile.TemporaryDirectory() as place:
            notes = Path(place) / "notes"
            notes.mkdir()
            executor = OnRay(partial(opened, Doubling(notes, seconds=SECONDS)), actors)
            job = Job(Rows(SHARDS), AttributionRequest("", {}, "gradient"))
            first: list[float] = []
            run_batch(
                executor, job, Folder(Path(place) / "out", {}), plan_shards(SHARDS, 1),
                lambda _, first=first: first.append(time.monotonic()),  # type: ignore[misc]
            )  # fmt: skip
            taken[actors] = (first[-1] - first[0]) / (SHARDS - 1)
    print("| actors | seconds a shard | as fast as one |")
    print("|---|---|---|")
    for actors, seconds in taken.items():
        print(f"| {actors} | {seconds:.3f} | {taken[1] / seconds:.2f} |")


if __name__ == "__main__":
    main()
