"""One cluster of two nodes in this machine for all tests, two CPUs and 200 MB of objects in all, and a GPU by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Returns the cluster, to which this process is connected."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])  # of all its processes
    import ray
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 100 << 20, "num_cpus": 1}
    found = Cluster(
        initialize_head=True, head_node_args={**memory, "num_gpus": 1, "include_dashboard": False}
    )
    found.add_node(**memory)
    ray.init(address=found.address, log_to_driver=False)
    yield found
    ray.shutdown()
    found.shutdown()
