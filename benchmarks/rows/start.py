"""From a file to its first gradient, of one row, in a process of its own; beside a process with numpy and onnxruntime
alone that makes a session of the file and runs one row. Seconds are without imports, memory is that of the process."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial

import onnx

from benchmarks import files
from benchmarks.bare import TOKENS
from benchmarks.bench import Bench
from benchmarks.child import measured
from benchmarks.table import Figure

TITLE = "From a file to the first gradient"
ROUNDS = 3
FILES = {
    "ResNet-50": partial(files.resnet, (3, 4, 6, 3), True),
    "BERT-base": partial(files.bert, tokens=TOKENS),
}


def figures(bench: Bench) -> Iterator[Figure]:
    for name, make in FILES.items():
        path = bench.folder / f"start-{name}.onnx"
        onnx.save(make(), str(path))
        bare, ours = [], []
        for _ in range(1 if bench.quick else ROUNDS):
            bare.append(measured("benchmarks.bare", path, bench.threads))
            ours.append(measured("benchmarks.child", path, bench.threads, "gradient"))
        (slow, large), (quick, small) = (
            map(statistics.median, zip(*rounds, strict=True)) for rounds in (ours, bare)
        )
        yield Figure(name, "time / bare session", slow / quick, how=f"{slow:.2f} s and {quick:.2f} s")
        yield Figure(
            name, "peak memory / bare session", large / small, how=f"{large:.0f} MB and {small:.0f} MB"
        )
        path.unlink()
        if bench.quick:
            return
