"""`deeplift_rescale` of one sample, beside one forward pass and Captum's DeepLift. First with another reference each
time, then with one that is always the same and may be kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.bench import NO_CAPTUM, Bench
from benchmarks.networks import HAS_CAPTUM, Ready
from benchmarks.table import Figure, least, most

TITLE = "DeepLIFT"
CACHED = most(2.6)


def figures(bench: Bench) -> Iterator[Figure]:
    for ready in bench.networks:
        yield from _figures(bench, ready)


def _figures(bench: Bench, ready: Ready) -> Iterator[Figure]:
    one = ready.inputs(1)
    with bench.asking(ready.file) as ask:
        source = next(iter(ask(one, "deeplift_rescale").layers))
        shape = ask.engine.predict("model", one, [source])[source].shape[1:]
        new = (np.full(shape, 1e-3 * k, np.float32) for k in itertools.count(1))
        programs: dict[str, Callable[[], object]] = {
            "forward": lambda: ready.forward(one),
            "ours": lambda: ask(one, "deeplift_rescale", baselines={source: next(new)}),
            "reference kept": lambda: ask(one, "deeplift_rescale"),
        }
        refused = _captum(ready, one, programs)
        times = bench.alternating(programs)
    what = "deeplift_rescale / one forward"
    target = most(ready.network.deeplift)
    yield Figure(ready.name, what, times.ratio("ours", "forward"), target, times.words())
    yield Figure(ready.name, f"{what}, reference cached", times.ratio("reference kept", "forward"), CACHED)
    ratio = None if refused else times.ratio("Captum", "reference kept")
    yield Figure(ready.name, "Captum DeepLift / ours, reference cached", ratio, least(1), refused)


def _captum(ready: Ready, one: Any, programs: dict[str, Callable[[], object]]) -> str:
    """Adds Captum's; or says why not."""
    if not HAS_CAPTUM:
        return NO_CAPTUM
    from benchmarks import peers

    try:
        programs["Captum"] = peers.deeplift(ready.module, peers.tensors(one))
    except Exception as error:  # Captum has no types of its own
        return f"Captum refuses: {str(error).splitlines()[0][:100]}"
    return ""
