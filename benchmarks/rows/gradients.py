"""A gradient at the input, asked of the engine as a request, beside one forward pass of onnxruntime and the gradient of
torch, of as many samples as stand behind the name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.bench import NO_TORCH, Bench
from benchmarks.networks import HAS_TORCH, Ready
from benchmarks.table import Figure, least, most

TITLE = "Gradients"


def figures(bench: Bench) -> Iterator[Figure]:
    for ready in bench.networks:
        yield from _figures(bench, ready)


def _figures(bench: Bench, ready: Ready) -> Iterator[Figure]:
    inputs, name = ready.inputs(), f"{ready.name} ({ready.size.batch})"
    with bench.asking(ready.file) as ask:
        programs: dict[str, Callable[[], object]] = {
            "onnxruntime forward": lambda: ready.forward(inputs),
            "ours": lambda: ask(inputs, "gradient"),
        }
        if HAS_TORCH:
            from benchmarks import peers

            x = peers.tensors(inputs)
            programs["torch forward"] = lambda: peers.forward(ready.module, x)
            programs["torch"] = lambda: peers.gradient(ready.module, x)
        times = bench.alternating(programs, rounds=7)
    what = "gradient request / onnxruntime forward"
    yield Figure(
        name, what, times.ratio("ours", "onnxruntime forward"), most(ready.network.gradient), times.words()
    )
    target = least(ready.network.torch)
    if HAS_TORCH:
        yield Figure(name, "torch gradient / ours", times.ratio("torch", "ours"), target)
    else:
        yield Figure(name, "torch gradient / ours", None, target, NO_TORCH)
