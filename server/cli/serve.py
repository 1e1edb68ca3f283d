"""`serve DIR`: the server in the foreground. Its options are the settings, whatever those are."""

from __future__ import annotations

import inspect
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperGroup

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.status import EPILOG, guarded, say

if TYPE_CHECKING:
    from onnx_attribution.server.app import Server
    from onnx_attribution.server.operate.signals import Signals
    from onnx_attribution.values import ModelInfo

ALSO = {"devices": ("--device",)}
"""Other names of flags."""
LOOKING_SECONDS = 10.0
"""For which the line of `serve` waits for models to be looked at; what is found later is logged."""
MOST_NAMED = 10
"""Models that failed which that line names."""


def serve(json: bool = False, **given: Any) -> None:
    """Serves the models of folders until Ctrl-C: the first drains, the second aborts.

    Each option is also a variable, as ONNX_ATTRIBUTION_MAX_STEPS, and a key of the TOML file that --config names, as
    max_steps. Options go before variables, and those before the file.
    """
    from onnx_attribution.server.operate.signals import Signals

    signals = Signals()  # before the imports that take time
    import os

    from onnx_attribution.server.settings import read, unknown_variables

    settings = read({name: value for name, value in given.items() if value not in (None, [], ())})
    for wrong in unknown_variables(os.environ):
        say(wrong)
    if not settings.models:
        raise InvalidArgument("no models: name their folders, as in `onnx-attribution serve models`")
    from onnx_attribution.server.app import background, engine_of
    from onnx_attribution.server.operate.logs import CallLog, configure
    from onnx_attribution.server.operate.metrics import Metrics
    from onnx_attribution.server.operate.process import for_serving
    from onnx_attribution.server.service.repository import Repository

    configure(settings.log_level, settings.log_format)
    for_serving()
    metrics = Metrics()
    with engine_of(settings, metrics) as engine:
        repository = Repository(engine, settings.models)
        repository.start(lambda file, why: say(f"skipped {str(file)!r}: {why}"))
        if not engine.models() and not (settings.uploads or settings.watch):
            raise InvalidArgument(f"no models in {', '.join(map(str, settings.models))}")
        signals.expect()
        with background(engine, settings, repository, metrics=metrics, listeners=[CallLog()]) as (
            address,
            server,
        ):
            _wait(server, signals)
            if not signals.is_there:
                port = server.http_port
                http = None if port is None else f"http://{settings.http_address[0]}:{port}"
                if json:
                    output.print_json(_told(address, http, engine.models()))
                else:
                    print(_line(address, http, engine.models()), flush=True)
            signals.wait()
            say("draining; Ctrl-C again aborts")


def _wait(server: Server, signals: Signals) -> None:
    """Until the server is ready and has looked at its files, of which there may be many; or a signal comes."""
    while not server.ready.wait(0.1) and not signals.is_there:
        pass
    end = time.monotonic() + LOOKING_SECONDS
    while not server.looked.wait(0.02) and not signals.is_there and time.monotonic() < end:
        pass


def _told(address: str, http: str | None, models: Sequence[ModelInfo]) -> dict[str, object]:
    failed = {info.name: info.reason for info in models if info.state == "FAILED"}
    served = sorted({info.name for info in models} - set(failed))
    return {"address": address, "http": http, "models": served, "failed": failed}


def _line(address: str, http: str | None, models: Sequence[ModelInfo]) -> str:
    """One line, however many models there are."""
    failed = [info.name for info in models if info.state == "FAILED"]
    count = len(models) - len(failed)
    parts = [f"serving {count} model{'s' * (count != 1)} on {address}"]
    named = ", ".join(failed[:MOST_NAMED]) + ", ..." * (len(failed) > MOST_NAMED)
    parts += [f"{len(failed)} failed ({named})"] * bool(failed)
    parts += [f"health and metrics on {http}"] if http else []
    return f"{', '.join(parts)}; `onnx-attribution models --server {address}` lists them; Ctrl-C ends it"


class Commands(TyperGroup):
    """The commands; the options of `serve` are made when they are asked for, since the settings take time to import."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name."""
        return _command() if cmd_name == "serve" else super().get_command(ctx, cmd_name)


# Until the command is asked for.
serve.__signature__ = inspect.Signature()  # type: ignore[attr-defined]


def _command() -> Any:
    """`serve` with an option for each setting."""
    from onnx_attribution.server.settings import Settings

    hints = get_type_hints(Settings)
    parameters = [_parameter(name, hints[name], info) for name, info in Settings.model_fields.items()]
    parameters.append(_keyword("json", options.Json, False))

    def command(**given: Any) -> None:
        serve(**given)

    command.__doc__ = serve.__doc__
    command.__name__ = "serve"
    command.__signature__ = inspect.Signature(sorted(parameters, key=lambda one: one.name != "models"))  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    alone = typer.Typer(rich_markup_mode=None, add_completion=False)
    alone.command("serve", epilog=EPILOG, short_help="Serves models over gRPC until Ctrl-C.")(
        guarded(command)
    )
    return typer.main.get_command(alone)


def _parameter(name: str, kind: Any, info: Any) -> inspect.Parameter:
    """The option of a setting. Values are passed on as text: the settings read them, as they do variables."""
    text = info.description or ""
    default = info.default
    if name == "models":
        return _keyword(name, Annotated[list[Path] | None, typer.Argument(metavar="DIR", help=text)], None)
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        return _keyword(
            name, Annotated[bool | None, typer.Option(f"{flag}/--no-{flag[2:]}", help=text)], None
        )
    if default not in (None, ()) and "default" not in text:
        text = (
            f"{text.removesuffix('.')}; default {default:g}."
            if isinstance(default, float)
            else (f"{text.removesuffix('.')}; default {default}.")
        )
    option = typer.Option(flag, *ALSO.get(name, ()), metavar=_metavar(kind), help=text)
    many = get_origin(kind) is tuple
    return _keyword(name, Annotated[list[str] | None if many else str | None, option], None)


def _keyword(name: str, kind: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _metavar(kind: Any) -> str:
    """What a value looks like."""
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, types.UnionType, tuple):
        return _metavar(get_args(kind)[0])
    return {int: "NUMBER", float: "NUMBER", Path: "FILE"}.get(kind, "TEXT")
