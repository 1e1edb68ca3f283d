"""`serve DIR`: the server in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.status import say


def serve(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR", help="Folders with NAME.onnx, NAME/model.onnx or NAME/VERSION/model.onnx."
        ),
    ],
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on; default 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Port; 0: a free one; default 8081.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where to run: auto, cpu or cuda.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Threads of one run; 0: as many as there are cores.")
    ] = None,
    device: Annotated[
        list[int] | None,
        typer.Option(
            metavar="NUMBER", help="A CUDA device; runs are spread over several. Default: the first."
        ),
    ] = None,
    tf32: Annotated[
        bool,
        typer.Option("--tf32", help="Let CUDA round the factors of float32 products: faster, less exact."),
    ] = False,
    allow_insecure: Annotated[
        bool,
        typer.Option(
            "--allow-insecure", help="Listen where other machines can reach it, without encryption."
        ),
    ] = False,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Encrypt: the server's certificate, with --key.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's key.")] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Let in only who has a certificate of this authority."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Let in only callers of this file; `token` adds them to it."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Serves the models until Ctrl-C: the first drains, the second aborts.

    ONNX_ATTRIBUTION_* variables set what has no option.
    """
    from onnx_attribution.server.operate.signals import Signals

    signals = Signals()  # before the imports that take time
    from pydantic import ValidationError

    from onnx_attribution.server.app import background, log_to_stderr
    from onnx_attribution.server.engine import Engine
    from onnx_attribution.server.engine.models.folders import scan_all
    from onnx_attribution.server.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port, "provider": provider, "threads": threads}
    given |= {"certificate": certificate, "key": key, "client_ca": client_ca, "token_file": token_file}
    given = {name: value for name, value in given.items() if value is not None}
    given |= {"devices": tuple(device)} if device else {}
    given |= {name: True for name, on in (("tf32", tf32), ("allow_insecure", allow_insecure)) if on}
    try:
        settings = Settings(models=tuple(folders), **given)
    except ValidationError as error:
        problems = ("--" + ".".join(map(str, one["loc"])) + f": {one['msg']}" for one in error.errors())
        raise InvalidArgument("; ".join(problem.removeprefix("--: ") for problem in problems)) from None
    log_to_stderr()
    found = scan_all(settings.models, lambda file, why: say(f"skipped {str(file)!r}: {why}"))
    if not found:
        raise InvalidArgument(f"no models in {', '.join(map(str, folders))}")
    with Engine(
        provider=settings.provider,
        threads=settings.threads or None,
        memory_budget=settings.memory_budget_mib << 20,
        tf32=settings.tf32,
        devices=settings.devices,
    ) as engine:
        for one in found:
            engine.add(one.name, one.path, version=one.version)
        with background(engine, settings) as (address, _):
            signals.expect()
            names = sorted({one.name for one in found})
            if json:
                output.print_json({"address": address, "models": names})
            else:
                print(f"serving {', '.join(names)} on {address}; Ctrl-C ends it", flush=True)
            signals.wait()
            say("draining; Ctrl-C again aborts")
