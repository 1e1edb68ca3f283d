"""The layers between the source and the target as rows of a list, with the ways between them drawn beside it.

Cuts lie on the first line, the spine: every way crosses them. What is no cut lies on a line of its own, between the cut
before it and the one behind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnx_attribution.client.links import links_of
from onnx_attribution.client.render import page
from onnx_attribution.values import Attribution, LayerInfo

APART, WIDEST = 14.0, 7
"""Pixels between lines; as wide as this many are all of them together at most: they lie closer where there are more."""
OFF = 0.05
"""Error of a cut's share that is told: all of the change passes a cut."""
NAMED = 3
"""Layers before one that are named."""


@dataclass(frozen=True)
class Line:
    """A piece of a way within a row: from one line to another, in its upper half, its lower half, or both."""

    start: int
    end: int
    half: str


@dataclass(frozen=True)
class Drawn:
    """A row: the line of its layer, and the pieces of ways that lead to it, past it and away from it."""

    at: int
    lines: tuple[Line, ...]


def rows_of(answer: Attribution, layers: Sequence[LayerInfo]) -> dict[str, Any]:
    """The layers of an answer and its target: the share of the change that passes each, what goes around it, and from
    where it is reached. `layers` are those that lead to the target, in the order of the graph."""
    about = {one.name: one for one in layers}
    target = answer.target
    order = {name: k for k, name in enumerate(about)}
    names = sorted(answer.layers, key=lambda name: order.get(name, len(order)))
    if target.tensor not in names:
        names.append(target.tensor)
    cuts = {name for name in names if name not in answer.layers or answer.layers[name].cut}
    links = links_of(layers, names)
    rows = [_row(name, answer, about.get(name)) for name in names]
    lanes = drawn(names, links, cuts)
    width = 1 + max((max(one.at, *(max(p.start, p.end) for p in one.lines), 0) for one in lanes), default=0)
    for k, (row, one) in enumerate(zip(rows, lanes, strict=True)):
        before = [first for first, second in links if second == row["name"]]
        row["after"] = [] if before == names[k - 1 : k] else before[:NAMED]
        row["more"] = max(len(before) - NAMED, 0)
        row["drawing"] = _picture(one, width, row["cut"])
    together = [" + ".join(names) for names in answer.flow.cut_sets] if answer.flow else []
    return {
        "rows": rows,
        "together": together,
        "is_flow": answer.flow is not None,
        "linked": bool(links),
        "warnings": answer.warnings,
    }


def _row(name: str, answer: Attribution, one: LayerInfo | None) -> dict[str, Any]:
    """What is said of one layer; of the target, where it is no layer of the answer, what there is to explain."""
    target, layer = answer.target, answer.layers.get(name)
    change = float(target.value[0] - target.baseline_value[0])
    found: dict[str, Any] = {
        "name": name,
        "operator": one.operator if one else "",
        "target": target.index[0] if name == target.tensor else None,
        "link": layer is not None,
        "shape": "",
        "cut": True,
        "sum": None if math.isnan(change) else change,
        "share": None,
        "around": None,
        "off": None,
        "bar": "",
    }
    if layer is None:
        return found
    total = float(layer.sum[0])
    share = total / change if math.isfinite(change) and change else math.nan
    if answer.flow is not None and name in answer.flow.layers:
        share = float(answer.flow.layers[name].share[0])
    is_known = math.isfinite(share)
    return {
        **found,
        "shape": "×".join(map(str, layer.values.shape[1:])) or "1",
        "cut": layer.cut,
        "sum": total,
        "share": share if is_known else None,
        "around": 1 - share if is_known and not layer.cut else None,
        "off": share - 1 if is_known and layer.cut and abs(share - 1) > OFF else None,
        "bar": page.share_bar(100 * share, 0) if is_known else "",
    }


def drawn(names: Sequence[str], links: Sequence[tuple[str, str]], cuts: set[str]) -> list[Drawn]:
    """Where each layer lies, and the ways to and from it. Ways to the same layer join as soon as they can: a line
    belongs to the layer to which it leads, the first one to the next cut."""
    behind: dict[str, list[str]] = {name: [] for name in names}
    for first, second in links:
        behind[first].append(second)
    lanes: list[str | None] = [None]
    """To which layer each line leads."""

    def free(name: str) -> int:
        if name in cuts:
            return 0
        if name in lanes:
            return lanes.index(name)
        at = next((k for k, one in enumerate(lanes) if k and one is None), len(lanes))
        if at == len(lanes):
            lanes.append(None)
        return at

    found = []
    for name in names:
        at = free(name)
        pieces = [Line(k, at, "above") for k, one in enumerate(lanes) if one == name]
        lanes = [None if one == name else one for one in lanes]
        pieces += [Line(k, k, "both") for k, one in enumerate(lanes) if one is not None]
        for each in behind[name]:
            line = free(each)
            lanes[line] = each
            pieces.append(Line(at, line, "below"))
        found.append(Drawn(at, tuple(pieces)))
    return found


def _picture(row: Drawn, width: int, cut: bool) -> str:
    """A row's part of the drawing, as high as the row: lines keep their widths, and a dot is a line of no length."""
    wide = min(width, WIDEST)
    apart = APART * wide / width

    def x(line: int) -> str:
        return f"{(line + 0.5) * apart:.1f}"

    ends = {"above": (0, 50), "below": (50, 100), "both": (0, 100)}
    ways = "".join(
        f"M{x(one.start)} {top}L{x(one.end)} {bottom}"
        for one in row.lines
        for top, bottom in [ends[one.half]]
    )
    dots = "".join(f'<path class="{kind}" d="M{x(row.at)} 50h0"/>' for kind in ("dot", "hole")[: 2 - cut])
    return (
        f'<svg class="ways wide{wide}" viewBox="0 0 {APART * wide:g} 100" preserveAspectRatio="none" '
        f'aria-hidden="true"><path d="{ways}"/>{dots}</svg>'
    )
