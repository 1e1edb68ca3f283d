"""`ops`: which operators can be attributed through, and for which reasons something is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from onnx_attribution.errors import Reason
from onnx_attribution.server.cli import options, output

if TYPE_CHECKING:
    from onnx_attribution.graph_tools.catalogue import Entry


def ops(
    pattern: Annotated[str, typer.Option(metavar="TEXT", help="Only operators with this part.")] = "",
    reasons: Annotated[
        bool, typer.Option("--reasons", help="List the reasons for a refusal instead.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Lists the operators: what becomes of a gradient and of DeepLIFT's multipliers at each."""
    if reasons:
        _print_reasons(json)
        return
    from onnx_attribution.graph_tools.catalogue import catalogue

    found = [entry for entry in catalogue() if pattern.lower() in entry.operator.lower()]
    if json:
        output.print_json({"operators": [asdict(entry) for entry in found]})
        return
    table = _table("domain", "operator", "gradient", "DeepLIFT")
    for entry in found:
        words = f"{entry.gradient}: {entry.reason}" if entry.reason else entry.gradient
        table.add_row(*map(escape, (entry.domain or "ai.onnx", entry.operator, words, entry.deeplift)))
    out = output.console()
    out.print(table)
    out.print(summary(found))


def summary(entries: list[Entry]) -> str:
    """`230 operators: 160 rule, 7 function body, ...; 120 of them ONNX tags differentiable, 0 refused`."""
    counts = Counter(entry.gradient for entry in entries)
    tagged = [entry for entry in entries if entry.tagged]
    refused = sum(entry.gradient == "refused" for entry in tagged)
    words = ", ".join(f"{count} {word}" for word, count in counts.most_common())
    return f"{len(entries)} operators: {words}; {len(tagged)} of them ONNX tags differentiable, {refused} refused"


def _print_reasons(json: bool) -> None:
    found = [one for one in Reason if {"NotDifferentiable", "check"} & {*one.errors}]
    if json:
        rows = [{"word": one.value, "meaning": one.meaning, "instead": one.instead} for one in found]
        output.print_json({"reasons": rows})
        return
    table = _table("reason", "what it means", "what to do instead")
    for one in found:
        table.add_row(*map(escape, (one.value, one.meaning, one.instead)))
    output.console().print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
