"""One clock for all rows: what is compared takes turns, so that what else the machine does meets all of it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Clock = Callable[[], float]
Programs = Mapping[str, Callable[[], object]]
SHORTEST = 0.03  # seconds: a shorter program is repeated until a turn takes as long
FEWEST = 2
SETTLED = 0.05
"""Seconds before each turn: onnxruntime's threads wait busily for about 40 ms after a run, and would slow the next."""


@dataclass(frozen=True)
class Ratio:
    """The median over the rounds, and the smallest and largest."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Times:
    """Seconds of each program, one number a round."""

    rounds: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def ratio(self, above: str, below: str, factor: float = 1.0) -> Ratio:
        """How many times as long one program takes as the other, compared within each round."""
        pairs = zip(self.rounds[above], self.rounds[below], strict=True)
        found = sorted(factor * a / b for a, b in pairs)
        return Ratio(statistics.median(found), found[0], found[-1])

    def words(self, *names: str) -> str:
        """The medians, e.g. `forward 12.3 ms, ours 25.1 ms`; of all programs without names."""
        return ", ".join(f"{n} {duration(self.median(n))}" for n in names or self.rounds)


def alternating(
    programs: Programs, rounds: int = 5, seconds: float = math.inf, clock: Clock = time.perf_counter
) -> Times:
    """Times of programs that take turns, after one round that is not counted.

    Beyond `seconds` no further round begins, once there are two. A `clock` of the process's own time leaves out what
    other processes take.
    """
    found: dict[str, list[float]] = {name: [] for name in programs}
    repeats = {}
    for name, run in programs.items():
        run()  # loads, compiles, allocates
        repeats[name] = max(1, math.ceil(SHORTEST / max(_seconds(run, 1, clock), 1e-7)))
    started = time.perf_counter()
    for number in range(rounds):
        if number >= FEWEST and time.perf_counter() - started > seconds:
            break
        for name, run in programs.items():
            found[name].append(_seconds(run, repeats[name], clock))
    return Times({name: tuple(each) for name, each in found.items()})


def _seconds(run: Callable[[], object], repeats: int, clock: Clock) -> float:
    time.sleep(SETTLED)
    started = clock()
    for _ in range(repeats):
        run()
    return (clock() - started) / repeats


def duration(seconds: float) -> str:
    """In words: `1.23 s`, `45.6 ms`."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
