"""What works where a path sum does not: another quadrature or baseline, tried on one sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from onnx_attribution.errors import AttributionError
from onnx_attribution.methods import Quadrature
from onnx_attribution.server.engine.methods.path import path_sums, plan_of
from onnx_attribution.server.engine.models.forward import moved
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Path, contribution
from onnx_attribution.server.engine.request import targets
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.targets import per_sample

STEPS = 64
"""At most as many are tried."""
SHARES = (0.01, 0.1, 0.5)
"""Of the largest number of a source: noise that a baseline is tried with."""
GOOD = 0.05
"""Of the change: what a sum that works may miss."""


def remedy(
    model: LoadedModel,
    resolved: Resolved,
    sample: int,
    complete: Sequence[str],
    steps: int,
    memory: int,
    may_go_on: Callable[[], bool],
) -> str:
    """In words the first change that makes the attributions finite, and the sum of the layers `complete` that of the
    target's change; "" where none of those tried does, or the time is over."""
    alone = resolved.only(sample)
    for words, changed in _tried(alone):
        change = _change(model, changed)
        try:
            runs = path_sums(model, [changed], plan_of(changed, max(2, min(steps, STEPS))), memory)
            while True:
                if not may_go_on():
                    return ""
                next(runs)
        except StopIteration as end:
            fine = end.value[0].fine
        except AttributionError:
            continue
        if not all(np.isfinite(found).all() for found in fine.values()) or not change:
            continue
        total = sum(float(per_sample(fine[name])[0]) for name in complete)
        if not complete or abs(total - change) <= GOOD * abs(change):
            return words
    return ""


def _tried(resolved: Resolved) -> Iterator[tuple[str, Resolved]]:
    at = resolved.recipe.at
    assert isinstance(at, Path)
    whole = resolved.recipe if at.conductance or at.apart else replace(resolved.recipe, reduce=contribution)
    open_ends: tuple[Quadrature, ...] = ("gausslegendre", "riemann_middle")
    for quadrature in open_ends:
        if at.quadrature != quadrature:
            changed = replace(resolved, recipe=replace(whole, at=replace(at, quadrature=quadrature)))
            yield f"the quadrature {quadrature!r}, which leaves out the ends", changed
    for share in SHARES:
        rng = np.random.default_rng(0)
        noisy = {}
        (run,) = resolved.samples.runs
        for name, low in run.baselines.items():
            high = run.x[name].astype(np.float64)
            noise = share * np.abs(high).max(initial=0) * rng.normal(size=low.shape)
            noisy[name] = (low.astype(np.float64) + noise).astype(low.dtype)
        changed = replace(resolved, recipe=whole, samples=resolved.samples.filled(baselines=[noisy]))
        yield f"noise at the baseline (normal, {share:g} of the largest number of the input)", changed


def _change(model: LoadedModel, resolved: Resolved) -> float:
    """The target at x less its value at the baseline."""
    (run,) = resolved.samples.runs
    target = resolved.choice.target
    found = moved(model, run.x, run.baselines, [target])[target]
    return float(
        (resolved.value - targets.values([found], resolved.samples.place(target), resolved.selection))[0]
    )
