"""The kinds of row: one file each, and its place in `SECTIONS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.rows import (
    clients,
    completeness,
    deeplift,
    error,
    gradients,
    layers,
    memory,
    paths,
    rules,
    start,
)
from benchmarks.table import Figure


@dataclass(frozen=True)
class Section:
    """A kind of row: what it is called on the command line, the title and the words above its table."""

    name: str
    title: str
    note: str
    figures: Callable[[Bench], Iterator[Figure]]


SECTIONS = tuple(
    Section(module.__name__.rpartition(".")[2], module.TITLE, " ".join((module.__doc__ or "").split()), module.figures)
    for module in (
        gradients, rules, paths, error, layers, deeplift, clients, memory, completeness, start
    )
)  # fmt: skip
