"""`layers FILE`: what can be attributed to."""

from __future__ import annotations

from typing import Annotated

import typer

from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import Place, asking
from onnx_attribution.server.cli.bundles import bundled
from onnx_attribution.server.cli.named import names_of


@bundled(provider="cpu")
def layers(
    *,
    pattern: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Only names and nodes with this part or of this glob, or this operator."
        ),
    ] = "",
    names: options.Names = None,
    place: Place,
    json: options.Json = False,
) -> None:
    """Lists the layers between the sources and the target: name, node, operator, shape, type, whether it is a cut."""
    told = names_of(names)
    with asking(place) as asker:
        named = told(asker)
        info, found = asker.info(), asker.layers(pattern)
    if json:
        output.print_json(output.layers_json(place.file, info, found, named))
    else:
        output.print_layers(info, found, named)
