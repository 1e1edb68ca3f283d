"""Where in a sample something lies: the positions of its sources, maps of any layer on them, and what they are at the
baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnx_attribution.client.audit.arrays import Floats
from onnx_attribution.client.audit.run import Audit
from onnx_attribution.client.render.scene import channels_lie_last
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import Array, References


def source_of(audit: Audit) -> str:
    """The first of them. Raises: InvalidArgument: no map is of a source."""
    return sources_of(audit)[0]


def sources_of(audit: Audit) -> list[str]:
    """The sources that have positions: inputs of floats, and hidden ones that have maps, such as the embedding of
    tokens. Raises: InvalidArgument: no map is of a source."""
    sources = audit.settings.source or audit.info.sources
    inputs = {one.name: one for one in audit.info.inputs}
    found = [
        name for name in sources if name not in inputs or inputs[name].dtype.startswith(("float", "double"))
    ]
    placed = [
        name
        for name in found
        if name in inputs or any(_shape(audit, k, name) is not None for k in range(len(audit.data)))
    ]
    if not placed:
        raise InvalidArgument("no source is an input of floats, or has a map, so that it has no positions")
    return placed


def unit_of(audit: Audit, k: int, source: str) -> tuple[int, ...]:
    """The shape of a sample of the source. Raises: InvalidArgument: a hidden one has no map of this sample."""
    for info in audit.info.inputs:
        if info.name == source:
            shape = audit.data.items[k].inputs[source].shape
            axis = info.sample_axis(shape, audit.info.batch)
            return tuple(size for at, size in enumerate(shape) if at != axis) if axis is not None else shape
    hidden = _shape(audit, k, source)
    if hidden is None:
        raise InvalidArgument(f"{source!r} has no map of sample {audit.data.items[k].id!r}")
    return hidden


def _shape(audit: Audit, k: int, source: str) -> tuple[int, ...] | None:
    for one in audit.item(k)["methods"].values():
        if source in one.get("layers", ()):
            return tuple(one["layers"][source]["shape"])
    return None


def positions_of(unit: Sequence[int], *, is_input: bool = True) -> tuple[int, ...]:
    """The axes of positions of a sample: all but that of the channels, which three and more axes have, and the
    embedding of tokens."""
    axes = tuple(range(len(unit)))
    if len(unit) < 3:
        return axes if is_input else axes[:1]
    last = unit[-1] in (1, 3, 4) and unit[-3] not in (1, 3, 4)
    return axes[:-1] if last else axes[1:] if len(unit) == 3 else axes[-2:]


def scores_at(
    maps: Mapping[str, Array],
    units: Mapping[str, tuple[int, ...]],
    axes: Mapping[str, tuple[int, ...]],
) -> dict[str, Floats] | None:
    """The maps of one method in the shapes of the sources: its own of all of them, or of one source that of a hidden
    layer; None where it has neither, or numbers that are not finite."""
    if not maps or (len(units) > 1 and not units.keys() <= maps.keys()):
        return None
    found = {}
    for name, unit in units.items():
        values = maps.get(name, next(iter(maps.values())))
        placed = at_positions(values, unit, axes[name], exact=name in maps)
        if placed is None or not np.isfinite(placed).all():
            return None
        found[name] = placed
    return found


def baseline_of(audit: Audit, k: int, source: str, unit: Sequence[int]) -> float | Floats:
    """What a sample of a source is at the baseline: of several references their mean, and 0 where none is named, or of
    text."""
    given = audit.settings.baselines.get(source, 0.0)
    if isinstance(given, References):
        values = given.values[min(k, len(given.values) - 1)] if given.per_sample else given.values
        given = values.astype(np.float64).mean(axis=0) if values.dtype.kind in "fiuV" else 0.0
    if isinstance(given, str):
        return 0.0
    if not isinstance(given, np.ndarray):
        return float(given)
    rows = given if given.ndim == len(unit) + 1 else given[None]
    row = rows[min(k, len(rows) - 1)]
    return np.array(np.broadcast_to(row, tuple(unit)), np.float64) if row.ndim <= len(unit) else 0.0


def baseline_in_words(audit: Audit) -> str:
    """What removed elements are."""
    if not audit.settings.baselines:
        return "0"
    several = any(isinstance(one, References) for one in audit.settings.baselines.values())
    return f"the baseline, {audit.settings.baseline}{', of several references their mean' * several}"


def at_positions(values: Array, unit: Sequence[int], axes: Sequence[int], *, exact: bool) -> Floats | None:
    """A map in the shape of a sample: its own, or that of a hidden layer in blocks over the positions; None for what
    has no positions."""
    found = np.asarray(values, np.float64)
    if exact and found.shape == tuple(unit):
        return found
    positions = [unit[axis] for axis in axes]
    if found.ndim < len(positions) or len(positions) < 2:
        return None
    last = channels_lie_last(found.shape, positions)
    plane = found.sum(axis=-1) if last else found.reshape(-1, *found.shape[-len(positions) :]).sum(axis=0)
    if plane.ndim != len(positions):
        return None
    places = [np.arange(n) * size // n for n, size in zip(positions, plane.shape, strict=True)]
    spread = plane[np.ix_(*places)]
    for axis in range(len(unit)):
        if axis not in axes:
            spread = np.expand_dims(spread, axis)
    return np.array(np.broadcast_to(spread, tuple(unit)))
