"""`methods`: what can be asked for, with parameters, sources and what Captum calls it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from onnx_attribution.client.client import Client
from onnx_attribution.methods import MethodInfo
from onnx_attribution.parameters import Parameter
from onnx_attribution.server.cli import options, output


def methods(
    server: options.Server = None,
    json: options.Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page of the documentation.")
    ] = False,
) -> None:
    """Lists the methods: their parameters with bounds and defaults, their papers, and what Captum calls them."""
    found = _known(server)
    if json:
        output.print_json({"methods": [_plain(one) for one in found]})
    elif markdown:
        print("\n".join(page(found)))
    else:
        _print(found)


def _known(server: str | None) -> Sequence[MethodInfo]:
    if server is not None:
        with Client(server) as client:
            return client.methods()
    import onnx_attribution.server.engine.methods  # noqa: F401  # whose recipes are listed
    from onnx_attribution.server.engine.recipe import infos

    return infos()


def _plain(info: MethodInfo) -> dict[str, Any]:
    return asdict(info) | {"parameters": [asdict(one) | {"bounds": one.bounds} for one in info.parameters]}


def _print(found: Sequence[MethodInfo]) -> None:
    out = output.console()
    for info in found:
        out.print(f"[bold]{info.name}[/]  {escape(info.summary)}", soft_wrap=True)
        for line in filter(None, (info.captum and f"Captum: {info.captum}", info.paper)):
            out.print(f"  {escape(line)}", soft_wrap=True)
        table = Table(box=None, show_header=False, padding=(0, 2))
        for one in info.parameters:
            table.add_row(*map(escape, (one.name, _default(one), one.bounds, one.help)))
        if info.parameters:
            out.print(table)
        out.print()


def _default(one: Parameter) -> str:
    return "none" if one.default in (None, {}) else str(one.default)


def page(found: Sequence[MethodInfo]) -> Iterator[str]:
    """The page of the methods in Markdown."""
    yield "# Methods"
    yield ""
    yield "Written by `onnx-attribution methods --markdown`."
    yield ""
    yield from table(found)
    for info in found:
        yield ""
        yield f"## `{info.name}`"
        yield ""
        yield info.description
        yield ""
        yield f"- Defined in: {info.paper}"
        yield f"- Captum: {info.captum or 'none'}"
        yield f"- Depends on the baseline: {_yes(info.needs_reference)}"
        yield f"- Takes derivatives: {_yes(info.needs_derivatives)}"
        yield f"- Sums at a cut to: {info.sums_to or 'nothing in general'}"
        yield f"- Has an error estimate: {_yes(info.error_estimate)}"
        if info.layer_is_source:
            yield "- A layer that is asked for is the source."
        if info.parameters:
            yield ""
            yield "| parameter | default | may be | |"
            yield "|---|---|---|---|"
            for one in info.parameters:
                yield f"| `{one.name}` | {_default(one)} | {one.bounds or one.kind} | {one.help} |"


def table(found: Sequence[MethodInfo]) -> Iterator[str]:
    """The methods and what Captum calls them, in Markdown."""
    yield "| method | what it is | Captum |"
    yield "|---|---|---|"
    for info in found:
        yield f"| `{info.name}` | {info.summary} | {info.captum or 'none'} |"


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"
