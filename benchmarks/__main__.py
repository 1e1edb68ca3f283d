"""What attributions cost, as ratios to what else can be called, each with its target.

    python -m benchmarks                       everything, about 25 minutes; writes benchmarks/results/MACHINE.md
    python -m benchmarks --quick               small networks and few rounds: whether it runs, not how fast
    python -m benchmarks --only gradients error
    python -m benchmarks --profile resnet50    where the time of a gradient request goes

A new network is an entry of `networks.py`, a new kind of row a file in `rows` and its place in `rows/__init__.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import onnxruntime as ort

from benchmarks import table
from benchmarks.bench import Bench
from benchmarks.networks import NETWORKS
from benchmarks.rows import SECTIONS
from onnx_attribution.server.engine.backend import available_cores


def main(arguments: list[str]) -> int:
    """Prints each row as it is measured, and at the end which targets are missed."""
    names = [section.name for section in SECTIONS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"only some of: {', '.join(names)}"
    )
    parser.add_argument("--quick", action="store_true", help="small networks, few rounds")
    parser.add_argument(
        "--threads", type=int, default=available_cores(), help="of a run, ours and the others'"
    )
    parser.add_argument(
        "--write", action="store_true", help="with --only: write what was measured into the page"
    )
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="the process's own seconds, on a machine that others use too",
    )
    parser.add_argument("--profile", nargs="+", choices=[n.key for n in NETWORKS], metavar="NETWORK")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # torch, Captum and transformers warn of their own code
    ort.set_default_logger_severity(3)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.threads, given.quick, given.processor_time)
        if given.profile:
            from benchmarks.profile import profile

            for name in given.profile:
                print(profile(bench, name), "\n", flush=True)
            return 0
        measure(bench, given.only or names, write=not given.quick and (not given.only or given.write))
    return 0


def measure(bench: Bench, names: list[str], *, write: bool) -> None:
    """Measures some sections, prints their rows, and writes them if that is wanted."""
    started, found, parts = time.monotonic(), [], {}
    print(f"{table.machine(bench.threads)}; {table.versions()}")
    for section in SECTIONS:
        if section.name not in names:
            continue
        began, figures = time.monotonic(), []
        print("", f"## {section.title} ({section.name})", *table.head(), sep="\n", flush=True)
        for figure in section.figures(bench):
            figures.append(figure)
            print(table.line(figure.cells()), flush=True)
        print(f"{time.monotonic() - began:.0f} s")
        found += figures
        note = section.note + " Seconds are those of the process, of all its threads." * bench.processor
        parts[section.title] = table.section(section.title, note, figures)
    print("", "" if bench.quick else table.summary(found), f"{time.monotonic() - started:.0f} s", sep="\n")
    if write:
        page = table.RESULTS / f"{table.machine(bench.threads)}.md"
        table.write(page, parts, bench.threads)
        print(f"written: {page}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
