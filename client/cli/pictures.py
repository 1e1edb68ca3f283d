"""Pictures as the inputs of a model want them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import Array, TensorInfo

PICTURES = (".png", ".jpg", ".jpeg")
FLOATS = ("float16", "float32", "float64", "bfloat16")
CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
Layout = Literal["nchw", "nhwc"]


@dataclass(frozen=True)
class Picture:
    """How the pixels of a picture become numbers: `(pixel * scale - mean) / std`, per channel.

    Without a scale, pixels are divided by 255 for float inputs and left as they are for integer ones.
    """

    scale: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout | None = None
    resize: bool = False


def channel_axis(info: TensorInfo, layout: Layout | None) -> int:
    """Where the channels of a four-dimensional input lie: 1 for nchw, 3 for nhwc; guessed from its shape."""
    if layout is not None:
        return 1 if layout == "nchw" else 3
    shape = info.shape or ()
    for sizes in ((1, 3), (4,)):
        for axis in (1, 3):
            if len(shape) == 4 and shape[axis] in sizes:
                return axis
    return 1


def read_picture(path: Path, info: TensorInfo | None, picture: Picture) -> Array:
    """`[1, C, H, W]`, `[1, H, W, C]`, or `[1, H, W]` for an input without channels."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise InvalidArgument("pictures need pillow: pip install 'onnx-attribution[plot]'") from None
    shape: tuple[int | str | None, ...] = info.shape if info is not None and info.shape else (None,) * 4
    if len(shape) not in (3, 4):
        name = info.name if info is not None else ""
        raise InvalidArgument(
            f"input {name!r} takes the shape {_shown(shape)}; a picture fills [batch, channels, height, width]",
            reason="SHAPE_MISMATCH",
        )
    axis = channel_axis(info, picture.layout) if info is not None else 1
    channels = shape[axis] if len(shape) == 4 else 1
    height, width = [size for k, size in enumerate(shape) if k != 0 and (len(shape) == 3 or k != axis)]
    mode = CHANNELS.get(channels) if isinstance(channels, int) else "RGB"
    if mode is None:
        raise InvalidArgument(
            f"the input takes {channels} channels in {_shown(shape)}; a picture has 1, 3 or 4: say --layout",
            reason="SHAPE_MISMATCH",
        )
    with Image.open(path) as opened:
        image = opened.convert(mode)
    if picture.resize:
        if not isinstance(height, int) or not isinstance(width, int):
            raise InvalidArgument(
                f"--resize needs a size in the file; the model takes {_shown(shape)}", reason="SHAPE_MISMATCH"
            )
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    if (isinstance(height, int) and height != image.height) or (
        isinstance(width, int) and width != image.width
    ):
        raise InvalidArgument(
            f"{path.name!r} has {image.height} x {image.width} pixels; the model takes {_shown(shape)}: use --resize",
            reason="SHAPE_MISMATCH",
        )
    pixels = np.asarray(image, np.float64).reshape(image.height, image.width, -1)
    dtype = info.dtype if info is not None else "float32"
    scale = picture.scale if picture.scale is not None else (1 / 255 if dtype in FLOATS else 1.0)
    for option, values in (("--mean", picture.mean), ("--std", picture.std)):
        if len(values) not in (1, pixels.shape[2]):
            raise InvalidArgument(
                f"{option} has {len(values)} numbers; the picture has {pixels.shape[2]} channels"
            )
    if 0 in picture.std:
        raise InvalidArgument("--std holds 0")
    numbers = (pixels * scale - np.asarray(picture.mean)) / np.asarray(picture.std)
    if len(shape) == 3:
        numbers = numbers[..., 0]
    elif axis == 1:
        numbers = np.moveaxis(numbers, 2, 0)
    whole = numbers if dtype in FLOATS else np.rint(numbers)
    return np.asarray(whole[None], dtype="float32" if dtype == "bfloat16" else dtype)


def _shown(shape: Sequence[int | str | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
