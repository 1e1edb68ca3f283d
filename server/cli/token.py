"""`token FILE NAME`: a new token for a caller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def token(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The server's --token-file; made if need be.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the caller is called.")],
    role: Annotated[
        str,
        typer.Option(
            metavar="ROLE", help="What the caller may do: read, attribute (and read) or admin (all)."
        ),
    ] = "attribute",
) -> None:
    """Prints a new token, and adds its SHA-256 with the caller's name and role to the file that `serve` reads.

    A server that runs sees the file's changes. Who loses a line may call no more.
    """
    from onnx_attribution.server.service.tokens import add_token

    print(add_token(file, name, role))
