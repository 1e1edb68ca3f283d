"""The options that methods bring to a command: one for each parameter that a registered method has."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

import typer

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import registered
from onnx_attribution.parameters import Parameter, parameters_of
from onnx_attribution.server.cli.inputs import read_groups, read_sizes
from onnx_attribution.values import TensorInfo

TYPES: Mapping[str, tuple[Any, str | None]] = {
    "integer": (int | None, "NUMBER"),
    "number": (float | None, "NUMBER"),
    "switch": (bool, None),
    "choice": (str | None, "NAME"),
    "text": (str | None, "TEXT"),
    "arrays": (list[str] | None, "[NAME=]FILE"),
    "sizes": (list[str] | None, "[NAME=]16x16"),
}
"""The type and the placeholder of an option, by the kind of its parameter."""


def option_of(one: Parameter) -> str:
    """The option of a parameter; that of a switch turns its default around."""
    turned = "no-" if one.kind == "switch" and one.default and not one.option else ""
    return f"--{turned}{(one.option or one.name).replace('_', '-')}"


def parameters_known() -> dict[str, tuple[Parameter, list[str]]]:
    """The parameters of all methods by name, and the methods that have them."""
    found: dict[str, tuple[Parameter, list[str]]] = {}
    for name, cls in registered().items():
        for one in parameters_of(cls):
            found.setdefault(one.name, (one, []))[1].append(name)
    return found


def with_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each parameter in place of its argument `parameters`, which gets those given."""
    known = parameters_known()

    @functools.wraps(command)
    def run(**given: Any) -> None:
        values = {name: given.pop(_argument(name)) for name in known}
        command(**given, parameters={n: x for n, x in values.items() if x is not None and x is not False})

    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "parameters"]
    taken = {option for p in own for option in _options(p)}
    added = [
        inspect.Parameter(
            _argument(name),
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=False if one.kind == "switch" else None,
            annotation=Annotated[
                TYPES[one.kind][0],
                typer.Option(
                    _free(one, methods, taken), metavar=TYPES[one.kind][1], help=_help(one, methods)
                ),
            ],
        )
        for name, (one, methods) in known.items()
    ]
    required = [p for p in own if p.default is inspect.Parameter.empty]
    signature = inspect.Signature([*required, *(p for p in own if p not in required), *added])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return run


def _argument(name: str) -> str:
    """The argument of a parameter, which no option of the command itself is called."""
    return f"parameter_{name}"


def _options(own: inspect.Parameter) -> Sequence[str]:
    """The options of an argument of the command itself."""
    infos = [one for one in getattr(own.annotation, "__metadata__", ()) if hasattr(one, "param_decls")]
    return [d for one in infos for d in one.param_decls or ()] or [f"--{own.name.replace('_', '-')}"]


def _free(one: Parameter, methods: Sequence[str], taken: Collection[str]) -> str:
    """The option of a parameter; with the name of its method before it where the command has one of that name."""
    option = option_of(one)
    return f"--{methods[0].replace('_', '-')}-{option.removeprefix('--')}" if option in taken else option


def _help(one: Parameter, methods: Sequence[str]) -> str:
    default = (
        "" if one.kind in ("switch", "arrays", "sizes") or one.default is None else f" Default {one.default}."
    )
    bounds = f" It may be {one.bounds}." if one.choices else ""
    off = f"Turns off {one.name}. " if one.kind == "switch" and one.default else ""
    return f"{off}{one.help}{bounds}{default} For {', '.join(methods)}."


def parsed(given: Mapping[str, Any], others: Sequence[str], inputs: Sequence[TensorInfo]) -> dict[str, Any]:
    """The values of the options that are given, and of `--parameter NAME=VALUE`. Raises: InvalidArgument."""
    found = dict[str, Any]()
    for name, value in given.items():
        one, _ = parameters_known()[name]
        match one.kind:
            case "arrays":
                found[name] = read_groups(value, inputs)
            case "sizes":
                found[name] = read_sizes(value, inputs, option_of(one))
            case "switch":
                found[name] = not one.default
            case "choice":
                found[name] = value.replace("-", "_").lower()
            case _:
                found[name] = value
    for text in others:
        name, given_value, value = text.partition("=")
        if not given_value or not name:
            raise InvalidArgument(f"--parameter {text!r} is not of the form NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
