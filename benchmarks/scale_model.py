"""How many replicas serve so many requests a second, and what the slowest one in a hundred takes.

`python -m benchmarks.scale_model` simulates queues with the service times that were measured, and prints the table of
docs/scale.md. Each request goes to that one of two replicas drawn at random which has fewer requests, as Ray Serve's
proxies send it, and waits for its turn; a replica computes one request at a time. Replicas fail at random and come
back after the time that was measured; what they were computing is asked once more elsewhere. Above `CELL` replicas one
cell of that many is simulated with its share of the requests: cells do not know of each other.
"""

from __future__ import annotations

import argparse
import heapq
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

CELL = 200
EACH = 400
"""Requests of a replica that are simulated: enough that one with too many of them falls behind."""
HOURS_BETWEEN_FAILURES = 24 * 7
RECOVERY = (5.0, 12.0)
"""Seconds until a killed replica answers again: measured on Ray, tests/cluster."""
LIMIT = 2.0
"""The 99th percentile may be so many times the one of an idle server."""


@dataclass(frozen=True)
class Mix:
    """Requests of one model: seconds of a row, and of each kind of request its share and its rows."""

    name: str
    row_seconds: float
    kinds: tuple[tuple[float, float], ...]

    @property
    def mean(self) -> float:
        """Seconds of a request on an idle replica, on average."""
        return self.row_seconds * sum(share * rows for share, rows in self.kinds)


ASKED = ((0.5, 1.0), (0.15, 1.7), (0.3, 20.0), (0.05, 80.0))
"""Half gradients, deeplift in between, automatic paths of 20 rows, and some that need 80."""
MIXES = (
    Mix("MobileNetV2, 2 cores of a CPU", 0.763 / 50, ASKED),
    Mix("ResNet-50, 2 cores of a CPU", 4.76 / 50, ASKED),
    Mix("BERT, 6 layers, 2 cores of a CPU", 16.4 / 50, ASKED),
)
"""Seconds of a row: IG of 50 rows in benchmarks/results/amd-epyc-2-threads.md."""


def simulate(mix: Mix, rate: float, replicas: int, seed: int) -> dict[str, float]:
    """Seconds that requests take, and the share of time in which replicas compute."""
    rng = np.random.default_rng(seed)
    requests = 10_000 + EACH * replicas
    arrivals = np.cumsum(rng.exponential(1 / rate, requests))
    shares, rows = np.array(mix.kinds).T
    service = mix.row_seconds * rng.choice(rows, requests, p=shares)
    free = np.zeros(replicas)  # when each has done what it was given
    end = float(arrivals[-1])
    failures = _failures(rng, replicas, end)
    backs = {(at, replica): back for at, replica, back in failures}
    queued: list[list[tuple[float, int]]] = [[] for _ in range(replicas)]
    done, computed = np.zeros(requests), 0.0
    waiting = [(float(at), k, k) for k, at in enumerate(arrivals)]  # time, tie, request
    heapq.heapify(waiting)
    for at, replica in backs:
        heapq.heappush(waiting, (at, -replica - 1, -1))
    ties = requests
    while waiting:
        now, tie, request = heapq.heappop(waiting)
        if request < 0:  # a replica is lost: what it has not finished is asked again
            replica = -tie - 1
            lost = [(finish, one) for finish, one in queued[replica] if finish > now]
            queued[replica] = []
            free[replica] = backs[now, replica]
            for _, one in lost:
                ties += 1
                heapq.heappush(waiting, (now + 0.2, ties, one))
            continue
        a, b = rng.integers(replicas, size=2)
        for one in (a, b):
            queued[one] = [(f, k) for f, k in queued[one] if f > now]
        chosen = a if len(queued[a]) <= len(queued[b]) else b
        start = max(now, free[chosen])
        finish = start + service[request]
        free[chosen] = finish
        computed += service[request]
        queued[chosen].append((finish, request))
        done[request] = finish
    warm = requests // 10
    took = (done - arrivals)[warm:]
    p50, p99 = np.percentile(took, [50, 99])
    return {
        "p50": float(p50),
        "p99": float(p99),
        "busy": computed / (replicas * end),
        "worst": float(took.max()),
    }


def _failures(rng: Any, replicas: int, end: float) -> list[tuple[float, int, float]]:
    """When which replica fails, and when it is back."""
    count = rng.poisson(replicas * end / (HOURS_BETWEEN_FAILURES * 3600))
    found = []
    for _ in range(count):
        at = float(rng.uniform(0, end))
        found.append((at, int(rng.integers(replicas)), at + float(rng.uniform(*RECOVERY))))
    return found


def least(mix: Mix, rate: float, seed: int) -> tuple[int, dict[str, float]]:
    """The fewest replicas at which the 99th percentile is within the limit."""
    idle = mix.row_seconds * mix.kinds[-1][1]  # the slowest kind is more than one in a hundred
    cells = max(1, round(rate * mix.mean / 0.7 / CELL))
    share = rate / cells
    low = high = max(1, int(share * mix.mean) + 1)
    while simulate(mix, share, high, seed)["p99"] > LIMIT * idle:
        low, high = high, int(high * 1.2) + 1
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (
            (low, middle) if simulate(mix, share, middle, seed)["p99"] <= LIMIT * idle else (middle, high)
        )
    return high * cells, simulate(mix, share, high, seed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_model", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = []
    for mix in MIXES:
        for rate in (10, 1_000, 100_000):
            replicas, found = least(mix, rate, given.seed)
            rows.append({"model": mix.name, "rate": rate, "mean": mix.mean, "replicas": replicas, **found})
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print("| requests of | a second | replicas | busy | median, s | p99, s | slowest, s |")
    print("|---|---|---|---|---|---|---|")
    for one in rows:
        print(
            f"| {one['model']} | {one['rate']:,} | {one['replicas']:,} | {one['busy']:.0%} | {one['p50']:.2f} | "
            f"{one['p99']:.2f} | {one['worst']:.2f} |"
        )


if __name__ == "__main__":
    main()
