"""Descriptions of classes in words: a table of attributes, `classes.csv`.

    class,seen,striped,hooves,size
    horse,0,0,1,0.8
    tiger,1,1,0,0.7
    zebra,,1,1,0.8
    "cat, striped",,1,0,0.2

One row for each class. `seen` is the index of the network's output that stands for the class, empty for a class that
the network has never seen; attributes are numbers, an empty cell is unknown.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument

FEW = 20
"""Of fewer seen classes little can be learnt."""
_FIRST = ("class", "seen")


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes of a table, in its order: `names`, the output index of each in `seen`, None where there is none, and
    `values` `[classes, attributes]`, NaN where one is unknown. `file` is what the table is called."""

    names: tuple[str, ...]
    seen: tuple[int | None, ...]
    attributes: tuple[str, ...]
    values: NDArray[np.float64]
    file: str = "classes.csv"

    def rows_of(self, names: Sequence[str]) -> list[int]:
        """Where classes of these names stand.

        Raises:
            InvalidArgument: there is none of a name, or a name stands twice.
        """
        for k, name in enumerate(names):
            if name not in self.names:
                known = ", ".join(self.unseen_names()) or "none"
                raise InvalidArgument(
                    f"{self.file}: there is no class {name!r}; those without an output index are: {known}"
                )
            if name in names[:k]:
                raise InvalidArgument(f"the class {name!r} is named twice")
        return [self.names.index(name) for name in names]

    def unseen_names(self) -> list[str]:
        """The names of the classes without an output index."""
        return [name for name, index in zip(self.names, self.seen, strict=True) if index is None]

    def named(self, text: str) -> list[str]:
        """The names in a text like `zebra,quagga`, as in a line of the table: one with a comma stands in quotes, unless
        the whole text is the name of a class, and its parts are not.

        Raises:
            InvalidArgument: quotes are not closed.
        """
        try:
            cells = next(csv.reader([text.strip()], strict=True, skipinitialspace=True), [])
        except csv.Error as error:
            raise InvalidArgument(
                f"{text!r} is no list of classes: {error}; a name with a comma stands in quotes, and quotes in it twice"
            ) from error
        found = [cell.strip() for cell in cells if cell.strip()]
        whole = text.strip() in self.names and not set(found) <= set(self.names)
        return [text.strip()] if whole else found

    def row_of(self, index: int) -> int:
        """Where the class of an output index stands.

        Raises:
            InvalidArgument: no class has it.
        """
        if index not in self.seen:
            raise InvalidArgument(
                f"{self.file}: no class has the output index {index} in its column 'seen', and the importance holds it"
            )
        return self.seen.index(index)

    def described(self, indices: Sequence[int]) -> NDArray[np.float64]:
        """The attributes of the classes of these output indices: `[indices, attributes]`."""
        return self.values[[self.row_of(int(one)) for one in indices]]

    def require_outputs(self, count: int) -> None:
        """Refuses an output index that the network has not.

        Raises:
            InvalidArgument: the message names the class.
        """
        for name, index in zip(self.names, self.seen, strict=True):
            if index is not None and index >= count:
                raise InvalidArgument(
                    f"{self.file}: class {name!r} has the output index {index}; the network's go from 0 to {count - 1}"
                )

    def warnings(self) -> list[str]:
        """What makes results doubtful."""
        seen = [k for k, index in enumerate(self.seen) if index is not None]
        found = []
        if len(seen) < FEW:
            found.append(
                f"{self.file} describes {len(seen)} classes that the network has seen; of fewer than {FEW} little can "
                "be learnt: what is made of them is chance to a large part"
            )
        values = self.values[seen]
        same = [
            name
            for name, column in zip(self.attributes, values.T, strict=True)
            if len(np.unique(column[~np.isnan(column)])) < 2
        ]
        if same:
            found.append(
                f"{self.file}: {', '.join(map(repr, same))} does not tell seen classes apart: nothing is learnt of it"
            )
        return found


def read_classes(file: str | Path) -> Classes:
    """The table of a file.

    Raises:
        InvalidArgument: it is no such table; the message names the line, and the class or the column.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [(k, row) for k, row in lines_of(text) if any(cell.strip() for cell in row)]
    except (OSError, ValueError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidArgument(f"{str(file)!r} cannot be read as a table: {why}", file=file) from error
    return _Table(path.name, lines).classes()


def lines_of(text: str) -> list[tuple[int, list[str]]]:
    """The rows of a table, each with the line that it ends at. A cell with a comma, a quote or a line's end stands in
    quotes, and quotes in it twice."""
    reader = csv.reader(StringIO(text, newline=""), strict=True, skipinitialspace=True)
    return [(reader.line_num, row) for row in reader]


class _Table:
    """A table while it is read."""

    def __init__(self, name: str, lines: Sequence[tuple[int, list[str]]]) -> None:
        self.name, self.lines = name, lines

    def refuse(self, line: int, why: str) -> NoReturn:
        """Raises: InvalidArgument."""
        raise InvalidArgument(f"{self.name}, line {line}: {why}", file=self.name, line=line)

    def classes(self) -> Classes:
        """The table as classes. Raises: InvalidArgument."""
        if not self.lines:
            raise InvalidArgument(
                f"{self.name}: the table is empty; it begins with class,seen,... ", file=self.name
            )
        attributes = self.header(*self.lines[0])
        names, seen, values = list[str](), list[int | None](), list[list[float]]()
        for line, row in self.lines[1:]:
            if len(row) != len(attributes) + 2:
                self.refuse(line, f"it has {len(row)} cells, and the header has {len(attributes) + 2}")
            name = row[0].strip()
            if not name:
                self.refuse(line, "the class has no name")
            if (other := self.like(name, names)) is not None:
                self.refuse(line, f"the class {name!r} has the name of {other!r}, of an earlier line")
            index = self.index(line, name, row[1].strip())
            if index is not None and index in seen:
                self.refuse(
                    line,
                    f"the output index {index} of {name!r} is that of {names[seen.index(index)]!r} already",
                )
            cells = [
                self.number(line, name, one, cell.strip())
                for one, cell in zip(attributes, row[2:], strict=True)
            ]
            if all(math.isnan(cell) for cell in cells):
                self.refuse(line, f"the class {name!r} has no attributes: all its cells are empty")
            names.append(name)
            seen.append(index)
            values.append(cells)
        if not names:
            raise InvalidArgument(f"{self.name}: there are no classes, only a header", file=self.name)
        return Classes(
            tuple(names), tuple(seen), tuple(attributes), np.asarray(values, np.float64), self.name
        )

    def header(self, line: int, row: Sequence[str]) -> list[str]:
        """The names of the attributes."""
        cells = [cell.strip() for cell in row]
        if tuple(cell.lower() for cell in cells[:2]) != _FIRST:
            self.refuse(line, f"the header begins with class,seen, not {','.join(cells[:2])}")
        attributes = cells[2:]
        if not attributes:
            self.refuse(line, "there are no attributes: the header is class,seen and then one name for each")
        for k, one in enumerate(attributes):
            if not one:
                self.refuse(line, f"attribute {k + 1} has no name")
            if (other := self.like(one, attributes[:k])) is not None:
                self.refuse(line, f"the attribute {one!r} has the name of {other!r}, an earlier one")
        return attributes

    def like(self, name: str, others: Sequence[str]) -> str | None:
        """The name that is equal but for capitals; None where there is none."""
        return next((one for one in others if one.casefold() == name.casefold()), None)

    def index(self, line: int, name: str, cell: str) -> int | None:
        """An output index; None for an empty cell."""
        if not cell:
            return None
        if not (cell.isascii() and cell.isdigit() and len(cell) < 10):
            self.refuse(
                line, f"seen of {name!r} is {cell!r}, and no output index; it is empty for an unseen class"
            )
        return int(cell)

    def number(self, line: int, name: str, attribute: str, cell: str) -> float:
        """The number of a cell, NaN for an empty one."""
        if not cell:
            return math.nan
        try:
            found = float(cell) if cell.isascii() and "_" not in cell else math.nan
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            self.refuse(
                line, f"{attribute!r} of {name!r} is {cell!r}, and no number; an empty cell is unknown"
            )
        return found
