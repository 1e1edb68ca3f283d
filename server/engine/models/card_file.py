"""The file of a card, and the files that it names, as they are read."""

from __future__ import annotations

import io
import math
import os
import tomllib
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast, get_args

import numpy as np
import onnx

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.read.load import ModelSource, is_inside, require_plain
from onnx_attribution.server.engine.models.card import Card, listed, nearest, refusal
from onnx_attribution.values import Array, Colours, Held, Order, Preprocessing

MAX_TEXT, MAX_EXAMPLE = 1 << 20, 256 << 20
"""Bytes of the card and of a file of names; bytes of an example."""
KEYS = ("description", "class_names", "preprocessing", "example")
IMAGE_KEYS = ("size", "scale", "mean", "std", "layout", "colours")
Word = TypeVar("Word", Held, Order, Colours)


def card_of(source: ModelSource, given: str | os.PathLike[str] | None = None) -> Card:
    """The card of a model: the file that is given, else the one beside it, which need not be there.

    Raises:
        ModelError: there is something wrong with it, or a file that it names.
    """
    path = Path(given) if given is not None else _beside(source)
    if path is None or (given is None and not os.path.lexists(path)):
        return Card()
    return _card(path, _parsed(path))


def files_beside(source: str | os.PathLike[str]) -> list[Path]:
    """The card beside a model and the files that it names, as far as they are there."""
    path = _beside(source)
    if path is None or not path.is_file():
        return []
    try:
        data = _parsed(path)
    except ModelError:
        return [path]
    names = data.get("class_names")
    named = [data.get("example"), *(names.values() if isinstance(names, dict) else ())]
    beside = [path.parent / one for one in named if isinstance(one, str) and is_inside(one)]
    return [path, *(one for one in dict.fromkeys(beside) if _is_there(one))]


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that is too long
        return False


def _beside(source: ModelSource) -> Path | None:
    if isinstance(source, bytes | onnx.ModelProto):
        return None
    return Path(source).with_suffix(".toml")


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text_of(path, path.name, "the file"))
    except ValueError as error:  # or a number of too many digits
        raise ModelError(
            f"{path.name}: it is no TOML: {error}", reason=Reason.CARD_INVALID, file=path.name
        ) from None
    except RecursionError:
        raise ModelError(
            f"{path.name}: it is nested too deep", reason=Reason.CARD_INVALID, file=path.name
        ) from None


def _card(path: Path, data: dict[str, Any]) -> Card:
    table = _Table(path, "", data, KEYS)
    names = {
        output: _names(path, f"class_names.{output}", value)
        for output, value in table.table("class_names").items()
    }
    ways = {
        name: _preprocessing(_Table(path, f"preprocessing.{name}", value, ("kind", *IMAGE_KEYS)))
        for name, value in table.table("preprocessing").items()
    }
    file = table.text("example")
    return Card(path.name, table.text("description"), names, ways, _example(path, file) if file else {}, file)


def _preprocessing(table: _Table) -> Preprocessing:
    kind = table.word("kind", get_args(Held))
    if kind is None:
        table.refuse("kind", f"it is missing; there are {listed(get_args(Held))}")
    if kind != "image":
        for key in IMAGE_KEYS:
            if key in table.data:
                table.refuse(key, f"it is of images, and the kind is {kind!r}")
        return Preprocessing(cast("Held", kind))
    if "scale" not in table.data:
        table.refuse("scale", 'it is missing: "1/255" for pixels from 0 to 1, 1 for pixels from 0 to 255')
    size = table.numbers("size", (2,))
    if any(one != int(one) or one < 1 for one in size):
        table.refuse("size", f"{list(size)} is not a height and a width in pixels")
    (scale,) = table.numbers("scale", (1,))
    mean, std = table.numbers("mean", (1, 3, 4)), table.numbers("std", (1, 3, 4))
    for key, values in (("scale", (scale,)), ("std", std)):
        if 0 in values:
            table.refuse(key, "it holds 0")
    return Preprocessing(
        "image",
        (int(size[0]), int(size[1])) if size else None,
        scale,
        mean,
        std,
        cast("Order | None", table.word("layout", get_args(Order))),
        cast("Colours | None", table.word("colours", get_args(Colours))),
    )


class _Table:
    """A table of a card, whose keys are these; `key` is its own."""

    def __init__(self, path: Path, key: str, data: object, keys: Sequence[str]) -> None:
        self.path, self.key = path, key
        if not isinstance(data, dict):
            raise refusal(path.name, key, f"it is a table of keys, not {data!r:.80}")
        self.data: dict[str, Any] = data
        for one in data:
            if one not in keys:
                self.refuse(one, f"there is no such key; {nearest(one, keys)}")

    def refuse(self, key: str, why: str) -> NoReturn:
        raise refusal(self.path.name, ".".join(filter(None, (self.key, key))), why)

    def table(self, key: str) -> dict[str, Any]:
        found = self.data.get(key, {})
        if not isinstance(found, dict):
            self.refuse(key, f"it is a table, [{key}], not {found!r:.80}")
        return found

    def text(self, key: str) -> str:
        found = self.data.get(key, "")
        if not isinstance(found, str):
            self.refuse(key, f"it is text, not {found!r:.80}")
        return found

    def word(self, key: str, words: Sequence[str]) -> str | None:
        found = self.data.get(key)
        if found is not None and found not in words:
            self.refuse(key, f"{found!r:.80} is none of {listed(words)}")
        return found

    def numbers(self, key: str, counts: Collection[int]) -> tuple[float, ...]:
        """A number or a list of so many; a number may be text, a fraction such as "1/255"."""
        if key not in self.data:
            return ()
        given = self.data[key]
        found = [_number(one) for one in (given if isinstance(given, list) else [given])]
        numbers = tuple(one for one in found if one is not None)
        if len(numbers) != len(found) or len(numbers) not in counts:
            wanted = " or ".join(map(str, sorted(counts)))
            self.refuse(key, f"{given!r:.80} is not {wanted} number{'s' * (set(counts) != {1})}")
        return numbers


def _number(given: object) -> float | None:
    try:
        if isinstance(given, str):
            above, slash, below = given.partition("/")
            found = float(above) / float(below) if slash else float(above)
        elif isinstance(given, int | float) and not isinstance(given, bool):
            found = float(given)
        else:
            return None
    except (ValueError, ArithmeticError):
        return None
    return found if math.isfinite(found) else None


def _names(path: Path, key: str, given: object) -> tuple[str, ...]:
    """The names of classes: a list, or a file of one a line."""
    if isinstance(given, str):
        text = _text_of(path, given, key).removeprefix("\ufeff")
        lines = text.split("\n")
        given = [line.strip() for line in (lines[:-1] if not lines[-1].strip() else lines)]
        where = [f"line {number + 1} of it" for number in range(len(given))]
    elif isinstance(given, list):
        where = [f"entry {number}" for number in range(len(given))]
    else:
        raise refusal(path.name, key, f"it is a list of names, or the name of a file, not {given!r:.80}")
    for at, one in zip(where, given, strict=True):
        if not isinstance(one, str) or not one.strip():
            raise refusal(path.name, key, f"{at} is no name: {one!r:.80}")
    if not given:
        raise refusal(path.name, key, "there are no names")
    return tuple(given)


def _example(path: Path, file: str) -> dict[str, Array]:
    """The arrays of an npz by name, none larger than the file says before it is read."""
    key, found = "example", {}
    data = _bytes(path, file, key, MAX_EXAMPLE)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [one for one in archive.infolist() if one.filename.endswith(".npy")]
            if sum(one.file_size for one in members) > MAX_EXAMPLE:
                raise refusal(
                    path.name, key, f"the arrays of {file!r} take more than {MAX_EXAMPLE >> 20} MiB"
                )
            for one in members:
                with archive.open(one) as opened:
                    version = np.lib.format.read_magic(opened)
                    header = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, kind = header(opened)
                    if kind.hasobject or math.prod(shape) * kind.itemsize > one.file_size:
                        raise ValueError("its size is not that of its shape, or it holds Python's objects")
                with archive.open(one) as opened:
                    found[one.filename[:-4]] = np.lib.format.read_array(opened, allow_pickle=False)
    except ModelError:
        raise
    except Exception as error:  # numpy, zipfile and zlib fail in many ways on a broken file
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise refusal(path.name, key, f"{file!r} is no npz of numbers or text: {why}") from error
    return found


def _text_of(path: Path, name: str, key: str) -> str:
    try:
        return _bytes(path, name, key, MAX_TEXT).decode()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise refusal(path.name, key, f"{name!r} is no UTF-8 text at line {line}") from None


def _bytes(path: Path, name: str, key: str, most: int) -> bytes:
    """The bytes of a file that a card names, or its own. Raises: ModelError: it may lie outside of the folder."""
    shown = (name if is_inside(name) else os.path.basename(name))[:100]

    def refused(why: str) -> ModelError:
        return refusal(path.name, key, f"{shown!r}, {why}")

    if not is_inside(name):
        raise refused("which is not in the folder of the model; only files there and below are read")
    file = path.parent / name
    try:
        require_plain(file, len(Path(name).parts), refused)
        if file.stat().st_size > most:
            raise refused(f"which has more than {most >> 20} MiB")
        with file.open("rb") as opened:
            return opened.read(most)
    except OSError as error:
        raise refused(f"which cannot be read: {error.strerror}") from None
