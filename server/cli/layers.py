"""`layers FILE`: what can be attributed to."""

from __future__ import annotations

from typing import Annotated

import typer

from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import Place, asking
from onnx_attribution.server.cli.inputs import axes_of, shapes_of
from onnx_attribution.server.cli.login import Login


def layers(
    file: options.File,
    pattern: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Only names and nodes with this part or of this glob, or this operator."
        ),
    ] = "",
    provider: options.Provider = "cpu",
    threads: options.Threads = 0,
    batch_axis: options.BatchAxis = None,
    shape: options.Shape = None,
    server: options.Server = None,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    key: options.Key = None,
    token: options.Token = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Lists the layers between the sources and the target: name, node, operator, shape, type, whether it is a cut."""
    place = Place(
        model or file, server, provider, threads, axes_of(batch_axis or []), shapes_of(shape or []),
        Login(ca, certificate, key, token),
    )  # fmt: skip
    with asking(place) as asker:
        info, found = asker.info(), asker.layers(pattern)
    if json:
        output.print_json(output.layers_json(file, info, found))
    else:
        output.print_layers(info, found)
