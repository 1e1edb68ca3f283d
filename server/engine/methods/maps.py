"""Maps of positions: what is made of the channels of a layer, and how a map is brought to another size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.methods import Upsample
from onnx_attribution.server.engine.recipe import Floats, Pooled
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.values import Array


def map_of(resolved: Resolved, layer: str, gradient: Array, activation: Array) -> Floats:
    """The map of a layer, of its gradients and values `[samples, *unit]`, as the recipe pools them."""
    pooled, name = resolved.recipe.pooled, resolved.request.method.name
    assert pooled is not None
    found, alone = samples_first(resolved, layer, gradient.astype(np.float64))
    values, _ = samples_first(resolved, layer, activation.astype(np.float64))
    axis = channel_axis(layer, found.shape, pooled.channel_axis)
    terms = resolved.recipe.reduced(name, np.moveaxis(found, axis, 1), np.moveaxis(values, axis, 1))
    made = pool(pooled, terms)
    if pooled.upsample == "none":
        made = np.moveaxis(made, 1, axis)
    else:
        made = upsampled(resolved, layer, made, last=axis == found.ndim - 1, how=pooled.upsample)
    return made[:, None] if alone else made


def pool(pooled: Pooled, terms: Floats) -> Floats:
    """The maps `[samples, 1 or channels, *positions]` of terms, which have channels first."""
    made = terms.sum(axis=1, keepdims=True) if pooled.summed else terms
    return np.maximum(made, 0) if pooled.relu else made


def channel_axis(layer: str, shape: Sequence[int], told: int) -> int:
    """The axis of the channels in a layer of this shape, the axis of its samples in front.

    Raises:
        InvalidArgument: it has no such axis, or that of the samples.
    """
    axis = told + len(shape) if told < 0 else told
    if not 0 < axis < len(shape):
        raise InvalidArgument(
            f"the layer {layer!r} has shape {['N', *shape[1:]]} with its samples in front, and no axis of channels "
            f"{told}; channel_axis may be 1 to {len(shape) - 1}, or -1 for the last"
            if len(shape) > 1
            else f"the layer {layer!r} has one number a sample, and so no channels",
            reason=Reason.PARAMETER_INVALID, option="channel_axis",
        )  # fmt: skip
    return axis


def samples_first(resolved: Resolved, name: str, units: Floats) -> tuple[Floats, bool]:
    """`[samples, *unit]` with one axis of samples, and whether an axis in front was left out: of a sample that is run
    alone the whole tensor is the unit, which may have an axis for it."""
    alone = resolved.samples.place(name) is None and units.ndim > 2 and units.shape[1] == 1
    return (units[:, 0], True) if alone else (units, False)


def upsampled(resolved: Resolved, layer: str, maps: Floats, *, last: bool, how: Upsample) -> Floats:
    """Maps `[samples, channels, *positions]` at the positions of the first source that has as many axes of them, in the
    order of its axes.

    Raises:
        InvalidArgument: no source has so many.
    """
    for name in resolved.choice.sources:
        if (found := _at_source(resolved, name, maps, last=last, how=how)) is not None:
            return found
    raise _without_positions(resolved, layer, maps)


def at_sources(resolved: Resolved, layer: str, maps: Floats, how: Upsample) -> dict[str, Floats]:
    """The map of a layer, `[samples, *unit]`, as it was pooled and not resized, at the positions of every source.

    Raises:
        InvalidArgument: a source has not as many axes of positions.
    """
    pooled, sources = resolved.recipe.pooled, resolved.choice.sources
    assert pooled is not None
    own, _ = samples_first(resolved, layer, maps)
    axis = channel_axis(layer, own.shape, pooled.channel_axis)
    first, last = np.moveaxis(own, axis, 1), axis == own.ndim - 1
    found = {name: _at_source(resolved, name, first, last=last, how=how) for name in sources}
    made = {name: array for name, array in found.items() if array is not None}
    if len(made) < len(found):
        raise _without_positions(resolved, layer, first)
    return {name: array[:, None] if _is_alone(resolved, name) else array for name, array in made.items()}


def _is_alone(resolved: Resolved, source: str) -> bool:
    """Whether an axis in front of a source is left out where samples come first."""
    return samples_first(
        resolved, source, resolved.samples.units(source, resolved.samples.runs[0].x[source])
    )[1]


def _at_source(resolved: Resolved, name: str, maps: Floats, *, last: bool, how: Upsample) -> Floats | None:
    """The maps at the positions of a source. One of as many axes as positions has no channels. None: it has not as many
    axes."""
    positions, run = maps.shape[2:], resolved.samples.runs[0]
    whole, _ = samples_first(resolved, name, resolved.samples.units(name, run.x[name]))
    unit = whole.shape[1:]
    if not positions or len(unit) not in (len(positions), len(positions) + 1):
        return None
    if len(unit) == len(positions):
        made = resized(maps, unit, how)
        return made[:, 0] if made.shape[1] == 1 else made
    is_last = lies_last(unit, positions, last)
    made = resized(maps, unit[:-1] if is_last else unit[1:], how)
    return np.moveaxis(made, 1, -1) if is_last else made


def _without_positions(resolved: Resolved, layer: str, maps: Floats) -> InvalidArgument:
    shapes = ", ".join(
        f"{name!r}: {list(resolved.samples.first(name, resolved.samples.runs[0].x[name]).shape[1:])}"
        for name in resolved.choice.sources
    )
    return InvalidArgument(
        f"the map of {layer!r} has {maps.ndim - 2} axes of positions, which no source has; those of one sample are "
        f"{shapes}; leave upsample out, or name another layer",
        reason=Reason.PARAMETER_INVALID, option="upsample",
    )  # fmt: skip


def lies_last(unit: Sequence[int], positions: Sequence[int], last: bool) -> bool:
    """Whether the channels of a source lie last, not first: where the sizes of its positions are to those of a layer
    most alike along all axes, and where that leaves it open as those of the layer."""
    first, behind = (_stretch(sizes, positions) for sizes in (unit[1:], unit[:-1]))
    return last if abs(first - behind) < 1e-9 else behind < first


def _stretch(sizes: Sequence[int], positions: Sequence[int]) -> float:
    """By how much the ratios of two shapes differ along their axes."""
    ratios = [math.log(max(n, 1) / max(m, 1)) for n, m in zip(sizes, positions, strict=True)]
    return max(ratios) - min(ratios)


def resized(maps: Floats, sizes: Sequence[int], how: Upsample) -> Floats:
    """`[samples, channels, *positions]` with other sizes of the positions."""
    for axis, size in enumerate(sizes, start=2):
        if size != maps.shape[axis]:
            made = np.tensordot(maps, _weights(maps.shape[axis], size, how), axes=(axis, 1))
            maps = np.moveaxis(made, -1, axis)
    return maps


def _weights(old: int, new: int, how: Upsample) -> Floats:
    """`[new, old]`: what each new position has of the old ones."""
    places, found = np.arange(new), np.zeros((new, old))
    if how == "nearest":
        found[places, places * old // new] = 1
        return found
    if how == "linear_corners":
        at = places * ((old - 1) / max(new - 1, 1))
    else:  # the middles of cells
        at = np.clip((places + 0.5) * (old / new) - 0.5, 0, old - 1)
    low = np.minimum(np.floor(at).astype(np.int64), old - 1)
    share = at - low
    found[places, low] += 1 - share
    found[places, np.minimum(low + 1, old - 1)] += share
    return found
