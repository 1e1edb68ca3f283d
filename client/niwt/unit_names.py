"""Names of units, as `onnx-attribution names` writes them: layer, unit, name, score, null, model.

`null` is the 95 % point of the score where attributes are dealt out to classes by chance; a unit whose score is not
above it has no name that means anything. `model` is the SHA-256 of the file whose units they are; older tables lack it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnx_attribution.channels import usual_axis
from onnx_attribution.client.niwt.classes import lines_of
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import Array

HEADER = ("layer", "unit", "name", "score", "null", "model")
SHOWN = 5
"""Units that are told of, the strongest."""


@dataclass(frozen=True)
class UnitName:
    """The attribute that fits a unit best, how well, and how well one fits by chance."""

    layer: str
    unit: int
    name: str
    score: float
    null: float
    model: str = ""
    """The digest of the model's file; "" where it is not known."""

    @property
    def means_something(self) -> bool:
        """Whether the score is above chance."""
        return self.score > self.null


@dataclass(frozen=True)
class UnitNames:
    """Names of units of one layer or several."""

    all: tuple[UnitName, ...] = ()
    file: str = field(default="names.csv", compare=False)

    def strange(self, digest: str, origins: Collection[str] = ()) -> str:
        """In words, that the names are those of another model than that of the digest, or of one of its `origins`,
        of which it was made; "" where they are its own, or nothing is known."""
        known = {one.model for one in self.all if one.model}
        others = sorted(known - {digest, *origins})
        if not others or not digest:
            return ""
        return (
            f"{self.file} names units of another model: the digest of its file is {others[0][:12]}..., and here "
            f"{digest[:12]}...; its units may be others. `onnx-attribution names` makes the table of this one"
        )

    def of(self, layer: str) -> Mapping[int, str]:
        """The names of units of a layer that mean something."""
        return {one.unit: one.name for one in self.all if one.layer == layer and one.means_something}

    def words(self, layer: str) -> str:
        """In words, the named units of a layer; "" where there are none."""
        known = self.of(layer)
        if not known:
            return ""
        some = ", ".join(f"{unit} {name}" for unit, name in list(known.items())[:SHOWN])
        return some + f", ... ({len(known)} in all)" * (len(known) > SHOWN)

    def strongest(self, layer: str, values: Array) -> str:
        """In words, those of the named units that contribute most; "" where none do.

        `values` are those of one sample: the units lie along their first axis, of fewer than three along the last.
        """
        known = self.of(layer)
        if not known:
            return ""
        numbers = np.nan_to_num(np.asarray(values, np.float64))
        if numbers.ndim > 1:
            axis = usual_axis(numbers.ndim + 1) - 1
            numbers = numbers.sum(axis=tuple(k for k in range(numbers.ndim) if k != axis))
        sums = {unit: float(numbers[unit]) for unit in known if numbers.ndim == 1 and unit < len(numbers)}
        order = sorted((unit for unit, value in sums.items() if value), key=lambda unit: -abs(sums[unit]))
        return ", ".join(f"{unit} {known[unit]} {sums[unit]:+.3g}" for unit in order[:SHOWN])

    def write(self, file: str | Path) -> None:
        """Writes the table. Raises: InvalidArgument: it cannot be written."""
        try:
            with Path(file).open("w", newline="", encoding="utf-8") as opened:
                writer = csv.writer(opened, lineterminator="\n")
                writer.writerow(HEADER)
                for one in self.all:
                    writer.writerow(
                        [one.layer, one.unit, one.name, f"{one.score:.6g}", f"{one.null:.6g}", one.model]
                    )
        except OSError as error:
            raise InvalidArgument(f"{str(file)!r} cannot be written: {error.strerror or error}") from error


def read_names(file: str | Path) -> UnitNames:
    """Reads a table of names.

    Raises:
        InvalidArgument: it is none; the message names the line.
    """
    path = Path(file)
    try:
        lines = [row for _, row in lines_of(path.read_text(encoding="utf-8-sig"))]
    except (OSError, ValueError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidArgument(f"{str(file)!r} cannot be read as a table: {why}", file=file) from error
    if not lines or tuple(cell.strip().lower() for cell in lines[0]) not in (HEADER, HEADER[:-1]):
        raise InvalidArgument(
            f"{path.name} is no table of names; it begins with {','.join(HEADER)}", file=file
        )
    return UnitNames(tuple(_rows(path.name, lines)), path.name)


def _rows(name: str, lines: Sequence[Sequence[str]]) -> Iterator[UnitName]:
    known = set[tuple[str, int]]()
    for number, row in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        try:
            if len(row) != len(lines[0]):
                raise ValueError
            layer, unit, word, score, null, *model = (cell.strip() for cell in row)
            one = UnitName(layer, int(unit), word, float(score), float(null), *model)
        except ValueError:
            raise InvalidArgument(
                f"{name}, line {number}: {','.join(row)} is not {','.join(lines[0])}"
            ) from None
        if one.unit < 0 or math.isnan(one.score) or math.isnan(one.null):
            raise InvalidArgument(f"{name}, line {number}: {','.join(row)} is not {','.join(lines[0])}")
        if (one.layer, one.unit) in known:
            raise InvalidArgument(
                f"{name}, line {number}: unit {one.unit} of {one.layer!r} has a name already"
            )
        known.add((one.layer, one.unit))
        yield one
