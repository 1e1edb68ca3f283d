"""Many layers in one answer, beside the gradient at the input alone: the same walk yields all of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.bench import Bench
from benchmarks.table import Figure, most
from onnx_attribution.errors import AttributionError

TITLE = "Every layer in one pass"
PATTERNS = {"*": most(1.3), "**": most(1.7)}


def figures(bench: Bench) -> Iterator[Figure]:
    ready = bench.network("resnet50")
    inputs = ready.inputs()
    name = f"{ready.name} ({ready.size.batch})"
    for pattern, target in PATTERNS.items():
        what = f"gradients at layers '{pattern}' / at the input"
        with bench.asking(ready.file) as ask:
            try:
                found = len(ask(inputs, "gradient", layers=[pattern]).layers)
            except AttributionError as error:
                yield Figure(name, what, None, target, str(error).splitlines()[0][:160])
                continue
            programs = {
                "input": partial(ask, inputs, "gradient"),
                "layers": partial(ask, inputs, "gradient", layers=[pattern]),
            }
            times = bench.alternating(programs)
        how = f"{found} layers; {times.words()}"
        yield Figure(name, what, times.ratio("layers", "input"), target, how)
