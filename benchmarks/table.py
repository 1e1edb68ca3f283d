"""Figures with their targets, and the pages that hold them."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.timing import Ratio

VERSIONS = ("onnxruntime", "onnx", "numpy", "torch", "captum")
HEADER = ("of", "figure", "value", "target", "", "how")
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Bound:
    """What a figure should be: at most, or at least, a number."""

    number: float
    least: bool = False

    def holds(self, value: float) -> bool:
        return value >= self.number if self.least else value <= self.number

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.number:g}"


def most(number: float) -> Bound:
    return Bound(number)


def least(number: float) -> Bound:
    return Bound(number, least=True)


@dataclass(frozen=True)
class Figure:
    """A row: `what` was measured `of` something. Without a value, `how` says why there is none."""

    of: str
    what: str
    value: float | Ratio | None
    target: Bound | None = None
    how: str = ""
    excused: bool = False
    """Whether the target allows for what was found instead, which `how` names."""

    @property
    def number(self) -> float | None:
        return self.value.value if isinstance(self.value, Ratio) else self.value

    @property
    def verdict(self) -> str:
        """`met`, `missed`, `excused`, or nothing where there is no value or no target."""
        if self.number is None or self.target is None:
            return ""
        return "met" if self.target.holds(self.number) else "excused" if self.excused else "missed"

    def cells(self) -> tuple[str, ...]:
        target = "" if self.target is None else str(self.target)
        return (self.of, self.what, shown(self.value), target, self.verdict, self.how)


def shown(value: float | Ratio | None) -> str:
    """Three digits; of a ratio also the range over the rounds."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, Ratio):
        return f"{value.value:.3g} ({value.low:.3g} to {value.high:.3g})"
    return f"{value:.3g}"


def line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def head() -> list[str]:
    """The first two lines of a table."""
    return [line(HEADER), "|" + "---|" * len(HEADER)]


def summary(figures: Sequence[Figure]) -> str:
    """How many targets are met, and which are missed."""
    judged = [f for f in figures if f.verdict]
    missed = [f"{f.of}: {f.what} {shown(f.number)} ({f.target})" for f in judged if f.verdict == "missed"]
    words = f"{len(judged) - len(missed)} of {len(judged)} targets met or excused"
    return "\n".join([words, *(f"- missed: {each}" for each in missed)])


# --- pages


def machine(threads: int) -> str:
    """A short name: the processor and the threads that are used, e.g. `amd-epyc-2-threads`."""
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)):
        model = re.sub(r"\((R|TM)\)|@.*|\b(CPU|Processor|\d+-Core)\b", "", found[1])
    return "-".join(re.findall(r"[a-z0-9.]+", f"{model} {threads} threads".lower()))


def versions() -> str:
    """Of Python and of what is compared, as far as it is installed."""
    found = [f"Python {platform.python_version()}"]
    for name in VERSIONS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def section(title: str, note: str, figures: Sequence[Figure]) -> str:
    """A part of a page."""
    rows = [line(figure.cells()) for figure in figures]
    return "\n".join([f"## {title}", "", note, "", f"{versions()}.", "", *head(), *rows]) + "\n"


def write(page: Path, parts: Mapping[str, str], threads: int) -> None:
    """Puts sections into a page by title; those that are there already and not among them stay."""
    text = page.read_text() if page.exists() else ""
    there = {
        part.split("\n", 1)[0]: f"## {part.strip()}\n" for part in re.split(r"^## ", text, flags=re.M)[1:]
    }
    cores = f"{os.cpu_count()} cores"
    top = (
        f"# {page.stem}\n\nWritten by `make bench`. {platform.system()} {platform.machine()}, {cores}, "
        f"{threads} threads a run, CPU. A ratio is the median over rounds in which what is compared takes turns; the "
        "range over the rounds is in brackets. How each row is measured: `benchmarks/rows`.\n"
    )
    page.parent.mkdir(exist_ok=True)
    page.write_text("\n".join([top, *{**there, **parts}.values()]))
