"""The files that `explain` writes: arrays and pictures of an answer."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli.pictures import Picture, axes_of_picture
from onnx_attribution.values import Array, Attribution, BatchMode, ModelInfo, TensorInfo

SETTINGS = ("mask", "type", "segment", "position", "length")
"""Inputs of integers whose names hold one of these are tokens only where there are no others."""


def check_places(out: Path | None, plot: Path | None) -> None:
    """Refuses what could not be written, before anything is computed."""
    for path in (out, plot):
        if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
            raise InvalidArgument(f"{str(path)!r} cannot be written: no such folder, or a folder itself")
    if plot is not None:
        if plot.suffix.lower() not in (".png", ".svg", ".pdf", ".jpg", ".jpeg"):
            raise InvalidArgument(f"--plot {str(plot)!r}: the name must end in .png, .svg, .pdf or .jpg")
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError:
            raise InvalidArgument("--plot needs matplotlib: pip install 'onnx-attribution[plot]'") from None


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """An npz of arrays of any names; `np.savez` has arguments that a layer may be called like."""
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    except OSError as error:
        raise InvalidArgument(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def draw_answer(
    path: Path,
    answer: Attribution,
    arrays: Mapping[str, Array],
    info: ModelInfo,
    picture: Picture,
    baselines: Sequence[str],
) -> None:
    """The picture of `--plot`: behind it the first input that can be looked at, or labelled by tokens or bytes."""
    from onnx_attribution.client.plot import draw

    images, channels_last = None, picture.layout == "nhwc"
    for one in info.inputs:
        own = picture.of(one.name)
        axes = axes_of_picture(one, own.layout)
        if one.name in arrays and one.dtype != "string" and axes is not None and axes.channels is not None:
            images = _samples(arrays[one.name], one, info.batch)
            channels_last = axes.channels > axes.width
            if own.colours == "bgr" and images.shape[-1 if channels_last else 1] == 3:
                images = np.flip(images, -1 if channels_last else 1)
            break
    try:
        draw(
            path,
            answer,
            images=images,
            channels_last=channels_last,
            tokens=tokens_of(arrays, info),
            baseline=", ".join(Path(text).name for text in baselines) or "0",
        )
    except OSError as error:
        raise InvalidArgument(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def _samples(array: Array, info: TensorInfo, batch: BatchMode | None) -> Array:
    """`[samples, *unit]`; without a batch axis, a leading axis of size 1 is that of the only sample."""
    axis = info.sample_axis(array.shape, batch)
    if axis is None:
        return array if array.ndim == 4 and len(array) == 1 else array[None]
    samples = np.moveaxis(array, axis, 0)
    return samples[:, 0] if samples.ndim == 5 and samples.shape[1] == 1 else samples


def tokens_of(arrays: Mapping[str, Array], info: ModelInfo) -> dict[str, Array]:
    """By input `[samples, positions]`, what stands at each position: integers, text, or the place of the 1 in one-hot
    floats; masks and their like last."""
    found: dict[str, Array] = {}
    for one in sorted(info.inputs, key=lambda one: any(word in one.name.lower() for word in SETTINGS)):
        if one.name not in arrays:
            continue
        axis = one.sample_axis(arrays[one.name].shape, info.batch)
        samples = arrays[one.name][None] if axis is None else np.moveaxis(arrays[one.name], axis, 0)
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
