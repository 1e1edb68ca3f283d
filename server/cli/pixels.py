"""What a picture file shows: its pixels upright, opaque, from 0 (black) to 255 (white), whatever its mode and depth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from onnx_attribution.errors import InvalidArgument

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA")
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".tga"),
)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # of TIFF


class Shown(NamedTuple):
    """An image of 8 bits (mode L, RGB or RGBA), or of grey numbers (mode F).

    `deep`: the file has more than 8 bits a channel, and they are kept. `has_white`: 255 is white; without it, the
    numbers are those of the file, of which nobody knows which is white.
    """

    image: Image
    deep: bool
    has_white: bool


def shown(path: Path, channels: int, background: str | None, note: Callable[[str], None]) -> Shown:
    """The first frame as 1, 3 or 4 channels; `background` shows through where 1 or 3 cannot be transparent.

    Raises:
        InvalidArgument: the file is no picture, or transparent without a background.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError:
        raise _no_pillow() from None
    Image.init()
    try:
        # Given the file and not its name, pillow does not map it: the rows of a mapped grey TIFF that is turned break.
        with (
            path.open("rb") as data,
            Image.open(data, formats=[name for name in FORMATS if name in Image.OPEN]) as file,
        ):
            frames = getattr(file, "n_frames", 1)
            lost, white, inverted = _lost_bits(file), _white(file), _is_inverted(file)
            image = ImageOps.exif_transpose(file)
    except UnidentifiedImageError:
        raise InvalidArgument(
            f"{path.name!r} cannot be read: pillow knows no such picture; as .npy any array is read",
            file=path,
        ) from None
    if frames > 1 and file.format != "MPO":  # of which the first is the photograph
        note(f"{path.name!r} has {frames} frames; the first is taken")
    if lost:
        note(
            f"{path.name!r} has 16 bits a channel, of which pillow reads 8: pixels are up to 1/255 darker than in "
            "the file; as .npy they are exact"
        )
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        numbers = np.asarray(image).astype(np.float64)
        key = image.info.get("transparency")
        if white:
            numbers = (white - numbers if inverted else numbers) * (255 / white)
        if isinstance(key, int) and channels != 4 and (clear := np.asarray(image) == key).any():
            numbers = np.where(clear, _ground(path, background, "L"), numbers)
        return Shown(Image.fromarray(numbers.astype(np.float32)), True, white is not None)
    mode = MODES[channels]
    if image.mode == "La":
        image = image.convert("LA")
    if mode != "RGBA" and image.has_transparency_data:
        clear = image.convert("RGBA")
        if clear.getchannel("A").getextrema()[0] != 255:
            ground = Image.new("RGBA", clear.size, _ground(path, background, "RGB"))
            image = Image.alpha_composite(ground, clear)
        else:
            image = clear
    if image.mode == "LAB" and mode == "L":
        image = image.convert("RGB")
    return Shown(image.convert(mode), False, True)


def _ground(path: Path, background: str | None, mode: str) -> tuple[int, ...] | int:
    """The colour that shows through. Raises: InvalidArgument where none is said."""
    if background is None:
        raise InvalidArgument(
            f"{path.name!r} has transparent pixels: say what shows through them, such as --background white",
            file=path,
        )
    return colour_of(background, mode)


def colour_of(name: str, mode: str) -> tuple[int, ...] | int:
    """The colour of a name or #rrggbb in a mode of pillow's. Raises: InvalidArgument."""
    try:
        from PIL import ImageColor
    except ModuleNotFoundError:
        raise _no_pillow() from None
    try:
        return ImageColor.getcolor(name, mode)
    except ValueError:
        raise InvalidArgument(f"--background {name!r} is no colour; write a name or #rrggbb") from None


def _no_pillow() -> InvalidArgument:
    return InvalidArgument("pictures need pillow: pip install 'onnx-attribution[plot]'")


def _lost_bits(file: Image) -> bool:
    """Whether the file has more bits a channel than the 8 that pillow reads."""
    if file.mode in ("I", "F") or file.mode.startswith("I;"):
        return False
    if file.format == "TIFF":
        return max(_tag(file, BITS_PER_SAMPLE, 8)) > 8
    arguments = [tile[3] for tile in getattr(file, "tile", ())]
    if file.format == "PPM":
        return any(isinstance(a, tuple) and isinstance(a[-1], int) and a[-1] > 255 for a in arguments)
    return any(";16" in str(a) for a in arguments)


def _white(file: Image) -> int | None:
    """The number of white in a grey picture of more than 8 bits; None: nobody knows."""
    if file.mode.startswith("I;16"):
        return (1 << _tag(file, BITS_PER_SAMPLE, 16)[0]) - 1
    return 65535 if file.mode == "I" and file.format in ("PNG", "PPM") else None


def _is_inverted(file: Image) -> bool:
    """Whether 0 is white, where pillow leaves that to the reader."""
    return _tag(file, PHOTOMETRIC, 1) == (WHITE_IS_ZERO,)


def _tag(file: Image, number: int, default: int) -> tuple[int, ...]:
    """The numbers of a tag of a TIFF file, which may be one; the default for other files."""
    found = getattr(file, "tag_v2", {}).get(number, default) if file.format == "TIFF" else default
    return found if isinstance(found, tuple) else (found,)
