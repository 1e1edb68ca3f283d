"""`check FILE...`: whether files can be attributed at all."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from onnx_attribution.errors import AttributionError
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import provider_of, quiet
from onnx_attribution.server.cli.inputs import axes_of, shapes_of
from onnx_attribution.server.cli.status import REFUSED, UNUSABLE

if TYPE_CHECKING:
    from onnx_attribution.server.engine.check import Verdict


def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="The .onnx files.")],
    provider: options.Provider = "cpu",
    threads: options.Threads = 0,
    batch_axis: options.BatchAxis = None,
    shape: options.Shape = None,
    json: options.Json = False,
) -> None:
    """Builds and runs the gradient of each file and compares it with a difference; prints a verdict a file.

    Status 0: all are attributable; 3: one is not; 2: one cannot be read or run.
    """
    from onnx_attribution.server.engine.backend import Backend
    from onnx_attribution.server.engine.check import check_file

    axes, shapes = axes_of(batch_axis or []), shapes_of(shape or [])
    backend = Backend(provider_of(provider), threads or None)
    status = 0
    for file in files:
        try:
            with quiet():
                verdict: Verdict | None = check_file(file, backend, batch_axes=axes, shapes=shapes)
            error = ""
        except AttributionError as failure:
            verdict, error = None, failure.message
        except Exception as failure:  # one file must not end the others
            line = (str(failure).strip().splitlines() or [""])[0]
            verdict, error = None, f"unexpected {type(failure).__name__}: {line}"
        if json:
            output.print_json(_object(file, verdict, error))
        else:
            _print(file, verdict, error)
        if verdict is None:
            status = UNUSABLE
        elif not verdict.attributable:
            status = status or REFUSED
    raise typer.Exit(status)


def _object(file: str, verdict: Verdict | None, error: str) -> dict[str, object]:
    if verdict is not None:
        return asdict(verdict)
    return {"file": file, "attributable": False, "sources": [], "batch": None, "refused": [], "error": error}


def _print(file: str, verdict: Verdict | None, error: str) -> None:
    """One file of `check`."""
    out = output.console()
    if verdict is None:
        out.print(f"[red]unusable[/]      {escape(file)}: {escape(error)}", soft_wrap=True)
        return
    word = "[green]attributable[/]" if verdict.attributable else "[yellow]refused[/]     "
    details = f"batch {verdict.batch or 'unknown'}, source {', '.join(verdict.sources) or 'none'}"
    out.print(f"{word}  {escape(file)}: {escape(details)} ({verdict.seconds:.1f} s)", soft_wrap=True)
    for one in verdict.refused:
        named = not one.get("node") or f"(node {one['node']!r}" in one["reason"]
        node = "" if named else f" (node {one['node']!r}, output {one['tensor']!r})"
        out.print(
            f"    {escape(' '.join(filter(None, (one.get('operator'), one.get('reason')))) + node)}",
            soft_wrap=True,
        )
    for note in verdict.notes:
        out.print(f"    note: {escape(note)}", soft_wrap=True)
