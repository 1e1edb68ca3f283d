"""A seeded soak against a server in a process of its own: `python -m benchmarks.soak --seconds 180 [--only NAME]`.

The scenarios take turns; what they find stands in a table beside what is promised. Ends with 1 if anything is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks import table
from benchmarks.soaking import apart, attacks, load, speed, strangers
from benchmarks.soaking.child import CONTROLS
from benchmarks.soaking.world import World, world
from benchmarks.table import Figure, most

Scenario = Callable[[World], Iterator[Figure]]
SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        speed.start,
        speed.overhead,
        speed.throughput,
        speed.cancellation,
        speed.endless,
        speed.cancelled,
        load.overload,
        load.connections,
        load.drain,
        load.loading,
        load.together,
        load.slow_reader,
        load.restart,
        attacks.hostile,
        attacks.killed_client,
        attacks.fuzz,
        strangers.strangers,
        apart.isolated,
    )
}


def soak(seconds: float, seed: int, only: str = "", control: str = "none") -> list[Figure]:
    """The figures of the scenarios, or of one, printed as they come."""
    figures = list[Figure]()
    with world(seconds, seed, control) as shared:
        for name, scenario in SCENARIOS.items():
            if only in ("", name):
                began = time.monotonic()
                for figure in _figures(name, scenario, shared):
                    figures.append(figure)
                    print(table.line(figure.cells()), flush=True)
                print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    return figures


def _figures(name: str, scenario: Scenario, shared: World) -> Iterator[Figure]:
    """Those of one scenario; one that fails is one that is missed."""
    try:
        yield from scenario(shared)
    except Exception as error:
        yield Figure(name, "failures", 1, most(0), f"{type(error).__name__}: {error}"[:300])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180, help="about how long; the counts go with it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", choices=SCENARIOS, metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--control", choices=CONTROLS, default="none", help="a server that has to fail")
    given = parser.parse_args()
    print("\n".join(table.head()), flush=True)
    figures = soak(given.seconds, given.seed, given.only, given.control)
    print(table.summary(figures))
    return int(any(figure.verdict == "missed" for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
