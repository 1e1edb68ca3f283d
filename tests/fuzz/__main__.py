"""Random small models against differences of the file, each sample alone: `python -m tests.fuzz --seconds 600 --seed 7`.

`--case SEED:PLACE` asks about one case again and prints its model.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import numpy as np
import onnx
from onnx_graphsurgeon.logger import G_LOGGER

from tests.fuzz.compare import Fault, Tally, examine
from tests.fuzz.generate import Case, draw
from tests.fuzz.recipes import THEMES
from tests.fuzz.reference import NotRunnable


def main(arguments: list[str]) -> int:
    """Prints every fault with its model, and a summary; ends with 1 if there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--theme", action="append", choices=[*THEMES], help="only models of this kind")
    parser.add_argument("--case", help="SEED:PLACE, as a fault names it")
    parser.add_argument("--quiet", action="store_true", help="no models")
    given = parser.parse_args(arguments)
    G_LOGGER.severity = G_LOGGER.ERROR
    themes = given.theme or list(THEMES)
    tally, begun = Tally(), time.monotonic()
    if given.case:
        seed, place = map(int, given.case.split(":"))
        _try(draw(seed, place), tally, given.quiet)
    else:
        place = 0
        while time.monotonic() - begun < given.seconds:
            if [*THEMES][place % len(THEMES)] in themes:
                _try(draw(given.seed, place), tally, given.quiet)
            place += 1
    summary(tally)
    print(f"{time.monotonic() - begun:.0f} s")
    return 1 if tally.faults else 0


def _try(case: Case, tally: Tally, quiet: bool) -> None:
    try:
        faults = examine(case, tally)
    except NotRunnable:
        tally.unrunnable += 1
        return
    if faults and not quiet:
        print(described(case, faults))
    elif faults:
        print(f"{case.label} {case.theme}: " + "; ".join(f"{f.kind} ({f.ask}) {f.words[:150]}" for f in faults[:2]))


def described(case: Case, faults: list[Fault]) -> str:
    """A failing case in words: what is wrong, the model, the inputs, and how to see it again."""
    lines = [f"--- {case.label}, {case.theme}: python -m tests.fuzz --case {case.label}"]
    lines += [f"{fault.kind}: {fault.ask}: {fault.words}" for fault in faults]
    lines.append(onnx.printer.to_text(case.model))
    for k, row in enumerate(case.rows):
        for name, array in row.items():
            lines.append(f"sample {k}, {name}: {np.array2string(array, precision=17, separator=', ')}")
    axes = {x.name: x.axis for x in case.inputs}
    lines.append(f"axes {axes}, stated {dict(case.stated)}; target {case.target}{list(case.index)}")
    return "\n".join(lines)


def summary(tally: Tally) -> None:
    """What was compared, what was refused, and the faults by theme and kind."""
    print(
        f"{tally.cases} cases ({tally.unrunnable} not runnable), {tally.answers} answers, {tally.numbers} numbers, "
        f"{tally.kinks} at kinks"
    )
    for theme, asked in tally.asked.items():
        print(f"  {theme}: {asked} asked, {tally.refused[theme]} refused")
    for words, count in tally.reasons.most_common():
        print(f"  {count} refused, {words}")
    kinds = Counter((case.theme, fault.kind) for case, fault in tally.faults)
    for (theme, kind), count in sorted(kinds.items()):
        print(f"  FAULT {theme}: {kind}, {count}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
