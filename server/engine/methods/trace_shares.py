"""fb_trace: shares of what is explained, and thresholds by a budget of positions."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.graph_tools.relevance import trace as tables
from onnx_attribution.server.engine.methods.maps import channel_axis, samples_first
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import AtInput, Floats, Recipe, Trace, contribution
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.targets import per_sample
from onnx_attribution.server.engine.rows.points import rows_at
from onnx_attribution.supports import LayerSupport, layer_support

BISECTIONS, DEPTH = 10, 20
"""A threshold is looked for in so many steps, down to 2^-20 of the largest: to 1.4 %."""
SHOWN = 5
COLOURS = 4
"""As many channels a picture has."""
Layers = dict[str, Floats]
Found = tuple[Layers, Floats]
"""The shares of each layer, and the target's values."""
Mask = NDArray[np.bool_]


def trace_of(resolved: Resolved) -> Trace:
    assert isinstance(resolved.recipe.at, Trace)
    return resolved.recipe.at


def samples_and_channels(resolved: Resolved, name: str, shares: Floats) -> tuple[Floats, int | None]:
    """`[samples, *unit]`, and the axis of the channels of one sample; None: it has no positions."""
    units, _ = samples_first(resolved, name, shares)
    if units.ndim < 3:
        return units, None
    told, sources = trace_of(resolved).channel_axis, resolved.choice.sources
    if name not in sources and all(_rank(resolved, one) != units.ndim for one in sources):
        told = None
    if told == 0:
        return units[:, None], 0
    return units, _channels(name, units.shape, told) - 1


def _rank(resolved: Resolved, source: str) -> int:
    """The axes of a source, with that of the samples."""
    high, _ = resolved.samples.ends(source)
    return samples_first(resolved, source, np.asarray(high))[0].ndim


def layer_supports(resolved: Resolved, name: str, shares: Floats) -> list[LayerSupport]:
    units, axis = samples_and_channels(resolved, name, shares)
    return [layer_support(one, axis, trace_of(resolved).top) for one in units]


def _strongest(resolved: Resolved, found: Layers, names: Sequence[str] = ()) -> Floats:
    """The largest share at each position of some layers, `[samples, positions]`; of the sources if none are named."""
    parts = []
    for name in names or resolved.choice.sources:
        units, axis = samples_and_channels(resolved, name, np.abs(found[name]))
        units = units if axis is None else units.max(axis=axis + 1)
        parts.append(units.reshape(len(units), -1))
    return np.concatenate(parts, axis=1)


def _channels(name: str, shape: Sequence[int], told: int | None) -> int:
    """The axis of the channels: that which is told, or else the last one where it alone is as short as colours are."""
    if told is None:
        told = -1 if shape[-1] <= COLOURS < shape[1] else 1
    return channel_axis(name, shape, told)


def _room(resolved: Resolved, positions: int) -> int:
    """How many positions the budget has room for."""
    return max(int(trace_of(resolved).budget * positions + 1e-9), 1)


def thresholds_told(resolved: Resolved, found: Layers, tau: Floats) -> Iterator[str]:
    """The thresholds that the budget led to."""
    strongest = _strongest(resolved, found)
    kept = (strongest > 0).sum(axis=1)
    mass = sum(per_sample(np.abs(found[name])) for name in resolved.choice.sources)
    parts = [
        f"{tau[k]:.3g} keeps {kept[k]} of {strongest.shape[1]} positions and {100 * one:.3g} % of the mass "
        f"in sample {k}"
        for k, one in enumerate(np.atleast_1d(mass)[:SHOWN])
    ]
    yield f"the thresholds are of the budget: {'; '.join(parts)}" + "; ..." * (len(tau) > SHOWN)
    if len(empty := np.flatnonzero(kept == 0)):
        yield (
            f"nothing is kept in sample {', '.join(map(str, empty[:SHOWN]))}: more positions than the budget has room "
            "for have the same share, or all shares are 0; a larger budget, or a tau, keeps some"
        )


def contributions(
    model: LoadedModel, resolved: Resolved, memory: int
) -> Generator[int, None, tuple[Layers, Floats, Floats]]:
    plain = replace(resolved, recipe=Recipe(AtInput(), contribution))
    terms, values = yield from products(model, plain, memory)
    found = {name: terms[name] / size for name, size in sizes_of(resolved, terms).items()}
    sources = resolved.choice.sources
    together = {name: sources if name in sources else (name,) for name in found}
    each = {names: _threshold(resolved, found, names) for names in dict.fromkeys(together.values())}
    kept = {name: np.where(np.abs(r) < laid(each[together[name]], r), 0, r) for name, r in found.items()}
    return kept, values, each[sources]


def _threshold(resolved: Resolved, found: Layers, names: Sequence[str]) -> Floats:
    """That of each sample for these layers: tau, or by the budget of their positions."""
    if (tau := trace_of(resolved).tau) is not None:
        return np.full(resolved.samples.count, tau)
    strongest = _strongest(resolved, found, names)
    return np.array([_least(row, _room(resolved, row.size)) for row in strongest])


def products(model: LoadedModel, plain: Resolved, memory: int) -> Generator[int, None, Found]:
    """Gradient times activation of each layer, and the target's values."""
    parts: dict[str, list[Floats]] = {name: [] for name in plain.choice.layers}
    values = list[Floats]()
    for rows in rows_at(model, plain, [(k, 1.0) for k in range(plain.samples.count)], memory):
        values.append(rows.values)
        for name, (gradient, activation) in rows.layers.items():
            parts[name].append(gradient.astype(np.float64) * activation.astype(np.float64))
        yield rows.evaluated
    return {name: np.concatenate(part) for name, part in parts.items()}, np.concatenate(values)


def sizes_of(resolved: Resolved, terms: Layers) -> Layers:
    """By layer what its terms are shares of: the sum of their magnitudes, of sources that over all of these."""
    sums = {name: per_sample(np.abs(one)) for name, one in terms.items()}
    sources = np.sum([sums[name] for name in resolved.choice.sources], axis=0)
    found = {name: sources if name in resolved.choice.sources else one for name, one in sums.items()}
    return {name: laid(np.where(one == 0, 1.0, one), terms[name]) for name, one in found.items()}


def _least(shares: Floats, room: int) -> float:
    """The least threshold that at most so many shares reach."""
    ranked = np.sort(shares)[::-1]
    if len(ranked) <= room or not ranked[room] > 0:
        return 0.0
    above = ranked[ranked > ranked[room] * (1 + 1e-9)]  # equal ones but for rounding go together
    return float(above[-1]) if len(above) else float(np.nextafter(ranked[0], np.inf))


def laid(each: Floats, like: Floats) -> Floats:
    """One number a sample, which broadcasts to `[samples, *unit]`."""
    return np.asarray(each).reshape(-1, *[1] * (like.ndim - 1))


def positive_masses(
    model: LoadedModel, resolved: Resolved, memory: int
) -> Generator[int, None, tuple[Layers, Floats, Floats]]:
    at, count = trace_of(resolved), resolved.samples.count
    if (resolved.selection < 0).any():
        raise InvalidArgument(
            "fb_trace of the form positive sends a mass back from units or their sum, not from a difference; take the "
            "form signed",
            option="form",
        )
    every = np.arange(count)
    sources = replace(resolved, choice=replace(resolved.choice, layers=resolved.choice.sources))
    if at.tau is not None:
        tau = np.full(count, at.tau)
        found, value = yield from walked(model, resolved, tau, every, memory)
        if at.tau and not np.isfinite(value).all():  # half types may not hold the target times what begins
            _, value = yield from walked(model, sources, np.zeros(count), every, memory)
        return found, value, tau
    found, value = yield from walked(model, sources, np.zeros(count), every, memory)
    strongest = _strongest(resolved, found)
    room = _room(resolved, strongest.shape[1])
    moving = np.flatnonzero((strongest > 0).sum(axis=1) > room)
    high = np.zeros(count)
    high[moving] = 1 / room  # so many shares there may be of a mass of 1
    low = high * 2.0**-DEPTH
    for _ in range(BISECTIONS if len(moving) else 0):
        middle = np.sqrt(low * high)
        found, _ = yield from walked(model, sources, middle[moving], moving, memory)
        fits = (_strongest(resolved, found) > 0).sum(axis=1) <= room
        high[moving], low[moving] = (
            np.where(fits, middle[moving], high[moving]),
            np.where(fits, low[moving], middle[moving]),
        )
    found, _ = yield from walked(model, resolved, high, every, memory)
    return found, value, high


def walked(
    model: LoadedModel, resolved: Resolved, tau: Floats, numbers: NDArray[np.intp], memory: int
) -> Generator[int, None, Found]:
    """The shares of some samples, by their numbers, each with its threshold.

    What begins is the program's threshold over tau, as the target's type holds it.
    """
    none, selection = tau == 0, resolved.selection
    total = per_sample(selection)
    if not (total > 0).all():
        raise InvalidArgument(
            "fb_trace of the form positive begins at units, and all weights are 0", option="form"
        )
    kind = resolved.samples.runs[0].weight.dtype
    top = float(ml_dtypes.finfo(kind).max) / 4  # type: ignore[no-untyped-call]
    begins = np.minimum(np.where(none, 1.0, tables.LEVEL / np.where(none, 1.0, tau)), top)
    begins = begins.astype(kind).astype(np.float64)
    every = np.ones(resolved.samples.count)
    every[numbers] = begins
    units = selection / laid(total / every, selection)
    samples = resolved.samples.weighted(
        resolved.choice.target, units, [run.weight for run in resolved.samples.runs]
    )
    absolute = _absolute(resolved)
    parts, values = Layers(), np.zeros(len(numbers))
    for threshold in (False, True):
        for whole in (False, True):
            chosen = [k for k, n in enumerate(numbers) if none[k] != threshold and absolute[n] == whole]
            if not chosen:
                continue
            table = tables.trace(tables.Trace(threshold, whole))
            moved = replace(resolved, samples=samples, recipe=Recipe(AtInput(), table=table, partial=True))
            points, at = [(int(numbers[k]), 1.0) for k in chosen], 0
            for rows in rows_at(model, moved, points, memory, activations=False):
                part = chosen[at : at + len(rows.points)]
                at += len(part)
                values[part] = rows.values / begins[part] * total[numbers[part]]
                for name, (r, _) in rows.layers.items():
                    mass = np.asarray(r, np.float64)
                    if threshold:
                        mass = np.where(mass < tables.KEPT, 0, mass) / laid(begins[part], mass)
                    if name not in parts:
                        parts[name] = np.zeros((len(numbers), *mass.shape[1:]))
                    parts[name][part] = mass
                yield rows.evaluated
    return parts, values


def _absolute(resolved: Resolved) -> Mask:
    """Of which samples the first operators share by magnitudes."""
    at, samples = trace_of(resolved), resolved.samples
    if at.absolute is not None:
        return np.full(samples.count, at.absolute)
    found = np.zeros(samples.count, bool)
    for name in resolved.choice.sources:
        high, _ = samples.ends(name)
        if high.dtype.kind in "fViu":
            found |= (np.asarray(high, np.float64).reshape(len(high), -1) < 0).any(axis=1)
    return found
