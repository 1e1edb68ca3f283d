"""Pictures of attributions: heat maps beside and over the image, bars where there are positions or no space to map.

Needs matplotlib (the `plot` extra), no display: figures are drawn by its Agg renderer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from onnx_attribution.client.maps import (
    Drawn,
    Map,
    Tokens,
    cells_of,
    emptiness,
    extremes,
    heat_of,
    missing,
    positions_of,
    range_of,
    strongest,
    tokens_of,
)
from onnx_attribution.values import Array, Attribution, LayerAttribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure

__all__ = ["draw", "figure"]

MAX_ROWS = 12
COLOURS = "RdBu_r"  # red adds to the target, blue takes from it, white is 0
POSITIVE, NEGATIVE, GREY = "#b2182b", "#2166ac", "#555555"
MISSING = "#9a9a9a"  # what is not finite
WIDTH, HEIGHT = 8.6, 3.3  # inches of a row
CELLS = (75, 250)  # rows and columns of a map of which each cell can be seen
PIXELS = (230, 230)  # of a map over an image, which a picture of its size shows one by one
BARS = 1024
LABELLED = 40  # positions that fit beside each other with their tokens
STRONGEST = 14


def draw(
    path: str | PathLike[str],
    answers: Attribution | Sequence[Attribution],
    *,
    images: Array | None = None,
    channels_last: bool = False,
    tokens: Mapping[str, Array] | None = None,
    baseline: str = "0",
    dpi: int = 110,
) -> None:
    """Writes the picture of an answer, or of several about the same samples, to a file; see `figure`."""
    picture = figure(answers, images=images, channels_last=channels_last, tokens=tokens, baseline=baseline)
    picture.savefig(path, dpi=dpi)


def figure(
    answers: Attribution | Sequence[Attribution],
    *,
    images: Array | None = None,
    channels_last: bool = False,
    tokens: Mapping[str, Array] | None = None,
    baseline: str = "0",
) -> Figure:
    """One row for each answer, target, layer and sample, at most `MAX_ROWS`.

    `images` is `[samples, C, H, W]` (with `channels_last` `[samples, H, W, C]`), or without the channel axis;
    `baseline` says in words what it was. Channels of a layer are summed; they lie where the sizes of its other axes are
    to each other most like those of the image, first where that leaves it open (without images: as `channels_last`
    says). A layer smaller than the image is drawn in blocks of its own size.

    `tokens` has by input `[samples, positions]`, numbers or text. A layer with an axis of that length is drawn by
    position, summed over its other axes, and labelled by what stands there.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    given = [answers] if isinstance(answers, Attribution) else answers
    pairs = [
        (answer, layer, k)
        for several in given
        for answer in several.each()
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
        _row(part, answer, layer, k, image, channels_last, tokens or {}, baseline)
    return whole


def _row(
    part: SubFigure,
    answer: Attribution,
    layer: LayerAttribution,
    k: int,
    image: Map | None,
    channels_last: bool,
    tokens: Mapping[str, Array],
    baseline: str,
) -> None:
    values = np.asarray(layer.values[k], np.float64)
    sample = f"  sample {k}" if len(layer.values) > 1 else ""
    shape = " × ".join(map(str, values.shape)) or "one number"
    label = _label(answer, k)
    title = f"{answer.method}  {_short(layer.name)}  ({shape}){sample}" + f"  {label}" * bool(label)
    part.suptitle(title, fontsize=10, fontweight="bold", parse_math=False)
    found = tokens_of(layer.name, values.shape, tokens, k, is_map=image is not None)
    if found is not None:
        notes = _positions(part, values, found)
    elif values.ndim < 2 or min(values.shape[-3:]) == 0:
        widths = [1.0, 2.4] if image is not None else [1.0]
        axes = part.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
        if image is not None:
            _show_image(axes[0], image)
        notes = _bars(axes[-1], Drawn(np.atleast_1d(values).ravel(), "attribution"), "unit")
    else:
        notes = _heat_map(part, values, image, channels_last)
    lines = [*_caption(answer, layer, k, baseline), *filter(None, ["; ".join(notes)])]
    part.supxlabel("\n".join(lines), fontsize=8, color=GREY, linespacing=1.5)


def _heat_map(part: SubFigure, values: Map, image: Map | None, channels_last: bool) -> tuple[str, ...]:
    """The map, with an image also that and the map over it; returns what is to be told of it."""
    last = channels_last if image is None else _channels_lie_last(values.shape, image.shape)
    whole = heat_of(values, last)
    over = image is not None and values.ndim >= 3
    panels = 1 + (image is not None) + over
    heat = cells_of(whole, *(PIXELS if over else CELLS), square=over)
    colours = range_of(heat.values)
    axes = part.subplots(1, panels, squeeze=False)[0]
    at = 0
    if image is not None:
        _show_image(axes[0], image)
        at = 1
    drawn = axes[at].imshow(
        _finite(heat.values),
        cmap=_colours(),
        vmin=-colours.limit,
        vmax=colours.limit,
        interpolation="nearest",
        aspect="equal" if over else "auto",
    )
    axes[at].set_title(heat.words, fontsize=8)
    _say(axes[at], emptiness(heat.values))
    _bare(axes[at])
    if over and image is not None:
        _overlay(axes[-1], image, heat.values, colours.limit, whole.values.shape)
    beyond = "both" if colours.notes else "neither"
    bar = part.colorbar(drawn, ax=list(axes), fraction=0.03, pad=0.02, shrink=0.85, extend=beyond)
    bar.ax.tick_params(labelsize=7)
    bar.ax.yaxis.get_offset_text().set_fontsize(7)
    bar.set_label("attribution", fontsize=8)
    bar.outline.set_visible(False)
    return (*heat.notes, *colours.notes, *(f"{text} (grey)" for text in missing(heat.values)))


def _overlay(axes: Axes, image: Map, heat: Map, limit: float, units: Sequence[int]) -> None:
    """The map over the image in grey, as opaque as it is strong; each unit covers the block it stands for."""
    grey = image if image.ndim == 2 else image[..., :3] @ np.array([0.299, 0.587, 0.114])
    height, width = grey.shape
    # Cells may reach beyond the last unit.
    down, right = (
        size * cells * math.ceil(n / cells) / n
        for size, cells, n in zip((height, width), heat.shape, units, strict=True)
    )
    axes.imshow(0.35 + 0.65 * grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.imshow(
        _finite(heat),
        cmap=_colours(),
        vmin=-limit,
        vmax=limit,
        alpha=np.where(
            np.isfinite(heat), np.clip(np.abs(np.nan_to_num(heat)) / limit, 0, 1) ** 0.6 * 0.9, 0.9
        ),
        interpolation="nearest",
        extent=(-0.5, right - 0.5, down - 0.5, -0.5),
    )
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_title("over the image", fontsize=8)
    _bare(axes)


def _show_image(axes: Axes, image: Map) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title("input", fontsize=8)
    _bare(axes)


def _positions(part: SubFigure, values: Map, tokens: Tokens) -> tuple[str, ...]:
    """Bars by position; where they are too many for labels, the strongest beside them; returns what is to be told."""
    drawn = positions_of(values, tokens.axis)
    labels, few = [_short(label, 14) for label in tokens.labels], len(tokens.labels) <= LABELLED
    chosen = [] if few else strongest(drawn.values, STRONGEST)
    axes = part.subplots(1, 1 + bool(chosen), squeeze=False, width_ratios=[2.2, 1.0][: 1 + bool(chosen)])[0]
    notes = _bars(axes[0], drawn, f"position in {_short(tokens.input, 40)!r}")
    if few:
        tall = max(map(len, labels)) > (3 if len(labels) <= 20 else 2)
        axes[0].set_xticks(
            range(len(labels)), labels, rotation=60 if tall else 0, ha="right" if tall else "center"
        )
        axes[0].tick_params(axis="x", labelsize=7)
    if chosen:
        strength = drawn.values[chosen]
        places = np.arange(len(chosen))
        axes[1].barh(places, strength, height=0.75, color=_signed(strength))
        axes[1].set_yticks(places, [f"{labels[place]}  at {place}" for place in chosen])
        axes[1].invert_yaxis()
        axes[1].axvline(0, color=GREY, linewidth=0.6)
        axes[1].set_title(f"the {len(chosen)} strongest positions", fontsize=8)
        axes[1].locator_params(axis="x", nbins=4)
        _open(axes[1])
    return notes


def _bars(axes: Axes, drawn: Drawn, unit: str) -> tuple[str, ...]:
    """A bar for each number, or for each block of many; returns what is to be told of them."""
    values = drawn.values
    high, low, size = extremes(values, BARS)
    places = np.arange(len(high)) * size + (size - 1) / 2
    for heights, colour in ((high, POSITIVE), (low, NEGATIVE)):
        some = heights != 0
        if len(values) <= 256:
            axes.bar(places[some], heights[some], width=0.85, color=colour)
        else:
            axes.vlines(places[some], 0, heights[some], colors=colour, linewidth=0.9)
    axes.axhline(0, color=GREY, linewidth=0.6)
    bottom, top = float(low.min(initial=0)), float(high.max(initial=0))
    margin = 0.06 * ((top - bottom) or 1.0)
    axes.set_ylim(bottom - margin if bottom < 0 else 0, top + margin if top > 0 else margin)
    axes.set_xlim(-0.8, max(len(values), 1) - 0.2)
    axes.set_xlabel(unit, fontsize=8)
    axes.set_title(drawn.words, fontsize=8)
    axes.locator_params(axis="x", integer=True)
    if len(values) < 2:
        axes.set_xticks([])
    if nothing := emptiness(values):
        _say(axes, nothing)
        axes.set_yticks([])
    _open(axes)
    blocks = (f"each bar is the extreme of {size}",) if size > 1 else ()
    return (*drawn.notes, *blocks, *missing(values))


def _signed(values: Map) -> list[str]:
    return [NEGATIVE if value < 0 else POSITIVE for value in values]


def _say(axes: Axes, said: str) -> None:
    axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=GREY)


def _open(axes: Axes) -> None:
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _colours() -> Colormap:
    from matplotlib import colormaps

    return colormaps[COLOURS].with_extremes(bad=MISSING)


def _finite(values: Map) -> Map:
    return np.where(np.isfinite(values), values, np.nan)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")


def _label(answer: Attribution, k: int) -> str:
    """What the class of a sample's target is called; "" where that is not known."""
    return _short(answer.target.labels[k]) if answer.target.labels else ""


def _caption(answer: Attribution, layer: LayerAttribution, k: int, baseline: str) -> tuple[str, str]:
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
    return first, ", ".join(parts)


def _channels_lie_last(shape: Sequence[int], image: Sequence[int]) -> bool:
    """Whether the two axes before the last are nearer to the image's height and width than the last two are."""
    if len(shape) < 3:
        return False

    def distance(height: int, width: int) -> float:
        return abs(math.log(height / image[0]) - math.log(width / image[1]))

    return distance(*shape[-3:-1]) < distance(*shape[-2:]) - 1e-9


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


def _number(value: float) -> str:
    return f"{float(value):.4g}".replace("-", "−") if math.isfinite(value) else "none"


def _short(name: str, length: int = 60) -> str:
    return name if len(name) <= length else "…" + name[-(length - 1) :]
