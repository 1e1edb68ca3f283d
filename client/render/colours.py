"""The colours of attributions: red adds to the target, blue takes from it, the middle is 0."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.render.maps import Map

Pixels = NDArray[np.uint8]
POSITIVE, NEGATIVE, GREY, MISSING = "#b2182b", "#2166ac", "#555555", "#9a9a9a"
"""Bars above and below 0; lines and captions; what is not finite."""
BOX = "#1a7f37"
"""The outline of a box: a colour that no attribution has."""
ANCHORS = (
    "053061", "2166ac", "4393c3", "92c5de", "d1e5f0", "f7f7f7", "fddbc7", "f4a582", "d6604d", "b2182b", "67001f",
)  # fmt: skip
"""ColorBrewer's RdBu, from the most negative to the most positive."""
LINES = (
    "#1b6ca8",
    "#c2410c",
    "#2e7d32",
    "#7b1fa2",
    "#a0740a",
    "#00838f",
    "#ad1457",
    "#4e342e",
    "#455a64",
    "#558b2f",
)
"""Of methods in one chart: apart in lightness as well as in hue."""
OPACITY, DARKEST = 0.9, 0.35
FAINT = 0.15
"""Of a curve, what is less opaque stays grey."""


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` as three numbers up to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def table() -> NDArray[np.float64]:
    """`[256, 3]` from 0 to 1: the colours from the most negative to the most positive."""
    anchors = np.array([rgb(one) for one in ANCHORS]) / 255
    places = np.linspace(0, len(anchors) - 1, 256)
    return np.stack([np.interp(places, np.arange(len(anchors)), anchors[:, k]) for k in range(3)], axis=1)


def coloured(values: Map, limit: float) -> Pixels:
    """`[..., 3]`: each number in its colour, those beyond the limit as those at it."""
    found = table()[places(values, limit)]
    found[~np.isfinite(values)] = np.array(rgb(MISSING)) / 255
    return np.asarray(np.rint(found * 255).astype(np.uint8))


def places(values: Map, limit: float) -> NDArray[np.int64]:
    """Where in the table the colour of each number is; in the middle for what is not finite."""
    share = np.clip(np.nan_to_num(values, nan=0, posinf=limit, neginf=-limit) / limit, -1, 1)
    return np.asarray(np.minimum(((share + 1) * 128).astype(np.int64), 255))


def opacity(values: Map, limit: float) -> Map:
    """How much of a map covers what lies under it: as much as it is strong."""
    strength = np.clip(np.abs(np.nan_to_num(values, posinf=0, neginf=0)) / limit, 0, 1)
    return np.where(np.isfinite(values), strength**0.6 * OPACITY, OPACITY)


def grey_of(image: Map) -> Map:
    """`[H, W]` from `DARKEST` to 1, so that colours over it are seen."""
    plain = image if image.ndim == 2 else image[..., :3] @ np.array([0.299, 0.587, 0.114])
    return DARKEST + (1 - DARKEST) * plain


def reach(size: Sequence[int], cells: Sequence[int], units: Sequence[int]) -> tuple[float, float]:
    """How far the cells of a map reach over a picture of this size, down and right; padded ones lie beyond it."""
    down, right = (
        length * count * math.ceil(n / count) / n for length, count, n in zip(size, cells, units, strict=True)
    )
    return down, right


def overlaid(image: Map, values: Map, limit: float, units: Sequence[int]) -> Pixels:
    """`[H, W, 3]`: the map over the picture in grey, in blocks of the map's own size."""
    grey = grey_of(image)
    down, right = reach(grey.shape, values.shape, units)
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) / length * count).astype(int), count - 1)
        for n, length, count in zip(grey.shape, (down, right), values.shape, strict=True)
    )
    spread = np.ix_(rows, columns)
    alpha = opacity(values, limit)[spread][..., None]
    mixed = (1 - alpha) * grey[..., None] + alpha * (coloured(values, limit)[spread] / 255)
    return np.asarray(np.rint(np.clip(mixed, 0, 1) * 255).astype(np.uint8))
