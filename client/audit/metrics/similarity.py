"""How alike two maps of one sample are: ranks, structure, edges. 1 is the same; about 0 is unrelated.

A constant map says nothing of where it lies: it has no ranks, and no similarity to any map (NaN). Maps of several
inputs are one: ranks are those of all their elements together, and their magnitudes are brought to one range; SSIM and
HOG, which need a picture, are means over the inputs.

Windows are fitted to the map: where it has 11 and more elements along each side, SSIM has the Gaussian window of its
paper (sigma 1.5, 11 wide) and HOG cells of up to 16 x 16; below, the window is the largest odd size that fits, and a
map with a side of 2 is one window. Axes of size 1 do not count, so a row is a map of one axis; HOG takes maps of two
axes from 3 x 3 on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.audit.arrays import Floats
from onnx_attribution.client.audit.metrics.metric import mean_of_known
from onnx_attribution.errors import InvalidArgument

Channels = Literal["sum", "absmax"]
Similarity = Callable[[Floats, Floats], float]

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
CELL, BLOCK, TURNS = 16, 3, 9


NAMES = ("spearman", "spearman_absolute", "ssim", "hog")


def spearman(left: Floats, right: Floats) -> float:
    """The correlation of the signed ranks (arXiv 1810.03292); ties share their mean rank. NaN for a constant map."""
    x, y = (_ranks(a) for a in _pair(left, right))
    x, y = x - x.mean(), y - y.mean()
    norms = math.sqrt(float(x @ x)), math.sqrt(float(y @ y))
    if not all(norms):
        return math.nan
    return float(np.clip(x @ y / (norms[0] * norms[1]), -1.0, 1.0))


def spearman_signed(left: Floats, right: Floats) -> float:
    """The same of two maps. Where each has one sign throughout, as relevance that is shared among positive parts has
    that of its class's score, the sign says nothing of where the map lies: magnitudes are compared."""
    x, y = _pair(left, right)
    if all((a >= 0).all() or (a <= 0).all() for a in (x, y)):
        return spearman_absolute(x, y)
    return spearman(x, y)


def spearman_absolute(left: Floats, right: Floats) -> float:
    """The correlation of the ranks of magnitudes."""
    x, y = _pair(left, right)
    return spearman(np.abs(x), np.abs(y))


def ssim(left: Floats, right: Floats) -> float:
    """The structural similarity of two maps in 0..1 (doi 10.1109/TIP.2003.819861)."""
    x, y = (_squeezed(a) for a in _pair(left, right))
    side = min(x.shape, default=1)
    if side < 3:
        return _one_window(x, y)
    structural_similarity = _skimage("metrics").structural_similarity
    reach = (min(side, WINDOW) - 1) // 2
    return float(
        structural_similarity(
            x, y, data_range=1.0, gaussian_weights=True, sigma=SIGMA * reach / 5, K1=K1, K2=K2
        )
    )


def hog(left: Floats, right: Floats) -> float:
    """The correlation of the ranks of histograms of oriented gradients (doi 10.1109/CVPR.2005.177).

    NaN where there are no such histograms: for maps of another number of axes than two, with a side below 3, or without
    an edge.
    """
    x, y = (_squeezed(a) for a in _pair(left, right))
    if x.ndim != 2 or min(x.shape) < 3:
        return math.nan
    histograms = _skimage("feature").hog
    cell = tuple(max(1, min(CELL, size // 4)) for size in x.shape)
    block = tuple(min(BLOCK, size // one) for size, one in zip(x.shape, cell, strict=True))
    found = [histograms(a, orientations=TURNS, pixels_per_cell=cell, cells_per_block=block) for a in (x, y)]
    return spearman(*found)


def picture(values: Floats, channels: Channels = "sum") -> Floats:
    """One sample's map without its channels: of three axes the first is summed, or gives its largest magnitude."""
    if channels not in ("sum", "absmax"):
        raise InvalidArgument(f"no channels={channels!r}; there are: sum, absmax", parameter="channels")
    values = np.asarray(values, np.float64)
    if values.ndim < 3:
        return values
    if channels == "sum":
        return np.asarray(values.sum(axis=0))
    chosen = np.abs(values).argmax(axis=0)
    return np.asarray(np.take_along_axis(values, chosen[None], axis=0)[0])


def unit_range(values: Floats, percentile: float = 100.0) -> Floats:
    """The magnitudes in 0..1, of which the largest is 1; those beyond a percentile are cut there. Zeros stay zeros."""
    return _in_unit_range([values], percentile)[0]


def _in_unit_range(each: Sequence[Floats], percentile: float) -> list[Floats]:
    """The same of several arrays together."""
    if not 0 < percentile <= 100:
        raise InvalidArgument(f"percentile must be above 0 and at most 100, not {percentile}")
    magnitudes = [np.abs(np.asarray(values, np.float64)) for values in each]
    whole = np.concatenate([one.reshape(-1) for one in magnitudes])
    top = float(np.percentile(whole, percentile)) if whole.size else 0.0
    top = top or float(whole.max(initial=0.0))
    return [np.clip(one / top, 0.0, 1.0) if top else one for one in magnitudes]


def similarities(
    left: Floats | Sequence[Floats],
    right: Floats | Sequence[Floats],
    *,
    names: Sequence[str] = NAMES,
    channels: Channels = "sum",
    percentile: float = 100.0,
) -> dict[str, float]:
    """The similarities of these names of two maps of one sample, each an array, or one for each of several inputs.

    Ranks are those of all elements; SSIM and HOG compare pictures of magnitudes in 0..1, cut at the percentile (100:
    not cut), with the channels taken together. All are NaN where one of the maps is constant.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise InvalidArgument(
            f"no similarity {unknown[0]!r}; there are: {', '.join(NAMES)}", parameter="names"
        )
    several = [[one] if isinstance(one, np.ndarray) else list(one) for one in (left, right)]
    pairs = [_pair(a, b) for a, b in zip(*several, strict=True)]
    x, y = (np.concatenate([one[side].reshape(-1) for one in pairs]) for side in (0, 1))
    if x.min() == x.max() or y.min() == y.max():
        return dict.fromkeys(names, math.nan)
    found = {name: function(x, y) for name, function in _OF_ELEMENTS.items() if name in names}
    if set(names) & set(_OF_PICTURES):
        seen = [
            _in_unit_range([picture(one[side], channels) for one in pairs], percentile) for side in (0, 1)
        ]
        for name in set(names) & set(_OF_PICTURES):
            each = np.array([_OF_PICTURES[name](a, b) for a, b in zip(*seen, strict=True)])
            found[name] = float(mean_of_known(each))
    return {name: found[name] for name in names}


_OF_ELEMENTS: dict[str, Similarity] = {"spearman": spearman_signed, "spearman_absolute": spearman_absolute}
_OF_PICTURES: dict[str, Similarity] = {"ssim": ssim, "hog": hog}


def _pair(left: NDArray[np.floating], right: NDArray[np.floating]) -> tuple[Floats, Floats]:
    x, y = np.asarray(left, np.float64), np.asarray(right, np.float64)
    if x.shape != y.shape or not x.size:
        raise InvalidArgument(f"two maps of one shape are compared, not {list(x.shape)} and {list(y.shape)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InvalidArgument("a map holds numbers that are not finite, and cannot be compared")
    return x, y


def _skimage(name: str) -> Any:
    """Raises: InvalidArgument: scikit-image is not installed."""
    try:
        return import_module(f"skimage.{name}")
    except ImportError:
        raise InvalidArgument(
            "ssim and hog need scikit-image: pip install 'onnx-attribution[audit]'; or leave them out of names"
        ) from None


def _ranks(values: Floats) -> Floats:
    """The ranks of all elements; ties share their mean rank."""
    given = values.reshape(-1)
    order = np.argsort(given)
    rising = given[order]
    starts = np.flatnonzero(np.concatenate([[True], rising[1:] != rising[:-1]]))
    found = np.empty(len(given))
    if len(starts) == len(given):
        found[order] = np.arange(1.0, len(given) + 1)
    else:
        ends = np.append(starts[1:], len(given))
        found[order] = np.repeat((starts + 1 + ends) / 2, ends - starts)
    return found


def _squeezed(values: Floats) -> Floats:
    return values.reshape([size for size in values.shape if size != 1])


def _one_window(x: Floats, y: Floats) -> float:
    """The similarity of means, variances and covariance, of all elements alike."""
    c1, c2 = K1**2, K2**2
    means = x.mean(), y.mean()
    covariance = float(((x - means[0]) * (y - means[1])).mean())
    luminance = (2 * means[0] * means[1] + c1) / (means[0] ** 2 + means[1] ** 2 + c1)
    return float(luminance * (2 * covariance + c2) / (x.var() + y.var() + c2))
