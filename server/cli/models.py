"""`models`: what a server serves, what failed and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from onnx_attribution.client.client import Client
from onnx_attribution.errors import DeadlineExceeded, ModelError, Overloaded, ServerBug
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.login import Login
from onnx_attribution.server.cli.status import say
from onnx_attribution.values import ModelInfo


def models(
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server.")] = "127.0.0.1:8081",
    load: Annotated[bool, typer.Option("--load", help="Have those loaded that are not yet.")] = False,
    seconds: Annotated[float, typer.Option(metavar="NUMBER", help="How long each may take to load.")] = 300,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    key: options.Key = None,
    token: options.Token = None,
    json: options.Json = False,
) -> None:
    """Lists the models of a server with their state, and the reason why one failed to load.

    A model is loaded when it is first asked for; until then it is UNLOADED, and only its file was looked at.
    """
    with Login(ca, certificate, key, token).client(server) as client:
        found = client.models()
        if load:
            _load(client, found, seconds)
            found = client.models()
    if json:
        keys = ("name", "version", "state", "reason", "digest", "batch")
        rows = [{key: asdict(info)[key] for key in keys} for info in found]
        output.print_json({"server": server, "models": rows})
    else:
        _print(found, tried=load)


def _load(client: Client, found: Sequence[ModelInfo], seconds: float) -> None:
    """Asks for each model; what fails for another reason than the model is said, and the others are asked for."""
    for info in found:
        if info.state != "UNLOADED":
            continue
        try:
            client.model(f"{info.name}/versions/{info.version}", timeout=seconds)
        except ModelError:
            continue  # it is listed with its reason
        except (DeadlineExceeded, Overloaded, ServerBug) as error:
            say(f"model {info.name!r}: {error.message}")


def _print(models: Sequence[ModelInfo], *, tried: bool) -> None:
    """The table of `models`, and how many there are of each kind; `tried`: all have been loaded once."""
    out = output.console()
    table = output.table("model", "version", "state", "batch", "reason")
    for info in models:
        table.add_row(*map(escape, (info.name, str(info.version), info.state, info.batch or "", info.reason)))
    out.print(table)
    failed = sum(info.state == "FAILED" for info in models)
    unloaded = 0 if tried else sum(info.state == "UNLOADED" for info in models)
    counts = [f"{len(models) - failed} served", f"{failed} failed"]
    counts += [f"{unloaded} not loaded yet"] * bool(unloaded)
    out.print(", ".join(counts))
