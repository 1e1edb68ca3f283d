"""Arrays from files: npy, npz and pictures, as the inputs of a model want them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
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
Rows = slice | None
Reader = Callable[[str, TensorInfo | None], Array]


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


def read_inputs(
    given: Sequence[str], infos: Sequence[TensorInfo], picture: Picture, rows: Rows = None
) -> dict[str, Array]:
    """The arrays of `NAME=FILE` (or FILE, where the model has one input); files of one name become one batch.

    Raises:
        InvalidArgument: a name, file, key or shape that cannot be used; it is named.
    """
    known = {info.name: info for info in infos}
    found: dict[str, list[Array]] = {}
    for text in given:
        name, file = split_name(text, tuple(known))
        if name is None:
            if len(known) != 1:
                listed = ", ".join(map(repr, known))
                raise InvalidArgument(
                    f"--input {text}: the model has {len(known)} inputs ({listed}); write NAME=FILE",
                    reason="INPUT_UNKNOWN",
                )
            name = next(iter(known))
        array = read_file(file, known[name], picture)
        found.setdefault(name, []).append(_with_batch(array, known[name]))
    return {
        name: _take(name, _joined(name, parts, known[name]), known[name], rows)
        for name, parts in found.items()
    }


def read_baselines(
    given: Sequence[str], sources: Sequence[str], infos: Sequence[TensorInfo], picture: Picture
) -> dict[str, Array | float]:
    """The baselines of `NAME=FILE`, `NAME=NUMBER`, or FILE or NUMBER alone, which all other sources take.

    Names are passed on as they are. Without `sources` (they depend on the target of a model with several outputs),
    what stands alone is for the float inputs.

    Raises:
        InvalidArgument: two baselines for one name, one for no source at all, or a file that cannot be used.
    """
    known = {info.name: info for info in infos}
    texts: dict[str | None, str] = {}
    for text in given:
        name, value = split_name(text, (*sources, *known), strict=False)
        if name in texts:
            raise InvalidArgument(
                f"--baseline {text}: {'all sources have' if name is None else repr(name) + ' has'} one already",
                reason="BASELINE_INVALID",
            )
        texts[name] = value
    alone = texts.pop(None, None)
    if alone is not None:
        names = sources or [info.name for info in infos if info.dtype in FLOATS]
        if not names:
            raise InvalidArgument(
                f"--baseline {alone}: the source depends on the target; name it with --source, or write NAME={alone}",
                reason="BASELINE_INVALID",
            )
        texts = {**dict.fromkeys(names, alone), **texts}
    found: dict[str, Array | float] = {}
    for name, value in texts.items():
        if name is not None:
            number = _number(value)
            found[name] = read_file(value, known.get(name), picture) if number is None else number
    return found


def split_name(text: str, names: Sequence[str], *, strict: bool = True) -> tuple[str | None, str]:
    """The name and the rest of `NAME=REST`; None where there is no name. A file may have = in its name.

    Raises:
        InvalidArgument: the part before = is no input (with `strict`), or nothing follows it.
    """
    for name in sorted(names, key=len, reverse=True):
        if text.startswith(f"{name}="):
            rest = text[len(name) + 1 :]
            if not rest:
                raise InvalidArgument(f"{text!r}: a file is missing after =")
            return name, rest
    before, sign, rest = text.partition("=")
    if not sign or Path(_locate(text)[0]).exists():
        return None, text
    if not strict:
        return before, rest
    raise InvalidArgument(
        f"there is no input {before!r}; the inputs are {', '.join(map(repr, names))}", reason="INPUT_UNKNOWN"
    )


def read_file(text: str, info: TensorInfo | None, picture: Picture) -> Array:
    """The array of `FILE`, `FILE.npz:KEY`, either with rows of its first axis: `FILE[3]`, `FILE.npz:KEY[0:4]`.

    Raises:
        InvalidArgument: the file cannot be read, or it is not clear which of its arrays is meant.
    """
    file, key, rows = _locate(text)
    path = Path(file)
    if not path.is_file():
        raise InvalidArgument(f"no file {file!r}", file=file)
    try:
        if path.suffix.lower() in PICTURES:
            array = _read_picture(path, info, picture)
        elif path.suffix.lower() == ".npz":
            array = _read_npz(path, key, info)
        elif path.suffix.lower() == ".npy":
            array = np.asarray(np.load(path, allow_pickle=False))
        else:
            raise InvalidArgument(
                f"{file!r} is of no known kind; read are .npy, .npz, {', '.join(PICTURES)}", file=file
            )
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, SyntaxError) as error:
        raise InvalidArgument(f"{file!r} cannot be read: {_line(error)}", file=file) from error
    if rows is None:
        return array
    if array.ndim == 0 or len(array[rows]) == 0:
        raise InvalidArgument(f"{text!r}: the array has shape {list(array.shape)}; no such row", file=file)
    return array[rows]


def parse_rows(text: str) -> slice:
    """`3` is one row, `0:3` are three. Raises: InvalidArgument."""
    match = re.fullmatch(r"\s*(-?\d+)?\s*(:)?\s*(-?\d+)?\s*", text)
    if (
        match is None
        or (match[2] is None and match[1] is None)
        or (match[2] is None and match[3] is not None)
    ):
        raise InvalidArgument(f"rows {text!r} are neither a number nor first:last")
    if match[2] is None:
        first = int(match[1])
        return slice(first, first + 1 or None)
    return slice(int(match[1]) if match[1] else None, int(match[3]) if match[3] else None)


def parse_numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers between commas, each plain or a fraction such as 1/255. Raises: InvalidArgument."""
    numbers = [_number(part) for part in text.split(",")]
    found = tuple(number for number in numbers if number is not None)
    if len(found) != len(numbers):
        raise InvalidArgument(f"{option} {text!r} is no number, and no list of numbers between commas")
    return found


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


def _locate(text: str) -> tuple[str, str | None, Rows]:
    """File, key and rows of `FILE.npz:KEY[ROWS]`."""
    rows = None
    if text.endswith("]") and not Path(text).exists():
        text, _, inside = text[:-1].rpartition("[")
        rows = parse_rows(inside)
    match = re.fullmatch(r"(.+\.npz):(.+)", text, re.IGNORECASE)
    return (match[1], match[2], rows) if match else (text, None, rows)


def _read_npz(path: Path, key: str | None, info: TensorInfo | None) -> Array:
    with np.load(path, allow_pickle=False) as data:
        names = list(data.files)
        if key is not None:
            if key not in names:
                raise InvalidArgument(f"{path.name!r} has no array {key!r}; it has: {', '.join(names)}")
            return np.asarray(data[key])
        if info is not None and info.name in names:
            return np.asarray(data[info.name])
        if len(names) == 1:
            return np.asarray(data[names[0]])
        fitting = [name for name in names if info is not None and _fits(np.asarray(data[name]), info)]
        if len(fitting) == 1:
            return np.asarray(data[fitting[0]])
    wanted = "one of them" if info is None else repr(info.name)
    raise InvalidArgument(
        f"{path.name!r} has the arrays {', '.join(names)}, none of them {wanted}; choose one: {path.name}:{names[0]}"
        if names
        else f"{path.name!r} holds no arrays"
    )


def _fits(array: Array, info: TensorInfo) -> bool:
    """Whether an array of another name can only be this input: its type and sizes, the first axis left out."""
    shape = info.shape or ()
    kinds = "f" if info.dtype in FLOATS else "iu"
    return (
        array.dtype.kind in kinds
        and array.ndim == len(shape)
        and all(not isinstance(d, int) or d == n for d, n in zip(shape[1:], array.shape[1:], strict=True))
    )


def _read_picture(path: Path, info: TensorInfo | None, picture: Picture) -> Array:
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


def _with_batch(array: Array, info: TensorInfo) -> Array:
    """An array of one rank less is one sample."""
    if info.shape is None or array.ndim != len(info.shape) - 1:
        return array
    return np.expand_dims(array, info.batch_axis or 0)


def _joined(name: str, parts: Sequence[Array], info: TensorInfo) -> Array:
    if len(parts) == 1:
        return parts[0]
    try:
        return np.concatenate(parts, axis=info.batch_axis or 0)
    except ValueError:
        listed = ", ".join(str(list(part.shape)) for part in parts)
        raise InvalidArgument(f"the files of input {name!r} have shapes that do not join: {listed}") from None


def _take(name: str, array: Array, info: TensorInfo, rows: Rows) -> Array:
    if rows is None or array.ndim == 0:
        return array
    axis = info.batch_axis or 0
    chosen = range(array.shape[axis])[rows]
    if not chosen:
        raise InvalidArgument(f"input {name!r} has {array.shape[axis]} rows; --rows leaves none of them")
    return np.take(array, list(chosen), axis=axis)


def _number(text: str) -> float | None:
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        return None


def _shown(shape: Sequence[int | str | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def shapes_of(given: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
    """`NAME=1x3x224x224`, by name. Raises: InvalidArgument."""
    found = {}
    for text in given:
        name, sign, sizes = text.rpartition("=")
        parts = re.split(r"[x,]", sizes) if sizes else []
        if not sign or not name or not all(part.strip().isdigit() for part in parts):
            raise InvalidArgument(f"--shape {text!r} is not of the form NAME=1x3x224x224")
        found[name] = tuple(int(part) for part in parts)
    return found


def axes_of(given: Sequence[str]) -> Mapping[str, int | None]:
    """`NAME=AXIS` or `NAME=none`, by name. Raises: InvalidArgument."""
    found: dict[str, int | None] = {}
    for text in given:
        name, sign, axis = text.rpartition("=")
        if not sign or not name or not (axis == "none" or axis.isdigit()):
            raise InvalidArgument(f"--batch-axis {text!r} is not of the form NAME=AXIS or NAME=none")
        found[name] = None if axis == "none" else int(axis)
    return found
