"""What a picture of an attribution holds, whoever draws it: its title, panels, range of colours and captions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnx_attribution.client.niwt.unit_names import UnitNames
from onnx_attribution.client.render.colours import reach
from onnx_attribution.client.render.maps import (
    Drawn,
    Map,
    Tokens,
    cells_of,
    heat_of,
    missing,
    positions_of,
    range_of,
    strongest,
    tokens_of,
)
from onnx_attribution.supports import Box, LayerSupport
from onnx_attribution.values import Array, Attribution, LayerAttribution

CELLS = (75, 250)  # rows and columns of a map of which each cell can be seen
PIXELS = (230, 230)  # of a map over an image, which a picture of its size shows one by one
LABELLED = 40  # positions that fit beside each other with their tokens
STRONGEST = 14
BOXES = 8  # of the parts of a support, those of the largest mass
FEATURES = 24  # of a row of a table


@dataclass(frozen=True)
class Shown:
    """What of the inputs stands beside their attributions, by sample.

    `images` is `[samples, C, H, W]` (with `channels_last` `[samples, H, W, C]`), or without the channel axis. By input,
    `tokens` has `[samples, positions]`, numbers or text; `rows` `[samples, features]`, of which `features` may have the
    names; `series` `[samples, channels, time]`. `baseline` says in words what it was, `names` what units are called.
    """

    images: Array | None = None
    channels_last: bool = False
    tokens: Mapping[str, Array] = field(default_factory=dict)
    rows: Mapping[str, Array] = field(default_factory=dict)
    features: Mapping[str, Sequence[str]] = field(default_factory=dict)
    series: Mapping[str, Array] = field(default_factory=dict)
    baseline: str = "0"
    names: UnitNames = field(default_factory=UnitNames)

    def image(self, k: int) -> Map | None:
        """The picture of a sample, `[H, W]` or `[H, W, 3]` in 0..1."""
        if self.images is None or k >= len(self.images):
            return None
        return image_of(self.images[k], self.channels_last)


@dataclass(frozen=True)
class ImagePanel:
    """A picture, `[H, W]` or `[H, W, 3]` in 0..1."""

    title: str
    pixels: Map


@dataclass(frozen=True)
class HeatPanel:
    """A map in colours that end at `limit`; over a picture, where there is one. `units` is the size of the layer's map,
    of which the cells may be sums; `boxes` are in its units."""

    title: str
    values: Map
    limit: float
    image: Map | None
    units: tuple[int, ...]
    square: bool
    boxes: tuple[Box, ...] = ()

    def outlines(self) -> list[tuple[float, float, float, float]]:
        """The boxes as top, left, height and width, in pixels of the picture under the map, or in cells."""
        if not self.boxes:
            return []
        cells = self.values.shape
        ends: Sequence[float] = cells
        if self.image is not None:
            ends = reach(self.image.shape[:2], cells, self.units)
        down, right = (
            length / count / math.ceil(n / count)
            for length, count, n in zip(ends, cells, self.units, strict=True)
        )
        return [
            (b.top * down, b.left * right, (b.bottom - b.top + 1) * down, (b.right - b.left + 1) * right)
            for b in self.boxes
        ]


@dataclass(frozen=True)
class BarsPanel:
    """A bar for each unit, in their order."""

    drawn: Drawn
    unit: str


@dataclass(frozen=True)
class RankPanel:
    """Labelled bars, the strongest first."""

    title: str
    labels: tuple[str, ...]
    values: Map


@dataclass(frozen=True)
class TokensPanel:
    """What stands at each position, and its attribution."""

    tokens: Tokens
    drawn: Drawn
    limit: float


@dataclass(frozen=True)
class LinePanel:
    """Curves over time, `[channels, time]`, and the attribution of each point."""

    title: str
    curves: Map
    values: Map
    limit: float


Panel = ImagePanel | HeatPanel | BarsPanel | RankPanel | TokensPanel | LinePanel


@dataclass(frozen=True)
class Scene:
    """A picture: panels side by side; `notes` is what a reader does not expect of them. `limit` is where the colours
    end, if there are any, and `clipped` whether numbers lie beyond."""

    title: str
    panels: tuple[Panel, ...]
    caption: tuple[str, ...]
    notes: tuple[str, ...] = ()
    limit: float | None = None
    clipped: bool = False


def scenes(answers: Sequence[Attribution], shown: Shown) -> Iterator[Scene]:
    """A scene for each answer, target, layer and sample."""
    for several in answers:
        for answer in several.each():
            for layer in answer.layers.values():
                for k in range(len(layer.values)):
                    yield scene_of(answer, layer, k, shown)


def scene_of(answer: Attribution, layer: LayerAttribution, k: int, shown: Shown) -> Scene:
    """The scene of one sample at one layer.

    Channels of a layer are summed; they lie where the sizes of its other axes are to each other most like those of the
    image, first where that leaves it open (without images: as `channels_last` says). A layer with an axis as long as
    there are tokens is drawn by position, summed over its other axes, and labelled by what stands there.
    """
    values = np.asarray(layer.values[k], np.float64)
    sample = f"  sample {k}" if len(layer.values) > 1 else ""
    shape = " × ".join(map(str, values.shape)) or "one number"
    label = short(answer.target.labels[k]) if answer.target.labels else ""
    title = f"{answer.method}  {short(layer.name)}  ({shape}){sample}" + f"  {label}" * bool(label)
    panels, notes, colours = _panels(layer.name, values, k, shown)
    if answer.supports:
        panels, told = _boxed(panels, answer.supports[k].layers[layer.name])
        notes = (*notes, *told)
    return Scene(
        title,
        panels,
        (*caption_of(answer, layer, k, shown.baseline), *filter(None, [_named(layer.name, values, shown)])),
        notes,
        None if colours is None else colours[0],
        colours is not None and colours[1],
    )


def _boxed(panels: tuple[Panel, ...], support: LayerSupport) -> tuple[tuple[Panel, ...], tuple[str, ...]]:
    """Maps with the boxes of the support, where they are of the same positions, and what is to be told of these."""
    drawn = support.boxes[:BOXES]
    found = tuple(
        replace(one, boxes=drawn) if isinstance(one, HeatPanel) and one.units == support.positions else one
        for one in panels
    )
    if not drawn or all(one is other for one, other in zip(found, panels, strict=True)):
        return panels, ()
    mass = sum(box.mass for box in drawn)
    several = f"{len(drawn)} of {support.parts} parts" if support.parts > len(drawn) else "all parts"
    share, kept = (f"{100 * part:.3g}" for part in (mass, support.mass))
    return found, (f"boxes: {several} of the support, {share} of the {kept} % of the mass that are kept",)


def _panels(
    name: str, values: Map, k: int, shown: Shown
) -> tuple[tuple[Panel, ...], tuple[str, ...], tuple[float, bool] | None]:
    """The panels, what is to be told of them, and where the colours end."""
    image = shown.image(k)
    if name in shown.rows and values.size == shown.rows[name][k].size:
        return _row(values.ravel(), shown.rows[name][k].ravel(), shown.features.get(name, ()))
    if name in shown.series and k < len(shown.series[name]):
        curves = np.asarray(shown.series[name][k], np.float64)
        lying = values.reshape(curves.shape) if values.size == curves.size else None
        if lying is not None:
            colours = range_of(lying)
            line = LinePanel("attribution in time", curves, lying, colours.limit)
            return (line,), (*colours.notes, *missing(values)), (colours.limit, bool(colours.notes))
    found = tokens_of(name, values.shape, shown.tokens, k, is_map=image is not None)
    if found is not None:
        drawn = positions_of(values, found.axis)
        colours = range_of(drawn.values)
        panel = TokensPanel(found, drawn, colours.limit)
        return (panel,), (*drawn.notes, *missing(drawn.values)), (colours.limit, bool(colours.notes))
    if values.ndim < 2 or min(values.shape[-3:]) == 0:
        drawn = Drawn(np.atleast_1d(values).ravel(), "attribution")
        before = () if image is None else (ImagePanel("input", image),)
        return (*before, BarsPanel(drawn, "unit")), missing(values), None
    return _heat_map(values, image, shown.channels_last)


def _row(
    values: Map, own: Array, names: Sequence[str]
) -> tuple[tuple[Panel, ...], tuple[str, ...], tuple[float, bool] | None]:
    """The features of a row of a table, the strongest first, with their names and values."""
    chosen = strongest(values, FEATURES)
    labels = [str(names[at]) if at < len(names) else f"feature {at}" for at in range(values.size)]
    words = [f"{short(labels[at], 28)} = {_value(own[at])}" for at in chosen]
    left = values.size - len(chosen)
    notes = (f"{len(chosen)} of {values.size} features",) if left and len(chosen) == FEATURES else ()
    panel = RankPanel("attribution by feature", tuple(words), values[chosen])
    return (panel,), (*notes, *missing(values)), None


def _heat_map(
    values: Map, image: Map | None, channels_last: bool
) -> tuple[tuple[Panel, ...], tuple[str, ...], tuple[float, bool] | None]:
    last = channels_last if image is None else channels_lie_last(values.shape, image.shape)
    whole = heat_of(values, last)
    over = image is not None and values.ndim >= 3
    heat = cells_of(whole, *(PIXELS if over else CELLS), square=over)
    colours = range_of(heat.values)
    panels: list[Panel] = [] if image is None else [ImagePanel("input", image)]
    panels.append(HeatPanel(heat.words, heat.values, colours.limit, None, whole.values.shape, over))
    if over:
        panels.append(
            HeatPanel("over the image", heat.values, colours.limit, image, whole.values.shape, True)
        )
    notes = (*heat.notes, *colours.notes, *(f"{text} (grey)" for text in missing(heat.values)))
    return tuple(panels), notes, (colours.limit, bool(colours.notes))


def caption_of(answer: Attribution, layer: LayerAttribution, k: int, baseline: str) -> tuple[str, str]:
    """The target and where it starts from; what the attributions sum to, and how far off they are."""
    target = answer.target
    first = f"target {short(target.tensor)}[{target.index[k]}]: {number(target.value[k])} at the input"
    if math.isfinite(target.baseline_value[k]):
        first += f", {number(target.baseline_value[k])} at the baseline ({short(baseline)})"
    parts = [f"sum {number(layer.sum[k])}"]
    if math.isfinite(layer.residual[k]):
        parts.append(f"residual {number(layer.residual[k])}")
    if math.isfinite(layer.error_estimate[k]):
        parts.append(f"estimated L1 error {number(layer.error_estimate[k])}")
    if answer.steps:
        parts.append(f"{answer.steps} steps")
    if not layer.cut:
        parts.append("no cut: some ways to the target bypass this layer")
    return first, ", ".join(parts)


def _named(layer: str, values: Map, shown: Shown) -> str:
    """The units that have names and contribute most."""
    words = shown.names.strongest(layer, values)
    return f"units: {words}" if words else ""


def channels_lie_last(shape: Sequence[int], image: Sequence[int]) -> bool:
    """Whether the two axes before the last are nearer to the image's height and width than the last two are."""
    if len(shape) < 3:
        return False

    def distance(height: int, width: int) -> float:
        return abs(math.log(height / image[0]) - math.log(width / image[1]))

    return distance(*shape[-3:-1]) < distance(*shape[-2:]) - 1e-9


def image_of(image: Array, channels_last: bool) -> Map | None:
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


def _value(value: object) -> str:
    """A feature as it stands in a table."""
    return number(float(value)) if isinstance(value, np.number) else short(str(value), 20)


def number(value: float, digits: int = 4) -> str:
    """A few digits, with a true minus; none for what there is none of."""
    return f"{float(value):.{digits}g}".replace("-", "−") if math.isfinite(value) else "none"


def short(name: str, length: int = 60) -> str:
    """The end of a name that is too long."""
    return name if len(name) <= length else "…" + name[-(length - 1) :]
