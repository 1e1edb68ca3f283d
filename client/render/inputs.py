"""What of a model's inputs stands beside their attributions: pictures, tokens, rows of a table, curves over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.render.scene import Shown
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import Array, BatchMode, ModelInfo, Preprocessing, TensorInfo

Layout = Literal["nchw", "nhwc"]
Shape = tuple[int | str | None, ...]
Kind = Literal["image", "tokens", "rows", "series", "map"]

SETTINGS = ("mask", "type", "segment", "position", "length")
"""Inputs of integers whose names hold one of these are tokens only where there are no others."""
LONGEST_ROW = 64
"""Numbers of a sample with one axis: up to here they are the features of a row, beyond a curve over time."""
CURVES, TIMES = 8, 16
"""A sample with two axes is curves over time when it has at most so many of at least so many points."""


@dataclass(frozen=True)
class Axes:
    """The axes of an input that a picture fills; None for those that it does not have."""

    batch: int | None
    channels: int | None
    height: int
    width: int


def shown_of(
    info: ModelInfo,
    arrays: Mapping[str, Array],
    *,
    layout: Layout | None = None,
    preprocessing: Mapping[str, Preprocessing] | None = None,
    kinds: Mapping[str, Kind] | None = None,
    baseline: str = "0",
) -> Shown:
    """What is seen of the inputs: the first picture, and all tokens, rows and curves.

    `preprocessing` says how inputs are made of pictures (default: what the model's card says), `kinds` what an input
    is where that is not to be told from its shape.
    """
    ways = info.preprocessing if preprocessing is None else preprocessing
    images, channels_last = _images(info, arrays, layout, ways, kinds or {})
    tokens = tokens_of(arrays, info)
    rows: dict[str, Array] = {}
    series: dict[str, Array] = {}
    for one in info.inputs:
        if one.name not in arrays or one.name in tokens:
            continue
        samples = _of_samples(arrays[one.name], one, info.batch)
        kind = (kinds or {}).get(one.name) or kind_of(samples, ways.get(one.name))
        if kind == "rows":
            rows[one.name] = samples.reshape(len(samples), -1)
        elif kind == "series":
            series[one.name] = _curves(samples)
    return Shown(images, channels_last, tokens, rows, {}, series, baseline)


def kind_of(samples: Array, way: Preprocessing | None = None) -> Kind:
    """What a float input of these samples is taken for: rows of a table, curves over time, or a map."""
    sizes = [size for size in samples.shape[1:] if size != 1]
    if samples.dtype.kind not in "fiub" or len(sizes) > 2:
        return "map"
    if way is not None and way.kind == "image":
        return "image"
    if way is not None and way.kind == "audio":
        return "series"
    if len(sizes) < 2:
        return "rows" if samples[0].size <= LONGEST_ROW else "series"
    return "series" if min(sizes) <= CURVES and max(sizes) >= max(TIMES, 3 * min(sizes)) else "map"


def _curves(samples: Array) -> Array:
    """`[samples, channels, time]`: the longer of two axes is time."""
    flat = samples.reshape(len(samples), *(size for size in samples.shape[1:] if size != 1))
    if flat.ndim < 3:
        return flat.reshape(len(samples), 1, -1)
    return flat if flat.shape[1] <= flat.shape[2] else np.swapaxes(flat, 1, 2)


def _images(
    info: ModelInfo,
    arrays: Mapping[str, Array],
    layout: Layout | None,
    ways: Mapping[str, Preprocessing],
    kinds: Mapping[str, Kind],
) -> tuple[Array | None, bool]:
    """The samples of the first input that can be looked at, as they were before the model's scaling."""
    for one in info.inputs:
        if one.name not in arrays or kinds.get(one.name, "image") != "image":
            continue
        way = ways.get(one.name)
        said: Layout | None = layout or (
            None if way is None else {"chw": "nchw", "hwc": "nhwc"}.get(way.layout or "")  # type: ignore[assignment]
        )
        axes = axes_of_picture(one, said)
        flat = axes is not None and axes.channels is None and (way is None or way.kind != "image")
        if one.dtype == "string" or axes is None or flat:
            continue
        images = _samples(arrays[one.name], one, info.batch)
        last = axes.channels is not None and axes.channels > axes.width
        if images.shape[-1 if last else 1] == 3 and way is not None and way.colours == "bgr":
            images = np.flip(images, -1 if last else 1)
        return _pixels(images, last, way), last
    return None, layout == "nhwc"


def _pixels(images: Array, last: bool, way: Preprocessing | None) -> Array:
    """Pixels from 0 to 1, where it is said how the model's numbers are made of them."""
    if way is None or way.kind != "image" or images.ndim != 4:
        return images
    count = images.shape[-1 if last else 1]

    def spread(numbers: tuple[float, ...], default: float) -> NDArray[np.float64]:
        given = np.asarray(numbers or (default,), np.float64)
        if way is not None and way.colours == "bgr":
            given = given[::-1]
        lying = np.broadcast_to(given, (count,)) if len(given) in (1, count) else np.full(count, default)
        return lying if last else lying[:, None, None]

    found = (images.astype(np.float64) * spread(way.std, 1.0) + spread(way.mean, 0.0)) / (255 * way.scale)
    return np.clip(found, 0, 1)


def _samples(array: Array, info: TensorInfo, batch: BatchMode | None) -> Array:
    """`[samples, *unit]`; without a batch axis, a leading axis of size 1 is that of the only sample."""
    axis = info.sample_axis(array.shape, batch)
    if axis is None:
        return array if array.ndim == 4 and len(array) == 1 else array[None]
    samples = np.moveaxis(array, axis, 0)
    return samples[:, 0] if samples.ndim == 5 and samples.shape[1] == 1 else samples


def _of_samples(array: Array, info: TensorInfo, batch: BatchMode | None) -> Array:
    """`[samples, ...]`, one sample where all share the input."""
    axis = info.sample_axis(array.shape, batch)
    return array[None] if axis is None else np.moveaxis(array, axis, 0)


def tokens_of(arrays: Mapping[str, Array], info: ModelInfo) -> dict[str, Array]:
    """By input `[samples, positions]`, what stands at each position: integers, text, or the place of the 1 in one-hot
    floats; masks and their like last."""
    found: dict[str, Array] = {}
    for one in sorted(info.inputs, key=lambda one: any(word in one.name.lower() for word in SETTINGS)):
        if one.name not in arrays:
            continue
        samples = _of_samples(arrays[one.name], one, info.batch)
        samples = samples.reshape(len(samples), *(size for size in samples.shape[1:] if size != 1))
        if samples.ndim == 2 and samples.dtype.kind in "iuUSOT" and samples.shape[1] > 1:
            found[one.name] = samples
        elif samples.ndim == 3 and (places := _places(samples)) is not None:
            found[one.name] = places
    return found


def _places(samples: Array) -> Array | None:
    """Where the 1 is along the axis of one-hot numbers, the last before the one before it."""
    if samples.dtype.kind not in "fiub" or not np.isin(samples, (0, 1)).all():
        return None
    for axis in (2, 1):
        if (samples.sum(axis=axis) == 1).all() and samples.shape[axis] > 1:
            return np.asarray(samples.argmax(axis=axis))
    return None


def axes_of_picture(info: TensorInfo, layout: Layout | None) -> Axes | None:
    """Where batch, channels, height and width of an input lie; None: no picture fills an input of its rank.

    The batch axis is the one that is proven; without one, a leading axis that is neither channels nor height is left
    for one picture. Channels are first for nchw, last for nhwc, else guessed from the sizes: 1 or 3, then 4.
    """
    shape = info.shape or ()
    axes = list(range(len(shape)))
    batch = info.batch_axis
    if batch is None and (len(shape) == 4 or (len(shape) == 3 and not _has_channels(shape, layout))):
        batch = 0
    if batch is not None:
        if batch >= len(axes):
            return None
        axes.remove(batch)
    if len(axes) == 2:
        return Axes(batch, None, *axes)
    if len(axes) != 3:
        return None
    first, middle, last = axes
    if layout == "nhwc" or (layout is None and _is_last(shape[first], shape[last])):
        return Axes(batch, last, first, middle)
    return Axes(batch, first, middle, last)


def _has_channels(shape: Shape, layout: Layout | None) -> bool:
    """Whether three axes without a batch are channels and a plane."""
    return layout is not None or shape[0] in (3, 4) or shape[2] in (1, 3, 4)


def _is_last(first: int | str | None, last: int | str | None) -> bool:
    """Whether the channels are last, by the sizes."""
    for sizes in ((1, 3), (4,)):
        for size in (first, last):
            if size in sizes:
                return size == last and first not in sizes
    return False


def kinds_named(given: Mapping[str, str]) -> dict[str, Kind]:
    """What inputs are, as somebody says. Raises: InvalidArgument for another word."""
    found: dict[str, Kind] = {}
    for name, word in given.items():
        known = {one: one for one in get_args(Kind)}
        if word not in known:
            raise InvalidArgument(f"input {name!r} is no {word!r}; there are: {', '.join(known)}")
        found[name] = known[word]
    return found
