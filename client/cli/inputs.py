"""Arrays from files: npy, npz and pictures, as the inputs of a model want them."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from onnx_attribution.client.cli.pictures import FLOATS, PICTURES, Picture, read_picture
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import Array, Baseline, References, TensorInfo

Rows = slice | None


def read_inputs(
    given: Sequence[str], infos: Sequence[TensorInfo], picture: Picture, rows: Rows = None
) -> dict[str, Array]:
    """The arrays of `NAME=FILE` (or FILE, where the model has one input); files of one name become one batch.

    Where a sample of an input is one value, the value itself will do: `age=29`, `sex=female`.

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
        value = _value(file, known[name])
        array = read_file(file, known[name], picture) if value is None else value
        found.setdefault(name, []).append(_with_batch(array, known[name]))
    return {
        name: _take(name, _joined(name, parts, known[name]), known[name], rows)
        for name, parts in found.items()
    }


def read_baselines(
    given: Sequence[str],
    sources: Sequence[str],
    infos: Sequence[TensorInfo],
    picture: Picture,
    option: str = "--baseline",
) -> dict[str, Array | float | str]:
    """The baselines of `NAME=FILE`, `NAME=NUMBER`, or FILE or NUMBER alone, which all other sources take; for inputs
    of strings, `NAME=TEXT`.

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
                f"{option} {text}: {'all sources have' if name is None else repr(name) + ' has'} one already",
                reason="BASELINE_INVALID",
            )
        texts[name] = value
    alone = texts.pop(None, None)
    if alone is not None:
        names = sources or [info.name for info in infos if info.dtype in FLOATS]
        if not names:
            raise InvalidArgument(
                f"{option} {alone}: the source depends on the target; name it with --source, or write NAME={alone}",
                reason="BASELINE_INVALID",
            )
        texts = {**dict.fromkeys(names, alone), **texts}
    found: dict[str, Array | float | str] = {}
    for name, value in texts.items():
        if name is None:
            continue
        info, number = known.get(name), _number(value)
        if info is not None and info.dtype == "string" and not _is_file(value):
            found[name] = value
        else:
            found[name] = read_file(value, info, picture) if number is None else number
    return found


def read_references(
    given: Sequence[str], sources: Sequence[str], infos: Sequence[TensorInfo], picture: Picture
) -> dict[str, Baseline]:
    """Several baselines of `NAME=FILE`, or FILE for all sources: of all samples, or with an axis more of each.

    Raises:
        InvalidArgument: as for one baseline.
    """
    ranks = {info.name: len(info.shape or ()) for info in infos}
    read = read_baselines(given, sources, infos, picture, "--references")
    found = {name: np.asarray(value) for name, value in read.items()}
    return {n: References(a, per_sample=n in ranks and a.ndim > ranks[n]) for n, a in found.items()}


def read_groups(given: Sequence[str], infos: Sequence[TensorInfo]) -> dict[str, Array]:
    """The integers of `NAME=FILE`, or FILE where the model has one input. Raises: InvalidArgument."""
    found: dict[str, Array] = {}
    for text in given:
        name, file = split_name(text, [info.name for info in infos], strict=False)
        found[_only(name, infos, f"--groups {text}")] = read_file(file, None, Picture())
    return found


def read_sizes(given: Sequence[str], infos: Sequence[TensorInfo], option: str) -> dict[str, tuple[int, ...]]:
    """The sizes of `NAME=16x16`, or `16x16` where the model has one input. Raises: InvalidArgument."""
    return {
        _only(name, infos, f"{option} {text}"): sizes
        for text in given
        for name, sizes in [_sizes(text, option)]
    }


def _only(name: str | None, infos: Sequence[TensorInfo], text: str) -> str:
    """The name, or that of the only input."""
    if name is None and len(infos) != 1:
        listed = ", ".join(repr(info.name) for info in infos)
        raise InvalidArgument(f"{text}: the model has {len(infos)} inputs ({listed}); write NAME= before it")
    return infos[0].name if name is None else name


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
    if not sign or _is_file(text):
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
            array = read_picture(path, info, picture)
        elif path.suffix.lower() == ".npz":
            array = _read_npz(path, key, info)
        elif path.suffix.lower() == ".npy":
            array = np.asarray(np.load(path, allow_pickle=False))
        elif path.suffix.lower() == ".json":
            array = _typed(np.asarray(json.loads(path.read_text())), info)
        else:
            raise InvalidArgument(
                f"{file!r} is of no known kind; read are .npy, .npz, .json, {', '.join(PICTURES)}", file=file
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


def _is_file(text: str) -> bool:
    return Path(_locate(text)[0]).exists()


def _value(text: str, info: TensorInfo) -> Array | None:
    """The sample that is one value: text for an input of strings, a number for others; None for all else."""
    shape = info.shape
    if shape is None or _is_file(text):
        return None
    if any(size != 1 for axis, size in enumerate(shape) if axis != (info.batch_axis or 0)):
        return None
    number = _number(text)
    if info.dtype == "string":
        return np.full([1] * len(shape), text)
    return None if number is None else _typed(np.full([1] * len(shape), number), info)


def _typed(array: Array, info: TensorInfo | None) -> Array:
    """Numbers as text has them, in the type of the input where it can hold them."""
    if info is None or array.dtype.kind not in "iuf" or info.dtype == "string":
        return array
    cast = array.astype("float32" if info.dtype == "bfloat16" else info.dtype)
    return cast if info.dtype in FLOATS or np.array_equal(cast, array) else array


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


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def shapes_of(given: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
    """`NAME=1x3x224x224`, by name. Raises: InvalidArgument."""
    found = {}
    for text in given:
        name, sizes = _sizes(text, "--shape")
        if name is None:
            raise InvalidArgument(f"--shape {text!r} is not of the form NAME=1x3x224x224")
        found[name] = sizes
    return found


def _sizes(text: str, option: str) -> tuple[str | None, tuple[int, ...]]:
    """Name, if there is one, and sizes of `NAME=1x3x224x224`."""
    name, sign, sizes = text.rpartition("=")
    parts = re.split(r"[x,]", sizes) if sizes else []
    if (sign and not name) or not all(part.strip().isdigit() for part in parts):
        raise InvalidArgument(f"{option} {text!r} is not of the form NAME=1x3x224x224")
    return name or None, tuple(int(part) for part in parts)


def axes_of(given: Sequence[str]) -> Mapping[str, int | None]:
    """`NAME=AXIS` or `NAME=none`, by name. Raises: InvalidArgument."""
    found: dict[str, int | None] = {}
    for text in given:
        name, sign, axis = text.rpartition("=")
        if not sign or not name or not (axis == "none" or axis.isdigit()):
            raise InvalidArgument(f"--batch-axis {text!r} is not of the form NAME=AXIS or NAME=none")
        found[name] = None if axis == "none" else int(axis)
    return found
