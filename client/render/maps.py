"""What of an attribution is drawn: sums over channels or at positions, cells, and the range of the colours.

No picture is empty when its numbers are not: sums that cancel give way to sums of magnitudes, cells that are too small
to be seen are summed, and the range ends at a percentile where a few numbers are far larger than the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.values import Array

PERCENTILE = 99
OUTLYING = 3.0  # times the percentile: from here on the range ends at the percentile
CANCELLED = 1e-6  # of the largest magnitude: sums below are rounding
NOISE = 1e-7  # of the largest magnitude: what is below is not counted in the percentile
BYTES = (256, 257, 258)  # kinds of a byte, with padding and a mask
Map = NDArray[np.float64]


class Drawn(NamedTuple):
    """Numbers and, in words, how they were made of the attributions; `notes` is what a reader does not expect."""

    values: Map
    words: str
    notes: tuple[str, ...] = ()


class Range(NamedTuple):
    """The largest magnitude that has a colour of its own, and in words what is beyond."""

    limit: float
    notes: tuple[str, ...] = ()


class Tokens(NamedTuple):
    """What stands at the positions of an input, and where the positions lie in a layer's unit."""

    input: str
    labels: tuple[str, ...]
    axis: int


def heat_of(values: Map, channels_last: bool) -> Drawn:
    """`[H, W]`: the channels summed, and with them every axis before the last two."""
    if values.ndim == 2:
        return Drawn(values, "attribution")
    if channels_last:
        values = np.moveaxis(values, -1, 0)
    return _summed(values, tuple(range(values.ndim - 2)), "channels summed")


def positions_of(values: Map, axis: int) -> Drawn:
    """`[positions]`: all other axes summed."""
    others = tuple(k for k in range(values.ndim) if k != axis)
    units = values.size // max(values.shape[axis], 1)
    return _summed(values, others, f"by position, summed over {units} units" if units > 1 else "by position")


def _summed(values: Map, axes: tuple[int, ...], words: str, notes: tuple[str, ...] = ()) -> Drawn:
    with np.errstate(invalid="ignore"):  # infinities of both signs
        sums = np.asarray(values.sum(axis=axes))
    if _largest(sums) <= CANCELLED * _largest(values) > 0:
        notes = (*notes, "sums cancel: what is drawn are sums of magnitudes")
        return Drawn(np.asarray(np.abs(values).sum(axis=axes)), words, notes)
    return Drawn(sums, words, notes)


def cells_of(heat: Drawn, rows: int, columns: int, *, square: bool) -> Drawn:
    """At most so many rows and columns: neighbours are summed."""
    shape = heat.values.shape
    high, wide = (max(math.ceil(n / most), 1) for n, most in zip(shape, (rows, columns), strict=True))
    if high == wide == 1:
        return heat
    high, wide = (max(high, wide),) * 2 if square else (high, wide)
    padded = np.pad(heat.values, [(0, -n % step) for n, step in zip(shape, (high, wide), strict=True)])
    cells = padded.reshape(padded.shape[0] // high, high, padded.shape[1] // wide, wide)
    return _summed(cells, (1, 3), heat.words, (*heat.notes, f"each cell is the sum of {high} × {wide}"))


def range_of(values: Map) -> Range:
    """The range of the colours, symmetric, so that white is 0."""
    largest = _largest(values)
    if not largest:
        return Range(1.0)
    magnitudes = np.abs(values[np.isfinite(values)])
    usual = float(np.percentile(magnitudes[magnitudes > NOISE * largest], PERCENTILE))
    if largest <= OUTLYING * usual:
        return Range(largest)
    return Range(usual, (f"colours end at percentile {PERCENTILE}, the largest is {largest:.3g}",))


def emptiness(values: Map) -> str:
    """Why nothing is to be seen: there are no numbers, or all are 0; "" where something is."""
    if not values.size:
        return "no units"
    if not np.isfinite(values).any():
        return "no finite numbers"
    return "all attributions are 0" if not values.any() else ""


def missing(values: Map) -> tuple[str, ...]:
    """How many numbers are not finite."""
    count = int((~np.isfinite(values)).sum())
    return (f"{count} of {values.size} are not finite",) if count else ()


def extremes(values: Map, most: int) -> tuple[Map, Map, int]:
    """Of at most `most` blocks the largest number from 0 up and the smallest from 0 down; and how long a block is."""
    size = max(math.ceil(len(values) / most), 1)
    blocks = np.pad(np.nan_to_num(values, posinf=0, neginf=0), (0, -len(values) % size)).reshape(-1, size)
    return blocks.max(axis=1).clip(min=0), blocks.min(axis=1).clip(max=0), size


def strongest(values: Map, count: int) -> list[int]:
    """The positions of the largest magnitudes, the largest first; none of 0."""
    magnitudes = np.abs(np.nan_to_num(values, posinf=0, neginf=0))
    order = np.argsort(-magnitudes, kind="stable")[:count]
    return [int(k) for k in order if magnitudes[k] > 0]


def tokens_of(
    layer: str, shape: Sequence[int], tokens: Mapping[str, Array], k: int, *, is_map: bool
) -> Tokens | None:
    """The tokens whose positions are one axis of the layer: those of its own name first; None: there are none.

    With `is_map`, a layer of three axes or more is a picture's, whatever their lengths.
    """
    axes = [axis for axis, size in enumerate(shape) if size != 1]
    if len(axes) > (2 if is_map else 3):
        return None
    for name in sorted(tokens, key=lambda name: name != layer):
        own = np.asarray(tokens[name])
        if own.ndim != 2 or k >= len(own) or own.shape[1] < 2:
            continue
        lying = [axis for axis in axes if shape[axis] == own.shape[1]]
        if len(lying) == 1 or (len(lying) == 2 == len(axes)):
            units = math.prod(shape) // own.shape[1]
            return Tokens(name, _labels(own[k], units), lying[0])
    return None


def _labels(tokens: Array, units: int) -> tuple[str, ...]:
    """Bytes as characters, where they are some; all else as it is written."""
    if tokens.dtype == np.uint8 or (tokens.dtype.kind in "iu" and units in BYTES):
        return tuple(_byte(int(token)) for token in tokens)
    return tuple(str(token) for token in tokens.tolist())


def _byte(token: int) -> str:
    if token == ord(" "):
        return "␣"
    if 33 <= token < 127:
        return chr(token)
    return f"{token:02x}h" if 0 <= token < 256 else f"<{token}>"


def _largest(values: Map) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0))
