"""Pictures as the inputs of a model want them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.render.inputs import Axes, Layout, axes_of_picture
from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.server.cli.output import shape_text
from onnx_attribution.server.cli.pixels import Shown, shown
from onnx_attribution.values import Array, Colours, Preprocessing, TensorInfo

if TYPE_CHECKING:
    from PIL.Image import Image

FLOATS = ("float16", "float32", "float64", "bfloat16")
Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Picture:
    """How the pixels of a picture become numbers: `(pixel * scale - mean) / std`, per channel. None: it is not said.

    A pixel counts from 0 (black) to 255 (white), whatever the depth of the file. Without a scale, pixels are divided by
    255 for float inputs and left as they are for integer ones. `background` is the colour that shows through
    transparent pixels. `said` is by input what the file beside the model says, where options do not. `notes` collects
    what the reader of the answer should know of the files.
    """

    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Layout | None = None
    resize: bool = False
    background: str | None = None
    colours: Colours | None = None
    size: tuple[int, int] | None = None
    said: Mapping[str, Preprocessing] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list, compare=False)

    def of(self, name: str) -> Picture:
        """The same for one input, with what is said of it."""
        said = self.said.get(name)
        if said is None or said.kind != "image":
            return self
        layouts: dict[str, Layout] = {"chw": "nchw", "hwc": "nhwc"}
        return replace(
            self,
            scale=said.scale if self.scale is None else self.scale,
            mean=self.mean or said.mean,
            std=self.std or said.std,
            layout=self.layout or layouts.get(said.layout or ""),
            size=said.size,
            colours=self.colours or said.colours,
        )

    def note(self, text: str) -> None:
        """Keeps a note, once."""
        if text not in self.notes:
            self.notes.append(text)


def read_picture(path: Path, info: TensorInfo | None, picture: Picture) -> Array:
    """The picture in the shape of the input with a batch of 1, such as `[1, C, H, W]`, `[1, H, W, C]` or `[1, H, W]`.

    Raises:
        InvalidArgument: the input takes no picture, or not this one.
    """
    if info is None:
        info = TensorInfo("", "float32", (None,) * 4, 0)
    picture = picture.of(info.name)
    shape, axes = info.shape or (), axes_of_picture(info, picture.layout)
    if axes is None:
        raise _misfit(f"{_input(info)}; a picture fills [batch, channels, height, width]")
    lead = shape[axes.batch] if axes.batch is not None and info.batch_axis is None else 1
    if isinstance(lead, int) and lead > 1:
        raise _misfit(
            f"{_input(info)}; one picture does not fill its first axis of {lead}: put the pixels into a .npy file, or "
            f"state --batch-axis {info.name}={axes.batch}"
        )
    kind, channels = _type(info), _channels(info, axes)
    _check_colours(info, channels, picture.colours)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # pillow's, of large files and odd metadata: what cannot be read raises
        found = shown(path, 1 if picture.colours == "gray" else channels, picture.background, picture.note)
    _check_depth(path, found, info, kind, picture)
    found = found._replace(image=_sized(path, found, (shape[axes.height], shape[axes.width]), info, picture))
    numbers = _numbers(found, channels, kind, picture)
    if axes.channels is None:
        numbers = numbers[..., 0]
    elif axes.channels < axes.height:
        numbers = np.moveaxis(numbers, 2, 0)
    array = _cast(path, numbers, info, kind)
    return array if axes.batch is None else np.expand_dims(array, axes.batch)


def _channels(info: TensorInfo, axes: Axes) -> int:
    """1, 3 or 4; 3 where the file leaves it open."""
    size = 1 if axes.channels is None else (info.shape or ())[axes.channels]
    if not isinstance(size, int) or size < 1:
        return 3
    if size not in (1, 3, 4):
        raise _misfit(f"{_input(info)}, that is {size} channels; a picture has 1, 3 or 4: say --layout")
    return size


def _type(info: TensorInfo) -> np.dtype[np.generic]:
    try:
        kind = np.dtype("float32" if info.dtype == "bfloat16" else info.dtype)
    except TypeError:
        kind = np.dtype(object)
    if kind.kind not in "fiub":
        raise InvalidArgument(
            f"input {info.name!r} takes {info.dtype}, no picture", reason=Reason.DTYPE_MISMATCH
        )
    return kind


def _check_colours(info: TensorInfo, channels: int, colours: Colours | None) -> None:
    if colours is not None and colours not in get_args(Colours):
        raise InvalidArgument(f"no colours {colours!r}; there are: {', '.join(get_args(Colours))}")
    if channels == 1 and colours not in (None, "gray"):
        raise _misfit(f"{_input(info)}, one channel, which has no colours; say --colours gray")


def _check_depth(
    path: Path, found: Shown, info: TensorInfo, kind: np.dtype[np.generic], picture: Picture
) -> None:
    """Refuses to guess what white is."""
    if picture.scale is not None:
        return
    if not found.has_white:
        raise InvalidArgument(
            f"{path.name!r} holds numbers of which none is known to be white: say what they are multiplied by, "
            "such as --scale 1",
            file=path,
        )
    if found.deep and kind.kind in "iu" and kind.itemsize > 1:
        raise InvalidArgument(
            f"{path.name!r} has 16 bits, and input {info.name!r} takes {info.dtype}: say --scale 257 for numbers up to "
            "65535, --scale 1 for numbers up to 255",
            file=path,
        )


def _sized(path: Path, found: Shown, size: Shape, info: TensorInfo, picture: Picture) -> Image:
    """The image in the size that the input takes, given as height and width."""
    from PIL import Image as Images

    image, (height, width) = found.image, size
    if picture.size is not None:
        image = image.resize(picture.size[::-1], Images.Resampling.BILINEAR)
    elif picture.resize:
        if not isinstance(height, int) or not isinstance(width, int):
            raise _misfit(f"--resize needs a size in the file; {_input(info)}")
        image = image.resize((width, height), Images.Resampling.BILINEAR)
    if any(isinstance(a, int) and a != b for a, b in ((height, image.height), (width, image.width))):
        raise _misfit(
            f"{path.name!r} has {image.height} x {image.width} pixels; {_input(info)}: use --resize"
        )
    return image


def _numbers(
    found: Shown, channels: int, kind: np.dtype[np.generic], picture: Picture
) -> NDArray[np.float64]:
    """`[H, W, C]`: the pixels, scaled and shifted."""
    pixels = np.asarray(found.image, np.float64).reshape(found.image.height, found.image.width, -1)
    if pixels.shape[2] != channels:  # grey numbers; what has no alpha is opaque
        opaque = [np.full_like(pixels, 255)] if channels == 4 else []
        pixels = np.concatenate([pixels] * 3 + opaque, axis=2)
    if picture.colours == "bgr":
        pixels = pixels[..., [2, 1, 0, *range(3, channels)]]
    mean, std = picture.mean or (0.0,), picture.std or (1.0,)
    scale = picture.scale if picture.scale is not None else (1 / 255 if kind.kind == "f" else 1.0)
    for option, values in (("--mean", mean), ("--std", std)):
        if len(values) not in (1, channels):
            raise InvalidArgument(f"{option} has {len(values)} numbers; the picture has {channels} channels")
    return np.asarray((pixels * scale - np.asarray(mean)) / np.asarray(std))


def _cast(path: Path, numbers: NDArray[np.float64], info: TensorInfo, kind: np.dtype[np.generic]) -> Array:
    """The numbers in the type of the input, which must hold them."""
    whole = numbers if kind.kind == "f" else np.rint(numbers)
    with np.errstate(invalid="ignore", over="ignore"):
        cast = whole.astype(kind)
    if kind.kind != "f" and not np.array_equal(cast, whole):
        raise InvalidArgument(
            f"{path.name!r} becomes numbers from {numbers.min():g} to {numbers.max():g}, and input {info.name!r} takes "
            f"{info.dtype}: say another --scale",
            reason=Reason.DTYPE_MISMATCH,
        )
    return cast


def _misfit(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason=Reason.SHAPE_MISMATCH)


def _input(info: TensorInfo) -> str:
    return f"input {info.name!r} takes the shape {shape_text(info.shape)}"
