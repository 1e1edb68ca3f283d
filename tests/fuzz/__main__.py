"""Random small models against differences of the file: `python -m tests.fuzz --seconds 600 --seed 7`.

`--case SEED:PLACE` asks about one case again and prints its model, `--shrink` the smallest one that fails alike.
"""

from __future__ import annotations

import argparse
import sys
import time

from onnx_graphsurgeon.logger import G_LOGGER

from tests.fuzz.compare import examine
from tests.fuzz.generate import Case, draw
from tests.fuzz.questions import asks
from tests.fuzz.recipes import THEMES, TURNS
from tests.fuzz.reference import NotRunnable
from tests.fuzz.shrink import shrunk
from tests.fuzz.tally import Tally, described


def main(arguments: list[str]) -> int:
    """Prints every fault with its model, and a summary; ends with 1 if there is a fault, or too much is refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--theme", action="append", choices=[*THEMES], help="only models of this kind")
    parser.add_argument("--case", help="SEED:PLACE, as a fault names it")
    parser.add_argument("--shrink", action="store_true", help="make failing models smaller")
    parser.add_argument("--quiet", action="store_true", help="one line for each failing case")
    given = parser.parse_args(arguments)
    G_LOGGER.severity = G_LOGGER.ERROR
    themes = given.theme or list(THEMES)
    tally, begun = Tally(), time.monotonic()
    if given.case:
        seed, place = map(int, given.case.split(":"))
        _try(draw(seed, place), tally, given)
    else:
        place = 0
        while time.monotonic() - begun < given.seconds:
            if TURNS[place % len(TURNS)] in themes:
                _try(draw(given.seed, place), tally, given)
            place += 1
    doubts = tally.doubts() if not given.case else []
    print("\n".join([*tally.lines(), *doubts, f"{time.monotonic() - begun:.0f} s"]))
    return 1 if tally.faults or doubts else 0


def _try(case: Case, tally: Tally, given: argparse.Namespace) -> None:
    try:
        faults = examine(case, tally)
    except NotRunnable:
        tally.unrunnable += 1
        return
    if not faults:
        return
    if given.quiet:
        words = "; ".join(f"{f.kind} ({f.ask[:40]}) {f.words[:150]}" for f in faults[:2])
        print(f"{case.label} {case.theme}: {words}", flush=True)
    elif given.shrink:
        (ask,) = [ask for ask in asks(case) if str(ask) == faults[0].ask][:1]
        small = shrunk(case, faults[0].kind, ask)
        print(described(small, examine(small, Tally(), only=ask)), flush=True)
    else:
        print(described(case, faults), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
