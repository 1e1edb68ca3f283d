"""Faults of the kinds that the fuzzer is for, put into right answers: what an engine would say that had them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from onnx_attribution.values import Attribution, LayerAttribution
from tests.fuzz.draft import Array
from tests.fuzz.generate import Case
from tests.fuzz.reference import session

Plant = Callable[[Attribution, Case], Attribution]


def too_large(found: Attribution, _: Case) -> Attribution:
    """Every number is 0.05 % too large."""
    return _with(found, {name: _wide(layer) * 1.0005 for name, layer in found.layers.items()})


def wrong_input(found: Attribution, _: Case) -> Attribution:
    """Inputs of one shape get each other's credit, so that all sums stay."""
    maps = {name: layer.values for name, layer in found.layers.items()}
    names = list(maps)
    for k, a in enumerate(names):
        for b in names[k + 1 :]:
            if maps[a].shape == maps[b].shape:
                return _with(found, {**maps, a: maps[b], b: maps[a]})
    return found


def wrong_element(found: Attribution, _: Case) -> Attribution:
    """Each element gets the credit of its neighbour."""
    maps = {name: layer.values for name, layer in found.layers.items()}
    return _with(
        found, {n: np.roll(a.reshape(len(a), -1), 1, axis=1).reshape(a.shape) for n, a in maps.items()}
    )


def exchanged(found: Attribution, _: Case) -> Attribution:
    """The first sample gets the numbers of the last."""
    return _with(found, {name: layer.values[::-1] for name, layer in found.layers.items()})


def summed(found: Attribution, _: Case) -> Attribution:
    """Every sample gets what all of them have, as where a shape of 1 is believed."""
    return _with(found, {n: np.zeros_like(x.values) + x.values.sum(axis=0) for n, x in found.layers.items()})


def spoilt(found: Attribution, _: Case) -> Attribution:
    """NaN of one sample is everyone's."""
    maps = {name: _wide(layer) for name, layer in found.layers.items()}
    return _with(found, {n: a * (np.nan if np.isnan(a).any() else 1.0) for n, a in maps.items()})


def scalar_summed(found: Attribution, _: Case) -> Attribution:
    """At a tensor of rank 0 every sample gets the total."""
    return _with(
        found,
        {n: x.values.sum() + np.zeros_like(x.values) for n, x in found.layers.items() if x.values.ndim == 1},
    )


def left_out(found: Attribution, _: Case) -> Attribution:
    """Only the first source is explained, and nothing is said."""
    first = next(iter(found.layers))
    return replace(found, layers={first: found.layers[first]}, warnings=())


def nothing_moves(found: Attribution, _: Case) -> Attribution:
    """The baseline is x itself, so that nobody gets any credit."""
    target = replace(found.target, baseline_value=found.target.value)
    return replace(_with(found, {n: 0 * x.values for n, x in found.layers.items()}), targets=(target,))


def mixed(found: Attribution, case: Case) -> Attribution:
    """The target is that of all samples in one run, where they meet in an extreme."""
    run = session(case.model)
    if len(found.target.value) < len(case.rows):
        return found
    (together,) = run.run([case.target], case.together(range(len(case.rows))))
    rows = np.moveaxis(together, case.dims[case.target].index("N"), 0)
    value = np.array([float(np.sum(row[case.index])) for row in rows])
    return replace(found, targets=(replace(found.target, value=value),))


def sure(found: Attribution, _: Case) -> Attribution:
    """No error is estimated."""
    layers = {n: replace(x, error_estimate=0 * x.error_estimate) for n, x in found.layers.items()}
    return replace(found, layers=layers)


def _wide(layer: LayerAttribution) -> Array:
    return layer.values.astype(np.float64)


def _with(found: Attribution, maps: dict[str, Array]) -> Attribution:
    """The answer with other maps, in the types that they had."""
    layers = dict(found.layers)
    for name, values in maps.items():
        layers[name] = replace(layers[name], values=np.asarray(values).astype(layers[name].values.dtype))
    return replace(found, layers=layers)
