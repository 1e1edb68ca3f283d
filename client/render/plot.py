"""Scenes as files, drawn by matplotlib (the `plot` extra). No display is needed: its Agg renderer draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_attribution.client.render import colours
from onnx_attribution.client.render.colours import BOX, FAINT, GREY, MISSING, NEGATIVE, POSITIVE
from onnx_attribution.client.render.maps import Drawn, Map, emptiness, extremes, strongest
from onnx_attribution.client.render.scene import (
    LABELLED,
    STRONGEST,
    BarsPanel,
    HeatPanel,
    ImagePanel,
    LinePanel,
    Panel,
    RankPanel,
    Scene,
    Shown,
    TokensPanel,
    scene_of,
    short,
)
from onnx_attribution.values import Array, Attribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure

__all__ = ["draw", "figure"]

MAX_ROWS = 12
WIDTH, HEIGHT = 8.6, 3.3  # inches of a row
BARS = 1024


def draw(
    path: str | PathLike[str],
    answers: Attribution | Sequence[Attribution],
    *,
    dpi: int = 110,
    **options: Any,
) -> None:
    """Writes the picture of an answer, or of several about the same samples, to a file; options as of `figure`."""
    figure(answers, **options).savefig(path, dpi=dpi)


def figure(
    answers: Attribution | Sequence[Attribution],
    shown: Shown | None = None,
    *,
    images: Array | None = None,
    channels_last: bool = False,
    tokens: Mapping[str, Array] | None = None,
    baseline: str = "0",
) -> Figure:
    """One row for each answer, target, layer and sample, at most `MAX_ROWS`.

    What stands beside the maps is `shown`, or what `images`, `channels_last`, `tokens` and `baseline` say of it. A
    layer smaller than the image is drawn in blocks of its own size.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    given = [answers] if isinstance(answers, Attribution) else answers
    beside = shown or Shown(images, channels_last, tokens or {}, baseline=baseline)
    pairs = [
        (answer, layer, k)
        for several in given
        for answer in several.each()
        for layer in answer.layers.values()
        for k in range(len(layer.values))
    ]
    drawn = pairs[:MAX_ROWS]
    rest = 0.3 if len(drawn) < len(pairs) else 0.0
    whole = Figure(
        figsize=(WIDTH, HEIGHT * max(len(drawn), 1) + rest),
        layout=ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.06),
        facecolor="white",
    )
    if rest:
        whole.supxlabel(f"{len(drawn)} of {len(pairs)} maps are shown", fontsize=8, color=GREY)
    if not drawn:
        return whole
    parts = whole.subfigures(len(drawn), 1, squeeze=False)[:, 0]
    for part, (answer, layer, k) in zip(parts, drawn, strict=True):
        _row(part, scene_of(answer, layer, k, beside))
    return whole


def _row(part: SubFigure, scene: Scene) -> None:
    part.suptitle(scene.title, fontsize=10, fontweight="bold", parse_math=False)
    widths = [width for panel in scene.panels for width in _widths(panel)]
    axes = list(part.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0])
    notes, scale, at = list(scene.notes), None, 0
    for panel in scene.panels:
        own = axes[at : at + len(_widths(panel))]
        at += len(own)
        match panel:
            case ImagePanel():
                _show_image(own[0], panel)
            case HeatPanel():
                drawn = _heat(own[0], panel)
                scale = scale or drawn
            case BarsPanel():
                notes += _bars(own[0], panel.drawn, panel.unit)
            case TokensPanel():
                notes += _tokens(own, panel)
            case RankPanel():
                _ranked(own[0], panel.labels, panel.values, panel.title)
            case LinePanel():
                scale = _line(own[0], panel)
    if scale is not None:
        bar = part.colorbar(
            scale,
            ax=axes,
            fraction=0.03,
            pad=0.02,
            shrink=0.85,
            extend="both" if scene.clipped else "neither",
        )
        bar.ax.tick_params(labelsize=7)
        bar.ax.yaxis.get_offset_text().set_fontsize(7)
        bar.set_label("attribution", fontsize=8)
        bar.outline.set_visible(False)
    lines = [*scene.caption, *filter(None, ["; ".join(dict.fromkeys(notes))])]
    part.supxlabel("\n".join(lines), fontsize=8, color=GREY, linespacing=1.5)


def _widths(panel: Panel) -> list[float]:
    """The axes that a panel takes, and how wide they are to each other."""
    match panel:
        case TokensPanel():
            return [2.2, 1.0] if len(panel.tokens.labels) > LABELLED and panel.drawn.values.any() else [2.2]
        case BarsPanel() | LinePanel():
            return [2.4]
    return [1.0]


def _heat(axes: Axes, panel: HeatPanel) -> Any:
    """The map, or the map over the image in grey; returns what the scale of colours is of."""
    from matplotlib.patches import Rectangle

    look: dict[str, Any] = {
        "cmap": _colours(),
        "vmin": -panel.limit,
        "vmax": panel.limit,
        "interpolation": "nearest",
    }
    if panel.image is None:
        look["aspect"] = "equal" if panel.square else "auto"
        _say(axes, emptiness(panel.values))
    else:
        grey = colours.grey_of(panel.image)
        height, width = grey.shape
        down, right = colours.reach(grey.shape, panel.values.shape, panel.units)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        look["extent"] = (-0.5, right - 0.5, down - 0.5, -0.5)
        look["alpha"] = colours.opacity(panel.values, panel.limit)
    drawn = axes.imshow(np.where(np.isfinite(panel.values), panel.values, np.nan), **look)
    if panel.image is not None:
        axes.set_xlim(-0.5, width - 0.5)
        axes.set_ylim(height - 0.5, -0.5)
    for top, left, height, width in panel.outlines():
        outline = Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=BOX, linewidth=1.2)
        axes.add_patch(outline)
    axes.set_title(panel.title, fontsize=8)
    _bare(axes)
    return drawn


def _show_image(axes: Axes, panel: ImagePanel) -> None:
    axes.imshow(panel.pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(panel.title, fontsize=8)
    _bare(axes)


def _tokens(axes: Sequence[Axes], panel: TokensPanel) -> tuple[str, ...]:
    """Bars by position; where they are too many for labels, the strongest beside them; returns what is to be told."""
    values = panel.drawn.values
    labels = [short(label, 14) for label in panel.tokens.labels]
    notes = _bars(axes[0], panel.drawn, f"position in {short(panel.tokens.input, 40)!r}")
    if len(labels) <= LABELLED:
        tall = max(map(len, labels)) > (3 if len(labels) <= 20 else 2)
        axes[0].set_xticks(
            range(len(labels)), labels, rotation=60 if tall else 0, ha="right" if tall else "center"
        )
        axes[0].tick_params(axis="x", labelsize=7)
    if len(axes) > 1:
        chosen = strongest(values, STRONGEST)
        words = [f"{labels[place]}  at {place}" for place in chosen]
        _ranked(axes[1], words, values[chosen], f"the {len(chosen)} strongest positions")
    return notes


def _ranked(axes: Axes, labels: Sequence[str], values: Map, title: str) -> None:
    places = np.arange(len(labels))
    axes.barh(places, values, height=0.75, color=[NEGATIVE if value < 0 else POSITIVE for value in values])
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, linewidth=0.6)
    axes.set_title(title, fontsize=8)
    axes.locator_params(axis="x", nbins=4)
    if not len(labels):
        _say(axes, "all attributions are 0")
    _open(axes)


def _line(axes: Axes, panel: LinePanel) -> Any:
    """Each curve in grey, its pieces coloured by what they contribute; returns what the scale of colours is of."""
    from matplotlib.collections import LineCollection

    drawn: Any = None
    span = float(np.ptp(panel.curves)) or 1.0
    for k, (curve, values) in enumerate(zip(panel.curves, panel.values, strict=True)):
        lifted = curve - 1.15 * span * k
        times, strength = np.arange(len(curve), dtype=np.float64), colours.opacity(values, panel.limit)
        axes.plot(times, lifted, color="#c4c4c4", linewidth=0.8)
        # Each point is the middle of its piece.
        middles = np.concatenate([times[:1], (times[1:] + times[:-1]) / 2, times[-1:]])
        heights = np.interp(middles, times, lifted)
        pieces = np.stack([middles[:-1], heights[:-1], times, lifted, middles[1:], heights[1:]], 1)
        drawn = LineCollection(
            list(pieces.reshape(-1, 3, 2)),
            cmap=_colours(),
            linewidths=np.where(strength > FAINT, 0.6 + 3 * strength, 0),
        )
        drawn.set_array(np.where(np.isfinite(values), values, np.nan))
        drawn.set_clim(-panel.limit, panel.limit)
        axes.add_collection(drawn)
    _say(axes, emptiness(panel.values))
    axes.set_title(panel.title, fontsize=8)
    axes.set_xlabel("time", fontsize=8)
    if len(panel.curves) > 1:
        axes.set_yticks([])
    _open(axes)
    return drawn


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
    return (f"each bar is the extreme of {size}",) if size > 1 else ()


def _say(axes: Axes, said: str) -> None:
    if said:
        axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=GREY)


def _open(axes: Axes) -> None:
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _colours() -> Colormap:
    from matplotlib.colors import ListedColormap

    return ListedColormap(colours.table()).with_extremes(bad=MISSING)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")
