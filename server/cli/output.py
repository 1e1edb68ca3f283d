"""What commands print alike: tables and numbers for people, JSON for programs. NaN is null in JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTH = 160  # where the output is no terminal
MARKS = {True: "yes", False: "no"}


def console() -> Console:
    """Where tables go: as wide as the terminal, or wide enough for a file."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, soft_wrap=False)


def print_json(value: Mapping[str, object]) -> None:
    """One object on one line, at once."""
    print(json.dumps(_plain(value), allow_nan=False), flush=True)


def _plain(value: object) -> object:
    """The value in what JSON has."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def shape_text(shape: Iterable[int | str | None] | None) -> str:
    """`[N, 3, 8, 8]`, with ? for what is unknown."""
    return "?" if shape is None else "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"


def print_warnings(out: Console, warnings: Iterable[str]) -> None:
    """Warnings below a table, each on lines of its own."""
    for warning in warnings:
        out.print(f"[yellow]warning[/]: {escape(warning)}", soft_wrap=True)


def told(value: float | None) -> str:
    """A number of JSON; a dash for null."""
    return "-" if value is None else number(value)


def percent(share: float) -> str:
    """A share in percent; a dash for what there is none of."""
    return f"{100 * float(share):.3g} %" if math.isfinite(share) else "-"


def number(value: float) -> str:
    """Five digits at most; a dash for what there is none of."""
    return f"{float(value):.5g}" if math.isfinite(value) else "-"


def table(*columns: str, right: Sequence[int] = ()) -> Table:
    """An empty table without lines; `right` are the columns of numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for k, name in enumerate(columns):
        made.add_column(name, justify="right" if k in right else "left", overflow="fold")
    return made
