"""Where the programs of real models would run on CUDA, asked on a machine without a device: `make placement`.

onnxruntime-gpu has the kernels and the partitioner; libraries of which only the names are real let it load
(`stubs.py`). Nothing runs, so this says nothing about numbers, times or memory. For each model of `models.py` the
programs of gradients, path methods and DeepLIFT are built and their nodes counted: on CUDA; on the CPU, where the
arithmetic of shapes belongs; copies between the two; and what else is on the CPU, which is a fault, and the status 1.
`--write` keeps the table in `placed.md`; words choose the models whose names hold one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.placement import models, stubs
from tests.placement.place import Placed

TITLE = """# Where programs run on CUDA

Written by `make placement PLACEMENT=--write`; `__main__.py` says what it is.
"""
HEADER = "| model | program | on CUDA | on the CPU, of shapes | copies | on the CPU, else |\n|---|---|---|---|---|---|"


def _all(names: list[str]) -> Iterator[Placed]:
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(2, get_context("spawn"), stubs.load, (stubs.build(Path(folder)),)) as pool,
    ):
        for found in pool.map(models.placed_by_name, names):
            yield from found


def main(arguments: list[str]) -> int:
    """Prints the table; the status is 1 if there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.placement", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the table in placed.md")
    parser.add_argument("words", nargs="*", help="parts of the names of models; default: all")
    given = parser.parse_args(arguments)
    if lacks := stubs.missing():
        print(f"placement: skipped, {lacks}")
        return 0
    names = [*models.GENERATED, *models.files()]
    names = [n for n in names if not given.words or any(word in n for word in given.words)]
    print(HEADER)
    lines, wrong = [HEADER], 0
    for found in _all(names):
        lines.append(found.line())
        print(lines[-1], flush=True)
        wrong += models.at_fault(found)
    if given.write:
        (Path(__file__).parent / "placed.md").write_text("\n".join([TITLE, *lines, ""]))
    print(f"placement: {len(lines) - 1} programs, {wrong} with more than the arithmetic of shapes on the CPU")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
