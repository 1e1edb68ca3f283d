"""What the options of a command say of a model's inputs: their arrays, baselines, groups and sizes, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from onnx_attribution.client.audit.data import joined
from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.server.cli.files import Rows, is_file, parse_rows, read_file, typed
from onnx_attribution.server.cli.pictures import FLOATS, Picture
from onnx_attribution.server.cli.samples import taken
from onnx_attribution.values import Array, Baseline, BatchMode, References, TensorInfo

__all__ = [
    "axes_of",
    "parse_numbers",
    "parse_rows",
    "read_baselines",
    "read_groups",
    "read_inputs",
    "read_parts",
    "read_references",
    "read_sizes",
    "shapes_of",
]


def read_inputs(
    given: Sequence[str],
    infos: Sequence[TensorInfo],
    picture: Picture,
    rows: Rows = None,
    batch: BatchMode | None = None,
) -> dict[str, Array]:
    """The arrays of `NAME=FILE`; files of one name become one batch, of which `rows` are taken.

    Raises:
        InvalidArgument: a name, file, key, shape or row that cannot be used; it is named.
    """
    known = {info.name: info for info in infos}
    parts = read_parts(given, infos, picture)
    arrays = {name: joined(name, found, known[name], batch) for name, found in parts.items()}
    return taken(arrays, known, batch, rows)


def read_parts(given: Sequence[str], infos: Sequence[TensorInfo], picture: Picture) -> dict[str, list[Array]]:
    """The arrays of `NAME=FILE` (or FILE, where the model has one input) by name, as they lie in the files.

    Where a sample of an input is one value or a row of numbers, these themselves will do: `age=29`, `sex=female`,
    `size=5.1,3.5`.

    Raises:
        InvalidArgument: a name, file or key that cannot be used; it is named.
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
                    reason=Reason.INPUT_UNKNOWN,
                )
            name = next(iter(known))
        value = _value(file, known[name])
        found.setdefault(name, []).append(read_file(file, known[name], picture) if value is None else value)
    return found


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
                reason=Reason.BASELINE_INVALID,
            )
        texts[name] = value
    alone = texts.pop(None, None)
    if alone is not None:
        names = sources or [info.name for info in infos if info.dtype in FLOATS]
        if not names:
            raise InvalidArgument(
                f"{option} {alone}: the source depends on the target; name it with --source, or write NAME={alone}",
                reason=Reason.BASELINE_INVALID,
            )
        texts = {**dict.fromkeys(names, alone), **texts}
    found: dict[str, Array | float | str] = {}
    for name, value in texts.items():
        if name is None:
            continue
        info, number = known.get(name), _number(value)
        if info is not None and info.dtype == "string" and not is_file(value):
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
    known = {info.name: info for info in infos}
    read = read_baselines(given, sources, infos, picture, "--references")
    found = {name: np.asarray(value) for name, value in read.items()}
    return {n: References(a, per_sample=n in known and _is_per_sample(a, known[n])) for n, a in found.items()}


def _is_per_sample(array: Array, info: TensorInfo) -> bool:
    """Whether there are two axes before those of one sample: the samples and their references."""
    shape = info.shape or ()
    if info.batch_axis is not None:
        return bool(array.ndim > len(shape))
    # Without a batch axis a sample has the whole shape of the input, of which a leading 1 may be left out.
    if array.ndim == len(shape) + 1 and shape and isinstance(shape[0], int):
        return bool(array.shape[1] != shape[0])
    return bool(array.ndim > len(shape) + 1)


def read_groups(given: Sequence[str], infos: Sequence[TensorInfo], option: str) -> dict[str, Array]:
    """The integers of `NAME=FILE`, or FILE where the model has one input. Raises: InvalidArgument."""
    found: dict[str, Array] = {}
    for text in given:
        name, file = split_name(text, [info.name for info in infos], strict=False)
        found[_only(name, infos, f"{option} {text}")] = read_file(file, None, Picture())
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
    if not sign or is_file(text):
        return None, text
    if not strict:
        return before, rest
    raise InvalidArgument(
        f"there is no input {before!r}; the inputs are {', '.join(map(repr, names))}",
        reason=Reason.INPUT_UNKNOWN,
    )


def parse_numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers between commas, each plain or a fraction such as 1/255. Raises: InvalidArgument."""
    numbers = [_number(part) for part in text.split(",")]
    found = tuple(number for number in numbers if number is not None)
    if len(found) != len(numbers):
        raise InvalidArgument(f"{option} {text!r} is no number, and no list of numbers between commas")
    return found


def read_numbers(text: str, option: str) -> tuple[float, ...] | Array:
    """Numbers between commas, or the array of a file. Raises: InvalidArgument."""
    return read_file(text, None, Picture()) if is_file(text) else parse_numbers(text, option)


def _value(text: str, info: TensorInfo) -> Array | None:
    """The sample that is one value, text for an input of strings, a number for others, or a row of numbers between
    commas; None for all else."""
    if is_file(text) or (count := values_of(info)) is None:
        return None
    shape = info.shape or ()
    if info.dtype == "string":
        return np.full([1] * len(shape), text) if count == 1 else None
    truths = {"true": 1.0, "false": 0.0} if info.dtype == "bool" else {}
    numbers = [truths.get(part.strip().lower(), _number(part)) for part in text.split(",")]
    if len(numbers) != count or None in numbers:
        return None
    sizes = [1 if axis == (info.batch_axis or 0) else size for axis, size in enumerate(shape)]
    return typed(np.array(numbers, np.float64).reshape([int(size or 1) for size in sizes]), info)


def values_of(info: TensorInfo) -> int | None:
    """How many values a sample of an input has along one axis; None where it has more axes, or it is not known."""
    if info.shape is None:
        return None
    sizes = [size for axis, size in enumerate(info.shape) if axis != (info.batch_axis or 0)]
    long = [size for size in sizes if size != 1]
    if len(long) > 1 or not all(isinstance(size, int) for size in long):
        return None
    return int(long[0] or 0) if long else 1


def _number(text: str) -> float | None:
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        return None


def shapes_of(given: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
    """`NAME=1x3x224x224`, by name. Raises: InvalidArgument."""
    found = {}
    for text in given:
        name, sizes = _sizes(text, "--shape")
        if name is None:
            raise InvalidArgument(f"--shape {text!r} is not of the form NAME=1x3x224x224")
        if sizes[:1] == (0,):
            raise InvalidArgument(f"--shape {text!r} has nothing along its first axis")
        found[name] = sizes
    return found


def _sizes(text: str, option: str) -> tuple[str | None, tuple[int, ...]]:
    """Name, if there is one, and sizes of `NAME=1x3x224x224`."""
    name, sign, sizes = text.rpartition("=")
    parts = re.split(r"[x,]", sizes) if sizes else []
    if (sign and not name) or not all(re.fullmatch(r"\s*[0-9]+\s*", part) for part in parts):
        raise InvalidArgument(f"{option} {text!r} is not of the form NAME=1x3x224x224")
    return name or None, tuple(int(part) for part in parts)


def axes_of(given: Sequence[str]) -> Mapping[str, int | None]:
    """`NAME=AXIS` or `NAME=none`, by name. Raises: InvalidArgument."""
    found: dict[str, int | None] = {}
    for text in given:
        name, sign, axis = text.rpartition("=")
        if not sign or not name or not re.fullmatch("none|[0-9]+", axis):
            raise InvalidArgument(f"--batch-axis {text!r} is not of the form NAME=AXIS or NAME=none")
        found[name] = None if axis == "none" else int(axis)
    return found
