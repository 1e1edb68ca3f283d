"""The support of an attribution: where it is not 0, the boxes of its connected parts, and what layers keep of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.values import Array, Attribution

Mask = NDArray[np.bool_]


class Box(NamedTuple):
    """A connected part of a support: the rows `top` to `bottom` and columns `left` to `right`, both of these ends
    within it, how many positions it has, and the sum of their magnitudes."""

    top: int
    left: int
    bottom: int
    right: int
    size: int
    mass: float


class Kept(NamedTuple):
    """Of one layer, per sample: how many units are not 0, of how many, and the sum of their magnitudes."""

    support: NDArray[np.intp]
    units: int
    mass: NDArray[np.float64]


def support(values: Array, channel_axis: int | None = 0) -> Mask:
    """The positions of one sample, `[channels, ...]`, at which a channel is not 0; None: there are no channels."""
    found = np.asarray(values) != 0
    return np.asarray(found if channel_axis is None else found.any(axis=channel_axis))


def boxes(values: Array, channel_axis: int | None = 0) -> list[Box]:
    """The connected parts of the support of one sample, those of the largest mass first; corners connect. A support
    with one axis is a row.

    Raises:
        ValueError: the positions have more than two axes.
    """
    mask, sizes = support(values, channel_axis), np.abs(np.asarray(values, np.float64))
    masses = sizes if channel_axis is None else sizes.sum(axis=channel_axis)
    if mask.ndim not in (1, 2):
        raise ValueError(f"boxes are of positions with one or two axes, not {mask.ndim}")
    mask, masses = np.atleast_2d(mask), np.atleast_2d(masses)
    found = [_box(part, masses) for part in _parts(mask)]
    return sorted(found, key=lambda box: -box.mass)


def kept(answer: Attribution) -> Mapping[str, Kept]:
    """How many units each layer of an answer keeps, and how much: of fb_trace with all layers, the flow."""
    found = {}
    for name, layer in answer.layers.items():
        flat = np.asarray(layer.values, np.float64).reshape(len(layer.values), -1)
        found[name] = Kept((flat != 0).sum(axis=1), flat.shape[1], np.abs(flat).sum(axis=1))
    return found


def _parts(mask: Mask) -> Iterator[NDArray[np.intp]]:
    """The places `[n, 2]` of each connected part."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    while left:
        waiting = [left.pop()]
        part = []
        while waiting:
            row, column = waiting.pop()
            part.append((row, column))
            around = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= around
            waiting += around
        yield np.array(part)


def _box(part: NDArray[np.intp], masses: NDArray[np.float64]) -> Box:
    (top, left), (bottom, right) = part.min(axis=0).tolist(), part.max(axis=0).tolist()
    return Box(top, left, bottom, right, len(part), float(masses[part[:, 0], part[:, 1]].sum()))
