"""Whether a map says what the model does: infidelity, and the sum to the change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np

from onnx_attribution.client.audit.arrays import Floats, Forward, Inputs, Maps
from onnx_attribution.client.audit.metrics.metric import Metric, declared, flat, ratio
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import Method, MethodInfo, make
from onnx_attribution.register import named
from onnx_attribution.values import Array

Perturb = Callable[[Inputs, np.random.Generator], tuple[Maps, Inputs]]
"""From inputs to I, by source as the attributions are, and to the inputs that are perturbed by it."""

Factor = Literal["none", "difference", "value"]
"""What attributions are multiplied by: nothing, as a gradient, x - x' or x."""

INFIDELITY = declared(
    Metric(
        "infidelity",
        "lower",
        "faithfulness",
        "E[(sum_i I_i a_i - (F(x) - F(x~)))^2] over perturbations x~ of x; normalised: with b a for a, where "
        "b = E[s d] / E[s^2] for s = sum_i I_i a_i and d = F(x) - F(x~)",
        "arXiv 1901.09392; Captum's infidelity",
        chance="floor",
        quantus="Infidelity",
    )
)
COMPLETENESS = declared(
    Metric(
        "completeness",
        "lower",
        "axiomatic",
        "|sum_i a_i - (F(x) - F(x'))| / |F(x) - F(x')|",
        "arXiv 1703.01365, axiom of completeness",
        quantus="Completeness",
    )
)


def infidelity(
    forward: Forward,
    inputs: Inputs,
    maps: Maps,
    perturb: Perturb,
    *,
    count: int = 10,
    normalize: bool = False,
    seed: int = 0,
) -> Floats:
    """INFIDELITY of `count` perturbations."""
    if count < 1:
        raise InvalidArgument(f"count must be at least 1, not {count}", parameter="count")
    rng, own, value = np.random.default_rng(seed), flat(maps), forward(inputs)
    products, changes = [], []
    for _ in range(count):
        by, changed = perturb(inputs, rng)
        if set(by) != set(maps):
            raise InvalidArgument(
                f"what is perturbed, {', '.join(by)}, is not what is explained, {', '.join(maps)}"
            )
        products.append((own * flat({name: by[name] for name in maps})).sum(axis=1))
        changes.append(value - forward(changed))
    s, d = np.stack(products), np.stack(changes)
    if normalize:  # Captum's: where every s is 0 there is nothing to scale
        s = s * ratio((s * d).mean(axis=0), (s**2).mean(axis=0), otherwise=0.0)
    return np.asarray(((s - d) ** 2).mean(axis=0))


def factor_of(method: Method | str, known: Iterable[MethodInfo]) -> Factor:
    """What attributions are multiplied by already.

    `known` are the methods of whoever is asked, which declare it: products of a method that takes no baseline are with
    the values. A noisy method is as the one inside of it.
    """
    value = make(method)
    if "of" in (given := value.parameters()):
        name, own = named(str(given["of"]))
        value = make(name, {key: one for key, one in given.items() if key == "multiply_by_inputs"} | own)
        given = value.parameters()
    about = next((one for one in known if one.name == value.name), None)
    if about is None:
        return "difference" if given.get("multiply_by_inputs", False) else "none"
    if not about.multiplied_by_inputs or not given.get("multiply_by_inputs", True):
        return "none"
    return "difference" if about.needs_reference else "value"


def completeness(maps: Maps, change: Floats) -> Floats:
    """COMPLETENESS; where nothing changes 0 if the map sums to 0 too, else infinite."""
    missed = np.abs(flat(maps).sum(axis=1) - change)
    return ratio(missed, np.abs(change), otherwise=0.0) + np.where((change == 0) & (missed > 0), np.inf, 0.0)


def noise(sources: tuple[str, ...], deviation: float) -> Perturb:
    """Normal noise on the sources: x~ = x - I."""

    def perturb(inputs: Inputs, rng: np.random.Generator) -> tuple[Maps, Inputs]:
        by = {name: rng.normal(0.0, deviation, np.shape(inputs[name])) for name in sources}
        return by, _less(inputs, by)

    return perturb


def removed_squares(
    sources: tuple[str, ...],
    baselines: Mapping[str, float | Array] | None = None,
    *,
    share: float = 0.25,
    factor: Factor = "none",
) -> Perturb:
    """A window of the last two axes (of one axis: a stretch) goes to the baseline. Its sides are so large a
    share of the axes.

    I is x - x~, what a gradient is multiplied by. Of attributions that have the `factor` x - x' already it is 1 where
    an element goes to a baseline that it is not at, and of those with the factor x it is (x - x~) / x; 0 where x is 0,
    of which such a map says nothing.
    """
    given = baselines or {}

    def perturb(inputs: Inputs, rng: np.random.Generator) -> tuple[Maps, Inputs]:
        removed = {}
        for name in sources:
            values = np.asarray(inputs[name], np.float64)
            mask = np.zeros(values.shape, bool)
            for k in range(len(values)):
                place = []
                for size in values.shape[1:][-2:]:
                    side = max(round(share * size), 1)
                    first = int(rng.integers(size - side + 1))
                    place.append(slice(first, first + side))
                mask[k][(..., *place)] = True
            removed[name] = np.where(mask, values - np.asarray(given.get(name, 0.0), np.float64), 0.0)
        return {name: _beside(factor, inputs[name], one) for name, one in removed.items()}, _less(
            inputs, removed
        )

    return perturb


def _beside(factor: Factor, values: Array, removed: Floats) -> Floats:
    """What attributions with this factor are multiplied by, to foretell what is removed."""
    if factor == "none":
        return removed
    if factor == "difference":
        return np.asarray(removed != 0, np.float64)
    return ratio(removed, np.asarray(values, np.float64), otherwise=0.0)


def _less(inputs: Inputs, by: Maps) -> Inputs:
    """The inputs less what they are perturbed by, in their types."""
    changed = {
        name: (np.asarray(inputs[name], np.float64) - one).astype(np.asarray(inputs[name]).dtype)
        for name, one in by.items()
    }
    return {**inputs, **changed}
