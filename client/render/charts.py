"""Charts as SVG: curves of several methods, and what of a change flows through each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from onnx_attribution.client.render.colours import GREY, LINES
from onnx_attribution.client.render.maps import Map
from onnx_attribution.client.render.scene import number, short

WIDTH, HEIGHT = 560.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 66.0, 12.0, 12.0, 42.0


@dataclass(frozen=True)
class Curve:
    """Points of one curve, and how far they scatter, if that is known."""

    x: Map
    y: Map
    low: Map | None = None
    high: Map | None = None


def curves(
    given: Mapping[str, Curve], x_title: str, y_title: str, colours: Mapping[str, str] | None = None
) -> str:
    """Several curves in one chart, with a legend under it; `colours` (default: `hues`) are by name."""
    own = colours or hues(list(given))
    points = [
        (float(x), float(y))
        for one in given.values()
        for x, y in zip(one.x, one.y, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]
    if not points:
        return '<div class="empty">no finite numbers</div>'
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    ticks = ticks_of(min(y for _, y in points), max(y for _, y in points))
    low, high = ticks[0], ticks[-1]

    def at(x: float, y: float) -> str:
        across = LEFT + (x - left) / ((right - left) or 1) * (WIDTH - LEFT - RIGHT)
        down = TOP + (high - y) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    drawn = []
    for tick in ticks:
        x, y = at(left, tick).split(",")
        drawn.append(f'<line x1="{x}" x2="{WIDTH - RIGHT:g}" y1="{y}" y2="{y}" stroke="#e2e2e2"/>')
        drawn.append(f'<text x="{LEFT - 6:g}" y="{y}" text-anchor="end" dy="0.32em">{number(tick)}</text>')
    for tick in ticks_of(left, right):
        if left <= tick <= right:
            x = at(tick, low).split(",")[0]
            drawn.append(
                f'<text x="{x}" y="{HEIGHT - BOTTOM + 16:g}" text-anchor="middle">{number(tick)}</text>'
            )
    for name, one in given.items():
        hue = own[name]
        if one.low is not None and one.high is not None:
            around = [
                at(float(x), float(np.clip(y, low, high))) for x, y in zip(one.x, one.high, strict=True)
            ]
            around += [
                at(float(x), float(np.clip(y, low, high)))
                for x, y in zip(one.x[::-1], one.low[::-1], strict=True)
            ]
            drawn.append(f'<polygon points="{" ".join(around)}" fill="{hue}" opacity="0.12"/>')
        line = " ".join(at(float(x), float(y)) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y))
        drawn.append(f'<polyline points="{line}" fill="none" stroke="{hue}" stroke-width="2"/>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    drawn.append(f'<text x="{middle:g}" y="{HEIGHT - 6:g}" text-anchor="middle">{escape(x_title)}</text>')
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(y_title)}">'
        f"<title>{escape(y_title)}</title>{''.join(drawn)}</svg>{legend({name: own[name] for name in given})}"
    )


def hues(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, grey for what is random."""
    coloured = [name for name in dict.fromkeys(names) if name != "random"]
    return {"random": GREY, **{name: LINES[k % len(LINES)] for k, name in enumerate(coloured)}}


def legend(colours: Mapping[str, str]) -> str:
    """The names beside their colours."""
    pieces = [f'<span><i style="background:{hue}"></i>{escape(name)}</span>' for name, hue in colours.items()]
    return f'<div class="legend">{"".join(pieces)}</div>'


def ticks_of(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from below the lowest to above the highest."""
    span = (high - low) or abs(high) or 1.0
    rough = span / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class Stage:
    """A layer in the picture of the flow: its share of the change (NaN: unknown), and whether all of it must pass."""

    name: str
    operator: str
    shape: str
    share: float
    cut: bool


def flow(stages: Sequence[Stage], edges: Sequence[tuple[str, str]]) -> str:
    """The layers from the source down to the target; the width of a box is the share that passes it.

    Layers lie as deep as the longest way to them; those beside each other are branches.
    """
    depth = dict.fromkeys((one.name for one in stages), 0)
    names = list(depth)
    after = [(a, b) for a, b in edges if a in depth and b in depth]
    for _ in names:
        for a, b in after:
            depth[b] = max(depth[b], min(depth[a] + 1, len(names)))
    rows: dict[int, list[Stage]] = {}
    for one in stages:
        rows.setdefault(depth[one.name], []).append(one)
    widest = max(map(len, rows.values()), default=1)
    cell, tall = max(560.0 / widest, 190.0), 62.0
    width, height = cell * widest, tall * len(rows)
    places, boxes = {}, []
    for level, key in enumerate(sorted(rows)):
        for k, one in enumerate(rows[key]):
            x = width / 2 + (k - (len(rows[key]) - 1) / 2) * cell
            y = level * tall + 4
            places[one.name] = (x, y)
            room = cell - 24
            share = 0.0 if not math.isfinite(one.share) else min(max(abs(one.share), 0.0), 1.0)
            colour = "#2166ac" if one.share < 0 else "#b2182b"
            words = "" if not math.isfinite(one.share) else f"{100 * one.share:.3g} %".replace("-", "−")
            name = short(one.name, max(int(room / 9), 8))
            dashes = "" if one.cut else ' stroke-dasharray="4 3"'
            told = escape(f"{one.name} {one.operator} {one.shape}")
            boxes.append(
                f"<g><title>{told}</title>"
                f'<rect x="{x - room / 2:.1f}" y="{y:g}" width="{room:.1f}" height="38" rx="4" fill="#fff" '
                f'stroke="{GREY}"{dashes}/>'
                f'<rect x="{x - room / 2 + 1:.1f}" y="{y + 32:g}" width="{max((room - 2) * share, 0):.1f}" height="5" '
                f'fill="{colour}"/>'
                f'<text x="{x - room / 2 + 8:.1f}" y="{y + 14:g}">{escape(name)}</text>'
                f'<text x="{x + room / 2 - 8:.1f}" y="{y + 14:g}" text-anchor="end">{words}</text>'
                f'<text class="small" x="{x - room / 2 + 8:.1f}" y="{y + 27:g}">{escape(one.operator)} '
                f"{escape(one.shape)}</text></g>"
            )
    arrows = [
        f'<line x1="{places[a][0]:.1f}" y1="{places[a][1] + 38:g}" x2="{places[b][0]:.1f}" y2="{places[b][1]:g}" '
        f'stroke="{GREY}"/>'
        for a, b in after
    ]
    return (
        f'<svg class="flow" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="flow through the layers">'
        f"{''.join(arrows)}{''.join(boxes)}</svg>"
    )
