"""Scenes as HTML that needs nothing but `css`: pixels as images in the page, bars and lines as SVG, tokens as text.

Needs pillow (the `audit` extra). Everything that comes from a model or a data set is escaped, and no element has a
style of its own, so that a page may forbid these.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from onnx_attribution.client.render import colours
from onnx_attribution.client.render.colours import GREY, NEGATIVE, POSITIVE, Pixels
from onnx_attribution.client.render.maps import Map, emptiness, extremes, strongest
from onnx_attribution.client.render.scene import (
    STRONGEST,
    BarsPanel,
    HeatPanel,
    ImagePanel,
    LinePanel,
    Panel,
    RankPanel,
    Scene,
    TokensPanel,
    number,
    short,
)

SMALL = 64  # pixels: up to here a picture is stored without loss and drawn in blocks
BARS = 160
ACROSS, ALL = 32, 64  # tokens of a line of a strip, and of one of long text
QUALITY = 82
LONG, AROUND = 192, 4
"""Tokens up to which text is shown whole in a report, and on either side of a strong one beyond."""
PIECES = 320
"""Of a line; each is the extreme of as many points as there are more."""


def scene(
    found: Scene, *, without_input: bool = False, only_over: bool = False, briefly: bool = False
) -> str:
    """A figure with its caption. `without_input` leaves the input out, which is drawn once beside several maps;
    `only_over` draws a map only over the image, where there is one. `briefly` draws long text as a strip, with what
    stands around its strongest tokens."""
    panels = list(found.panels)
    if without_input and len(panels) > 1:
        panels = [one for one in panels if not isinstance(one, ImagePanel)]
    if only_over and any(isinstance(one, HeatPanel) and one.image is not None for one in panels):
        panels = [one for one in panels if isinstance(one, HeatPanel) and one.image is not None]
    drawn = "".join(
        excerpt(one) if briefly and isinstance(one, TokensPanel) else panel(one) for one in panels
    )
    told = [*found.caption, *(["; ".join(found.notes)] if found.notes else [])]
    lines = "".join(f"<p>{escape(line)}</p>" for line in told)
    scale = "" if found.limit is None else scale_of(found.limit, clipped=found.clipped)
    return f'<div class="panels">{drawn}</div>{scale}<div class="caption">{lines}</div>'


def panel(one: Panel) -> str:
    """One panel."""
    match one:
        case ImagePanel():
            return picture(pixels_of(one.pixels), one.title)
        case HeatPanel(image=None):
            said = emptiness(one.values)
            if said:
                return f'<div class="empty">{escape(said)}</div>'
            return boxed(picture(colours.coloured(one.values, one.limit), one.title), one)
        case HeatPanel():
            assert one.image is not None
            return boxed(
                picture(colours.overlaid(one.image, one.values, one.limit, one.units), one.title), one
            )
        case BarsPanel():
            return bars(one.drawn.values, f"{one.drawn.words}, by {one.unit}")
        case RankPanel():
            return ranked(one.labels, one.values, one.title)
        case TokensPanel():
            return tokens(one)
        case LinePanel():
            return line(one)


def boxed(drawn: str, one: HeatPanel) -> str:
    """The picture of a map with the boxes of its support over it."""
    if not one.boxes:
        return drawn
    height, width = (one.values if one.image is None else one.image).shape[:2]
    boxes = "".join(
        f'<rect x="{left:.4g}" y="{top:.4g}" width="{wide:.4g}" height="{high:.4g}"/>'
        for top, left, high, wide in one.outlines()
    )
    over = f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">{boxes}</svg>'
    return f'<div class="boxed">{drawn}{over}</div>'


def pixels_of(image: Map) -> Pixels:
    """`[H, W, 3]` of a picture in 0..1."""
    whole = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.repeat(whole[..., None], 3, axis=2) if whole.ndim == 2 else whole


def picture(pixels: Pixels, title: str) -> str:
    """An image in the page, in blocks where it is small."""
    small = max(pixels.shape[:2]) <= SMALL
    height, width = pixels.shape[:2]
    kind = "pixels" if small else "photograph"
    return (
        f'<img class="{kind}" src="{data_uri(pixels)}" alt="{escape(title)}" title="{escape(title)}" '
        f'width="{width}" height="{height}">'
    )


def data_uri(pixels: Pixels) -> str:
    """A PNG, or of a photograph a JPEG, as text."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        from onnx_attribution.errors import InvalidArgument

        raise InvalidArgument("pages need pillow: pip install 'onnx-attribution[audit]'") from None
    buffer, image = io.BytesIO(), Image.fromarray(np.ascontiguousarray(pixels))
    if max(pixels.shape[:2]) <= SMALL:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(buffer, "JPEG", quality=QUALITY)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def scale_of(limit: float, *, clipped: bool = False) -> str:
    """The colours, and the numbers at their ends."""
    sign = "≤ ", "≥ "
    low, high = (
        f"{mark * clipped}{number(value, 3)}" for mark, value in zip(sign, (-limit, limit), strict=True)
    )
    return f'<div class="scale"><span>{low}</span><i></i><span>{high}</span></div>'


def css() -> str:
    """The style of all that is made here; inks are those of a white page, where no variable says another."""
    shades = []
    for place, ground in enumerate(np.rint(colours.table() * 255).astype(int)):
        ink = "#fff" if float(ground @ np.array([0.299, 0.587, 0.114])) < 130 else "#1a1a1a"
        shades.append(f".tokens .c{place}{{background:#{bytes(ground.tolist()).hex()};color:{ink}}}")
    scale = ", ".join(f"#{one}" for one in colours.ANCHORS)
    plain = (Path(__file__).parent / "render.css").read_text(encoding="utf-8")
    return (
        f"{plain}.scale i {{ background: linear-gradient(to right, {scale}); }}\n"
        f".tokens .missing {{ background: {colours.MISSING}; color: #1a1a1a; }}\n{''.join(shades)}\n"
    )


def tokens(panel: TokensPanel) -> str:
    """Text, each token on the colour of its attribution; the strongest are listed where the text is long."""
    values = panel.drawn.values
    if said := emptiness(values):
        return f'<div class="empty">{escape(said)}</div>'
    text = f'<div class="tokens">{" ".join(_shaded(panel, 0, len(values)))}</div>'
    return text + (_strongest(panel) if len(values) > 3 * STRONGEST else "")


def excerpt(panel: TokensPanel) -> str:
    """Text as `tokens` has it; long text as a strip of all of it, and the words around the strongest tokens."""
    values = panel.drawn.values
    if len(values) <= LONG or emptiness(values):
        return tokens(panel)
    places = np.zeros(len(values), np.bool_)
    for at in strongest(values, STRONGEST):
        places[max(at - AROUND, 0) : at + AROUND + 1] = True
    ends = np.flatnonzero(np.diff(np.concatenate([[False], places, [False]]).astype(np.int8))).reshape(-1, 2)
    pieces, last = list[str](), 0
    for start, stop in ends.tolist():
        pieces += [f"<small>… {start - last} more …</small>"] * (start > last)
        pieces += _shaded(panel, start, stop)
        last = stop
    pieces += [f"<small>… {len(values) - last} more</small>"] * (len(values) > last)
    whole = f"{strip(panel, ALL)}<small>all {len(values)} tokens, in rows of {min(len(values), ALL)}</small>"
    return f'{whole}<div class="tokens">{" ".join(pieces)}</div>{_strongest(panel)}'


def _shaded(panel: TokensPanel, start: int, stop: int) -> list[str]:
    """The tokens from one position to another, each on its colour."""
    values = panel.drawn.values
    places, found = colours.places(values, panel.limit), []
    for at in range(start, stop):
        shade = f"c{places[at]}" if np.isfinite(values[at]) else "missing"
        label = escape(panel.tokens.labels[at])
        found.append(f'<span class="{shade}" title="{number(float(values[at]))}">{label}</span>')
    return found


def _strongest(panel: TokensPanel) -> str:
    values = panel.drawn.values
    chosen = strongest(values, STRONGEST)
    words = [f"{short(panel.tokens.labels[at], 14)} at {at}" for at in chosen]
    return ranked(words, values[chosen], f"the {len(chosen)} strongest positions")


def strip(panel: TokensPanel, most: int = ACROSS) -> str:
    """Text as a small picture, a square for each token, from the left to the right and down: for one beside many."""
    values = panel.drawn.values
    if said := emptiness(values):
        return f'<div class="empty">{escape(said)}</div>'
    across = min(len(values), most)
    grid = np.zeros((-(-len(values) // across), across))
    grid.ravel()[: len(values)] = values
    return picture(colours.coloured(grid, panel.limit), f"{len(values)} tokens in rows of {across}")


def ranked(labels: Sequence[str], values: Map, title: str) -> str:
    """Labelled bars from the middle, red to the right."""
    if not len(labels):
        return '<div class="empty">all attributions are 0</div>'
    largest = float(np.abs(np.nan_to_num(values)).max()) or 1.0
    rows = []
    for label, value in zip(labels, values, strict=True):
        length = 50 * abs(float(np.nan_to_num(value))) / largest
        bar = share_bar(-length if value < 0 else length)
        rows.append(
            f'<tr><th scope="row">{escape(label)}</th><td class="bar">{bar}</td><td>{number(float(value))}</td></tr>'
        )
    return f'<table class="ranked"><caption>{escape(title)}</caption>{"".join(rows)}</table>'


def share_bar(length: float, start: int = -50) -> str:
    """A bar from the middle of 100, or from another start: red to the right, blue to the left or where it is less than
    nothing."""
    colour = NEGATIVE if length < 0 else POSITIVE
    size = min(abs(length), 100.0)
    left = -size if length < 0 and start else 0.0
    return (
        f'<svg class="share" viewBox="{start} 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect x="{left:.1f}" width="{size:.1f}" height="1" fill="{colour}"/></svg>'
    )


def bars(values: Map, title: str) -> str:
    """A bar for each number, or for each block of many."""
    if said := emptiness(values):
        return f'<div class="empty">{escape(said)}</div>'
    high, low, size = extremes(values, BARS)
    top, bottom = float(high.max(initial=0)), float(low.min(initial=0))
    span = (top - bottom) or 1.0
    width, height = 320.0, 120.0
    step = width / len(high)
    drawn = []
    for k, (above, below) in enumerate(zip(high, low, strict=True)):
        for value, colour in ((above, POSITIVE), (below, NEGATIVE)):
            if value:
                y = (top - max(value, 0)) / span * height
                drawn.append(
                    f'<rect x="{k * step:.2f}" y="{y:.2f}" width="{max(step * 0.85, 0.5):.2f}" '
                    f'height="{abs(value) / span * height:.2f}" fill="{colour}"/>'
                )
    zero = top / span * height
    axis = f'<line x1="0" x2="{width:g}" y1="{zero:.2f}" y2="{zero:.2f}" stroke="{GREY}" stroke-width="0.6"/>'
    words = title + (f"; each bar is the extreme of {size}" if size > 1 else "")
    return (
        f'<svg class="bars" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(words)}">'
        f"<title>{escape(words)}</title>{''.join(drawn)}{axis}</svg>"
    )


def _thinned(curve: Map, values: Map) -> tuple[Map, Map]:
    """A curve of fewer points: of each block its lowest and its highest, with the block's strongest attribution."""
    size = -(-2 * len(curve) // PIECES)
    if len(curve) <= PIECES:
        return curve, values
    padded = np.pad(curve, (0, -len(curve) % size), mode="edge").reshape(-1, size)
    own = np.pad(values, (0, -len(values) % size)).reshape(-1, size)
    order = np.sort(np.stack([padded.argmin(axis=1), padded.argmax(axis=1)], axis=1), axis=1)
    strong = np.take_along_axis(own, np.abs(np.nan_to_num(own)).argmax(axis=1)[:, None], axis=1)
    return np.take_along_axis(padded, order, axis=1).reshape(-1), np.repeat(strong[:, 0], 2)


def line(panel: LinePanel) -> str:
    """Each curve in grey, its points coloured by what they contribute."""
    if said := emptiness(panel.values):
        return f'<div class="empty">{escape(said)}</div>'
    width, height = 480.0, 90.0
    low, high = float(np.nanmin(panel.curves)), float(np.nanmax(panel.curves))
    span = (high - low) or 1.0
    drawn = []
    for k, (curve, values) in enumerate(zip(panel.curves, panel.values, strict=True)):
        curve, values = _thinned(curve, values)
        xs = np.linspace(2, width - 2, len(curve))
        ys = (high - curve) / span * (height - 8) + 4 + k * height
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        drawn.append(f'<polyline points="{points}" fill="none" stroke="#c4c4c4" stroke-width="1"/>')
        hues, strength = colours.coloured(values, panel.limit), colours.opacity(values, panel.limit)
        middles = np.concatenate([xs[:1], (xs[1:] + xs[:-1]) / 2, xs[-1:]])
        heights = np.interp(middles, xs, ys)
        for at, (x, y) in enumerate(zip(xs, ys, strict=True)):
            if strength[at] > colours.FAINT:
                drawn.append(
                    f'<polyline points="{middles[at]:.1f},{heights[at]:.1f} {x:.1f},{y:.1f} '
                    f'{middles[at + 1]:.1f},{heights[at + 1]:.1f}" fill="none" '
                    f'stroke="#{bytes(hues[at].tolist()).hex()}" stroke-width="{1 + 4 * strength[at]:.1f}"/>'
                )
    total, each = height * len(panel.curves), -(-2 * panel.curves.shape[1] // PIECES)
    title = panel.title + f"; each piece is the extreme of {each} points" * (panel.curves.shape[1] > PIECES)
    return (
        f'<svg class="line" viewBox="0 0 {width:g} {total:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(drawn)}</svg>"
    )
