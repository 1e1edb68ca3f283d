"""Path methods with a fixed number of rows, for one sample: 50 gradients on the path, beside 51 forward passes of
onnxruntime and the same number of steps in Captum. Both are given the batch of the network as the rows of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.bench import FIXED, NO_CAPTUM, Bench
from benchmarks.networks import HAS_CAPTUM, Ready
from benchmarks.rows.hidden import hidden_layer
from benchmarks.table import Figure, least, most

TITLE = "Path methods, 50 steps"
STEPS = 50
LAYERED = {"resnet50": 1.4}
"""Where a hidden layer is asked for, and the target of its ratio."""
CAPTUM = "Captum LayerConductance / ours"


def figures(bench: Bench) -> Iterator[Figure]:
    for ready in bench.networks:
        yield from _figures(bench, ready)


def _figures(bench: Bench, ready: Ready) -> Iterator[Figure]:
    one, rows, layered = ready.inputs(1), ready.inputs(STEPS + 1), ready.network.key in LAYERED
    with bench.asking(ready.file) as ask:
        # a trapezoid of 49 segments has 50 rows
        programs: dict[str, Callable[[], object]] = {
            "51 forwards": lambda: ready.forward(rows),
            "IG": lambda: ask(one, "integrated_gradients", steps=STEPS - 1, **FIXED),
        }
        if layered:
            layer = hidden_layer(ready, ask)
            programs["neuron_ig"] = lambda: ask(one, "neuron_ig", layers=[layer], steps=STEPS, **FIXED)
        if HAS_CAPTUM:
            from benchmarks import peers

            x = peers.tensors(one)
            programs["Captum IG"] = peers.integrated_gradients(ready.module, x, STEPS, ready.size.batch)
            if layered:
                programs["Captum LayerConductance"] = peers.layer_conductance(
                    ready.module, ready.layer, x, STEPS, ready.size.batch
                )
        times = bench.alternating(programs, seconds=90)
    name = ready.name
    bound = most(ready.network.path)
    yield Figure(name, "50 rows of IG / 51 forwards", times.ratio("IG", "51 forwards"), bound, times.words())
    if HAS_CAPTUM:
        yield Figure(name, "Captum IG / ours", times.ratio("Captum IG", "IG"), least(1))
    else:
        yield Figure(name, "Captum IG / ours", None, least(1), NO_CAPTUM)
    if layered:
        what, bound = "neuron_ig, 50 steps / 51 forwards", most(LAYERED[ready.network.key])
        yield Figure(f"{name}, {layer}", what, times.ratio("neuron_ig", "51 forwards"), bound)
        if HAS_CAPTUM:
            ratio = times.ratio("Captum LayerConductance", "neuron_ig")
            yield Figure(f"{name}, {layer}", CAPTUM, ratio, least(1))
