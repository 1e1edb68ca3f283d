"""Arrays from files: npy, npz, json and pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from onnx_attribution.errors import AttributionError, InvalidArgument, Reason
from onnx_attribution.server.cli.pictures import FLOATS, Picture, read_picture
from onnx_attribution.server.cli.pixels import SUFFIXES
from onnx_attribution.values import Array, TensorInfo

Rows = slice | None


def read_file(text: str, info: TensorInfo | None, picture: Picture) -> Array:
    """The array of `FILE`, `FILE.npz:KEY`, either with rows of its first axis: `FILE[3]`, `FILE.npz:KEY[0:4]`.

    Raises:
        InvalidArgument: the file cannot be read, or it is not clear which of its arrays is meant.
    """
    file, key, rows = _locate(text)
    path = Path(file)
    if not _exists(file) or not path.is_file():
        raise InvalidArgument(f"no file {file[:200]!r}", file=file)
    try:
        array = _read(path, key, info, picture)
    except AttributionError:
        raise
    except Exception as error:  # libraries fail in many ways on a broken file; all of them are the file's
        raise InvalidArgument(f"{file!r} cannot be read: {_line(error)}", file=file) from error
    if array.dtype.kind not in "biufcSUTVmM":
        raise InvalidArgument(
            f"{file!r} holds neither numbers nor text of one kind, but Python's objects", file=file
        )
    if rows is None:
        return array
    if array.ndim == 0 or len(array[rows]) == 0:
        raise InvalidArgument(f"{text!r}: the array has shape {list(array.shape)}; no such row", file=file)
    return array[rows]


def is_file(text: str) -> bool:
    """Whether the file of `FILE.npz:KEY[ROWS]` is there. Raises: InvalidArgument for rows that are none."""
    return _exists(_locate(text)[0])


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


def typed(array: Array, info: TensorInfo | None) -> Array:
    """Numbers as text has them, in the type of the input where it can hold them."""
    if info is None or array.dtype.kind not in "iuf" or info.dtype == "string":
        return array
    try:
        kind = np.dtype("float32" if info.dtype == "bfloat16" else info.dtype)
    except TypeError:
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(kind)
    return cast if info.dtype in FLOATS or np.array_equal(cast, array) else array


def _locate(text: str) -> tuple[str, str | None, Rows]:
    """File, key and rows of `FILE.npz:KEY[ROWS]`."""
    rows = None
    if text.endswith("]") and not _exists(text):
        text, _, inside = text[:-1].rpartition("[")
        rows = parse_rows(inside)
    match = None if _exists(text) else re.fullmatch(r"(.+\.npz):(.+)", text, re.IGNORECASE)
    return (match[1], match[2], rows) if match else (text, None, rows)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        return False


def _read(path: Path, key: str | None, info: TensorInfo | None, picture: Picture) -> Array:
    kind = path.suffix.lower()
    if kind in SUFFIXES:
        return read_picture(path, info, picture)
    if kind in (".npy", ".npz"):
        return _read_numpy(path, key, info)
    if kind == ".json":
        return _read_json(path, info)
    raise InvalidArgument(
        f"{str(path)!r} is of no known kind; read are .npy, .npz, .json and pictures ({', '.join(SUFFIXES)})",
        file=path,
    )


def _read_json(path: Path, info: TensorInfo | None) -> Array:
    """Lists of numbers or of text."""
    found = json.loads(path.read_text())
    if isinstance(found, dict):
        raise InvalidArgument(f"{str(path)!r} holds an object of keys; lists are read", file=path)
    try:
        return typed(np.asarray(found), info)
    except ValueError:
        raise InvalidArgument(
            f"{str(path)!r} is ragged: its rows differ in length", reason=Reason.SHAPE_MISMATCH
        ) from None


def _read_numpy(path: Path, key: str | None, info: TensorInfo | None) -> Array:
    """The array of a file, or the one of several that is meant, whatever the file is called."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded as data:
            return np.asarray(data[_chosen(path, key, data, info)])
    except ValueError as error:
        if "pickle" in str(error):  # numpy's way to say so, of objects and of what is no array
            raise InvalidArgument(
                f"{str(path)!r} is no file of numbers or text; arrays of Python's objects are not read",
                file=path,
            ) from None
        raise


def _chosen(path: Path, key: str | None, data: np.lib.npyio.NpzFile, info: TensorInfo | None) -> str:
    """The key that is given, the input's name, or the only array that fits."""
    names = list(data.files)
    if key is not None:
        if key not in names:
            raise InvalidArgument(f"{path.name!r} has no array {key!r}; it has: {', '.join(names)}")
        return key
    if info is not None and info.name in names:
        return info.name
    if len(names) == 1:
        return names[0]
    fitting = [name for name in names if info is not None and _fits(np.asarray(data[name]), info)]
    if len(fitting) == 1:
        return fitting[0]
    wanted = "one of them" if info is None else repr(info.name)
    raise InvalidArgument(
        f"{path.name!r} has the arrays {', '.join(names)}, none of them {wanted}; name it so, or choose one: "
        f"{path.name}:{names[0]}"
        if names
        else f"{path.name!r} holds no arrays"
    )


def _fits(array: Array, info: TensorInfo) -> bool:
    """Whether an array of another name can only be this input: its type and sizes, but for the batch."""
    shape = info.shape or ()
    kinds = "f" if info.dtype in FLOATS else "OUST" if info.dtype == "string" else "iu"
    return (
        array.dtype.kind in kinds
        and array.ndim == len(shape)
        and all(
            k == info.batch_axis or not isinstance(d, int) or d == n
            for k, (d, n) in enumerate(zip(shape, array.shape, strict=True))
        )
    )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
