"""Peak memory of a process that answers one request with a budget, less the budget, and less the peak of a process with
numpy and onnxruntime alone that runs one row of the same file."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.child import measured
from benchmarks.rows.hidden import hidden_layer
from benchmarks.table import Figure, most

TITLE = "Memory"
BUDGET, STEPS = 512, 50  # MB
TARGET = most(200)


def figures(bench: Bench) -> Iterator[Figure]:
    ready = bench.network("resnet50")
    with bench.asking(ready.file) as ask:
        hidden = hidden_layer(ready, ask)
    _, bare = measured("benchmarks.bare", ready.file, bench.threads)
    for method, layers in (("neuron_ig", [hidden]), ("integrated_gradients", [])):
        _, ours = measured("benchmarks.child", ready.file, bench.threads, method, BUDGET, STEPS, *layers)
        what = f"{method}, {STEPS} steps: MB above bare session + {BUDGET}"
        yield Figure(ready.name, what, ours - bare - BUDGET, TARGET, f"peaks {ours:.0f} MB and {bare:.0f} MB")
