"""The support of attributions: where they are not 0, the boxes of its connected parts, and how it flows. Needs numpy
only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Index = tuple[int, ...]


class Box(NamedTuple):
    """A connected part of a support: the rows `top` to `bottom` and columns `left` to `right`, both of these ends
    within it, how many positions it has, and the sum of their magnitudes."""

    top: int
    left: int
    bottom: int
    right: int
    size: int
    mass: float


class Unit(NamedTuple):
    """A unit of a layer, or a channel of one with positions, and its share: of a channel, summed over its positions."""

    unit: Index
    share: float


class Edge(NamedTuple):
    """What of the share of a unit of one layer goes through a unit of a layer behind it."""

    layer: str
    unit: Index
    to_layer: str
    to_unit: Index
    share: float


@dataclass(frozen=True)
class LayerSupport:
    """What is kept of a layer in one sample: so many of its `units`, the sum of the magnitudes of their shares, the
    boxes of the connected parts of its positions, as many `parts` as there are, and its strongest units.

    `positions` are the sizes of the axes that boxes are of, one or two; () where a layer has none, or more.
    """

    kept: int
    units: int
    mass: float
    positions: tuple[int, ...] = ()
    parts: int = 0
    boxes: tuple[Box, ...] = ()
    top: tuple[Unit, ...] = ()


@dataclass(frozen=True)
class Support:
    """What is kept in one sample: of each layer, and the edges of the flow between the strongest units of layers that
    follow each other."""

    layers: Mapping[str, LayerSupport]
    edges: tuple[Edge, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The same of dicts, lists and numbers."""
        return {
            "layers": {
                name: {
                    **{key: value for key, value in vars(one).items() if key not in ("boxes", "top")},
                    "boxes": [box._asdict() for box in one.boxes],
                    "top": [unit._asdict() for unit in one.top],
                }
                for name, one in self.layers.items()
            },
            "edges": [edge._asdict() for edge in self.edges],
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """What `to_json` made, in any library's lists."""
        return cls(
            {
                name: LayerSupport(
                    one["kept"],
                    one["units"],
                    one["mass"],
                    tuple(one["positions"]),
                    one["parts"],
                    tuple(Box(**box) for box in one["boxes"]),
                    tuple(Unit(tuple(unit["unit"]), unit["share"]) for unit in one["top"]),
                )
                for name, one in told["layers"].items()
            },
            tuple(
                Edge(one["layer"], tuple(one["unit"]), one["to_layer"], tuple(one["to_unit"]), one["share"])
                for one in told["edges"]
            ),
        )


def support(values: NDArray[np.generic], channel_axis: int | None = 0) -> Mask:
    """The positions of one sample, `[channels, ...]`, at which a channel is not 0; None: there are no channels."""
    found = np.asarray(values) != 0
    return np.asarray(found if channel_axis is None else found.any(axis=channel_axis))


def boxes(values: NDArray[np.generic], channel_axis: int | None = 0) -> list[Box]:
    """The connected parts of the support of one sample, those of the largest mass first; corners connect. A support
    with one axis is a row.

    Raises:
        ValueError: the positions have more than two axes.
    """
    mask, sizes = support(values, channel_axis), np.abs(np.asarray(values, np.float64))
    masses = sizes if channel_axis is None else sizes.sum(axis=channel_axis)
    if mask.ndim not in (1, 2):
        raise ValueError(f"boxes are of positions with one or two axes, not {mask.ndim}")
    found = [_box(runs) for runs in _parts(np.atleast_2d(mask), np.atleast_2d(masses))]
    return sorted(found, key=lambda box: -box.mass)


def layer_support(
    values: NDArray[np.float64], channel_axis: int | None, top: int = 0, most_boxes: int = 32
) -> LayerSupport:
    """That of one sample, `[*unit]`; None: there are no channels, and no positions."""
    units, mass = values.size, float(np.abs(values).sum())
    kept = int(np.count_nonzero(values))
    if channel_axis is None:
        return LayerSupport(kept, units, mass, top=strongest(values, top))
    positions = tuple(n for k, n in enumerate(values.shape) if k != channel_axis)
    channels = np.moveaxis(values, channel_axis, 0).reshape(values.shape[channel_axis], -1).sum(axis=1)
    named = strongest(channels, top)
    if len(positions) not in (1, 2):
        return LayerSupport(kept, units, mass, top=named)
    found = boxes(values, channel_axis)
    return LayerSupport(kept, units, mass, positions, len(found), tuple(found[:most_boxes]), named)


def strongest(shares: NDArray[np.float64], count: int) -> tuple[Unit, ...]:
    """The units of the largest magnitudes, the largest first; none of 0."""
    flat = shares.ravel()
    order = np.argsort(-np.abs(flat), kind="stable")[:count]
    return tuple(
        Unit(tuple(int(i) for i in np.unravel_index(k, shares.shape)), float(flat[k]))
        for k in order
        if flat[k] != 0
    )


class _Run(NamedTuple):
    """Neighbours in one row."""

    row: int
    left: int
    right: int
    mass: float


def _parts(mask: Mask, masses: NDArray[np.float64]) -> Iterator[Sequence[_Run]]:
    """The runs of each connected part: those of neighbouring rows that touch, by corners too, belong together."""
    parents: list[int] = []
    runs: list[_Run] = []
    before: list[int] = []

    def root(k: int) -> int:
        while parents[k] != k:
            parents[k] = parents[parents[k]]
            k = parents[k]
        return k

    for row, line in enumerate(mask):
        ends = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]]))).reshape(-1, 2)
        own = []
        for left, stop in ends.tolist():
            k = len(runs)
            runs.append(_Run(row, left, stop - 1, float(masses[row, left:stop].sum())))
            parents.append(k)
            own.append(k)
        at = 0
        for k in own:
            while at < len(before) and runs[before[at]].right < runs[k].left - 1:
                at += 1
            for other in before[at:]:
                if runs[other].left > runs[k].right + 1:
                    break
                parents[root(other)] = root(k)
        before = own
    found: dict[int, list[_Run]] = {}
    for k, run in enumerate(runs):
        found.setdefault(root(k), []).append(run)
    yield from found.values()


def _box(runs: Sequence[_Run]) -> Box:
    return Box(
        min(one.row for one in runs),
        min(one.left for one in runs),
        max(one.row for one in runs),
        max(one.right for one in runs),
        sum(one.right - one.left + 1 for one in runs),
        sum(one.mass for one in runs),
    )
