"""Pictures of attributions: heat maps beside and over the image, bars where there is no space to map.

Needs matplotlib (the `plot` extra), no display: figures are drawn by its Agg renderer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.values import Array, Attribution, LayerAttribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["draw", "figure"]

MAX_ROWS = 12
COLOURS = "RdBu_r"  # red adds to the target, blue takes from it, white is 0
POSITIVE, NEGATIVE, GREY = "#b2182b", "#2166ac", "#555555"
WIDTH, HEIGHT = 8.6, 3.3  # inches of a row
Map = NDArray[np.float64]


def draw(
    path: str | PathLike[str],
    answers: Attribution | Sequence[Attribution],
    *,
    images: Array | None = None,
    channels_last: bool = False,
    baseline: str = "0",
    dpi: int = 110,
) -> None:
    """Writes the picture of an answer, or of several about the same samples, to a file; see `figure`."""
    picture = figure(answers, images=images, channels_last=channels_last, baseline=baseline)
    picture.savefig(path, dpi=dpi)


def figure(
    answers: Attribution | Sequence[Attribution],
    *,
    images: Array | None = None,
    channels_last: bool = False,
    baseline: str = "0",
) -> Figure:
    """One row for each answer, layer and sample, at most `MAX_ROWS`.

    `images` is `[samples, C, H, W]` (with `channels_last` `[samples, H, W, C]`), or without the channel axis;
    `baseline` says in words what it was. Channels of a layer are summed; they lie where the sizes of its other axes are
    to each other most like those of the image, first where that leaves it open (without images: as `channels_last`
    says). A layer smaller than the image is drawn in blocks of its own size.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    given = [answers] if isinstance(answers, Attribution) else answers
    pairs = [
        (answer, layer, k)
        for answer in given
        for layer in answer.layers.values()
        for k in range(len(layer.values))
    ]
    shown = pairs[:MAX_ROWS]
    rest = 0.3 if len(shown) < len(pairs) else 0.0
    whole = Figure(
        figsize=(WIDTH, HEIGHT * max(len(shown), 1) + rest),
        layout=ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.06),
        facecolor="white",
    )
    if rest:
        whole.supxlabel(f"{len(shown)} of {len(pairs)} maps are shown", fontsize=8, color=GREY)
    if not shown:
        return whole
    parts = whole.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, (answer, layer, k) in zip(parts, shown, strict=True):
        image = None if images is None or k >= len(images) else _image(images[k], channels_last)
        _row(part, answer, layer, k, image, channels_last, baseline)
    return whole


def _row(
    part: SubFigure,
    answer: Attribution,
    layer: LayerAttribution,
    k: int,
    image: Map | None,
    channels_last: bool,
    baseline: str,
) -> None:
    values = np.asarray(layer.values[k], np.float64)
    sample = f"  sample {k}" if len(layer.values) > 1 else ""
    shape = " × ".join(map(str, values.shape)) or "one number"
    part.suptitle(f"{answer.method}  {_short(layer.name)}  ({shape}){sample}", fontsize=10, fontweight="bold")
    part.supxlabel(_caption(answer, layer, k, baseline), fontsize=8, color=GREY, linespacing=1.5)
    flat = values.ndim < 2 or min(values.shape[-3:]) == 0
    if flat:
        widths = [1.0, 2.4] if image is not None else [1.0]
        axes = part.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
        if image is not None:
            _show_image(axes[0], image)
        _bars(axes[-1], np.atleast_1d(values).ravel())
        return
    heat = _heat(values, channels_last if image is None else _channels_lie_last(values.shape, image.shape))
    over = image is not None and values.ndim >= 3
    axes = part.subplots(1, 1 + (image is not None) + over, squeeze=False)[0]
    limit = _limit(heat)
    at = 0
    if image is not None:
        _show_image(axes[0], image)
        at = 1
    drawn = axes[at].imshow(
        heat,
        cmap=COLOURS,
        vmin=-limit,
        vmax=limit,
        interpolation="nearest",
        aspect="equal" if over else "auto",
    )
    axes[at].set_title("channels summed" if values.ndim > 2 else "attribution", fontsize=8)
    _bare(axes[at])
    if over and image is not None:
        _overlay(axes[-1], image, heat, limit)
    bar = part.colorbar(drawn, ax=list(axes), fraction=0.03, pad=0.02, shrink=0.85)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("attribution", fontsize=8)
    bar.outline.set_visible(False)


def _overlay(axes: Axes, image: Map, heat: Map, limit: float) -> None:
    """The map over the image in grey, as opaque as it is strong; each unit covers the block it stands for."""
    grey = image if image.ndim == 2 else image[..., :3] @ np.array([0.299, 0.587, 0.114])
    height, width = grey.shape
    axes.imshow(0.35 + 0.65 * grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.imshow(
        heat,
        cmap=COLOURS,
        vmin=-limit,
        vmax=limit,
        alpha=np.clip(np.abs(np.nan_to_num(heat)) / limit, 0, 1) ** 0.6 * 0.9,
        interpolation="nearest",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )
    axes.set_title("over the image", fontsize=8)
    _bare(axes)


def _show_image(axes: Axes, image: Map) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title("input", fontsize=8)
    _bare(axes)


def _bars(axes: Axes, values: Map) -> None:
    places = np.arange(len(values))
    colours = [NEGATIVE if value < 0 else POSITIVE for value in values]
    if len(values) <= 256:
        axes.bar(places, values, width=0.85, color=colours)
    else:
        axes.vlines(places, 0, values, colors=colours, linewidth=0.8)
    axes.axhline(0, color=GREY, linewidth=0.6)
    finite = values[np.isfinite(values)]
    low, high = float(finite.min(initial=0)), float(finite.max(initial=0))
    margin = 0.06 * ((high - low) or 1.0)
    axes.set_ylim(low - margin if low < 0 else 0, high + margin if high > 0 else margin)
    axes.set_xlim(-0.8, len(values) - 0.2)
    axes.set_xlabel("unit", fontsize=8)
    axes.set_title("attribution", fontsize=8)
    axes.locator_params(axis="x", integer=True)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")


def _caption(answer: Attribution, layer: LayerAttribution, k: int, baseline: str) -> str:
    target = answer.target
    first = (
        f"target {_short(target.tensor)}[{target.index[k]}]: {_number(target.value[k])} at the input, "
        f"{_number(target.baseline_value[k])} at the baseline ({_short(baseline)})"
    )
    parts = [f"sum {_number(layer.sum[k])}", f"residual {_number(layer.residual[k])}"]
    if math.isfinite(layer.error_estimate[k]):
        parts.append(f"estimated L1 error {_number(layer.error_estimate[k])}")
    if answer.steps:
        parts.append(f"{answer.steps} steps")
    if not layer.cut:
        parts.append("no cut: some ways to the target bypass this layer")
    return first + "\n" + ", ".join(parts)


def _channels_lie_last(shape: Sequence[int], image: Sequence[int]) -> bool:
    """Whether the two axes before the last are nearer to the image's height and width than the last two are."""
    if len(shape) < 3:
        return False

    def distance(height: int, width: int) -> float:
        return abs(math.log(height / image[0]) - math.log(width / image[1]))

    return distance(*shape[-3:-1]) < distance(*shape[-2:]) - 1e-9


def _heat(values: Map, channels_last: bool) -> Map:
    """`[H, W]`: the channels summed, and with them every axis before the last two."""
    if values.ndim == 2:
        return values
    if channels_last:
        values = np.moveaxis(values, -1, 0)
    return np.asarray(values.sum(axis=tuple(range(values.ndim - 2))))


def _image(image: Array, channels_last: bool) -> Map | None:
    """`[H, W]` or `[H, W, 3]` in 0..1; None for what is no image."""
    numbers = np.asarray(image, np.float64)
    if numbers.ndim == 3 and not channels_last:
        numbers = np.moveaxis(numbers, 0, -1)
    if numbers.ndim == 3:
        numbers = numbers[..., :3] if numbers.shape[-1] in (3, 4) else numbers.mean(axis=-1)
    if numbers.ndim not in (2, 3) or not numbers.size:
        return None
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low < 0 or high > 1:
        numbers = (numbers - low) / ((high - low) or 1.0)
    return np.clip(np.nan_to_num(numbers), 0, 1)


def _limit(values: Map) -> float:
    """The largest magnitude: the range of the colours is symmetric, so that white is 0."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0)) or 1.0


def _number(value: float) -> str:
    return f"{float(value):.4g}".replace("-", "−") if math.isfinite(value) else "none"


def _short(name: str, length: int = 60) -> str:
    return name if len(name) <= length else "…" + name[-(length - 1) :]
