"""The options that methods bring to a command: one for each parameter that a registered method has."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import registered
from onnx_attribution.parameters import Parameter, parameters_of
from onnx_attribution.server.cli.inputs import read_groups, read_numbers, read_sizes
from onnx_attribution.values import TensorInfo

TYPES: Mapping[str, tuple[Any, str | None]] = {
    "integer": (int | None, "NUMBER"),
    "number": (float | None, "NUMBER"),
    "switch": (bool, None),
    "choice": (str | None, "NAME"),
    "text": (str | None, "TEXT"),
    "arrays": (list[str] | None, "[NAME=]FILE"),
    "sizes": (list[str] | None, "[NAME=]16x16"),
    "numbers": (str | None, "NUMBERS|FILE"),
}
"""The type and the placeholder of an option, by the kind of its parameter."""


@dataclass(frozen=True)
class Option:
    """An option of the command line, and the parameters of one name and kind that it is for, by method."""

    word: str
    of: dict[str, Parameter]

    @property
    def first(self) -> Parameter:
        return next(iter(self.of.values()))

    @property
    def argument(self) -> str:
        """The argument of the option, which none of the command itself is called."""
        return f"parameter{self.word}".replace("-", "_")

    @property
    def help(self) -> str:
        """What it is for, once for all methods of which the same is to be said."""
        methods: dict[str, list[str]] = {}
        for name, one in self.of.items():
            methods.setdefault(_help(one), []).append(name)
        return " ".join(f"{words} For {', '.join(names)}." for words, names in methods.items())


Given = Sequence[tuple[Option, Any]]
"""Options with the values that they are given."""


def _word(one: Parameter) -> str:
    """The option of a parameter; that of a switch turns its default around."""
    turned = "no-" if one.kind == "switch" and one.default and not one.option else ""
    return f"--{turned}{(one.option or one.name).replace('_', '-')}"


def options_known(taken: Collection[str] = ()) -> dict[str, Option]:
    """The options of all methods by their words.

    Where a word is taken, or stands for a parameter of another name or kind, the method's name is put before it.
    """
    found: dict[str, Option] = {}
    for name, cls in registered().items():
        for one in parameters_of(cls):
            word = _word(one)
            while word in taken or not _serves(found.get(word), one):
                word = f"--{name.replace('_', '-')}-{word.removeprefix('--')}"
            found.setdefault(word, Option(word, {})).of[name] = one
    return found


def _serves(option: Option | None, one: Parameter) -> bool:
    return option is None or (option.first.name, option.first.kind) == (one.name, one.kind)


def with_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each parameter in place of its argument `parameters`, which gets those given."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "parameters"]
    known = options_known({"--help", *(word for p in own for word in _words(p))}).values()

    @functools.wraps(command)
    def run(**given: Any) -> None:
        values = [(one, given.pop(one.argument)) for one in known]
        command(**given, parameters=[(one, x) for one, x in values if x is not None and x is not False])

    added = [
        inspect.Parameter(
            one.argument,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=False if one.first.kind == "switch" else None,
            annotation=Annotated[
                TYPES[one.first.kind][0],
                typer.Option(one.word, metavar=TYPES[one.first.kind][1], help=one.help),
            ],
        )
        for one in known
    ]
    required = [p for p in own if p.default is inspect.Parameter.empty]
    signature = inspect.Signature([*required, *(p for p in own if p not in required), *added])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return run


def _words(own: inspect.Parameter) -> Sequence[str]:
    """The options of an argument of the command itself."""
    infos = [one for one in getattr(own.annotation, "__metadata__", ()) if hasattr(one, "param_decls")]
    return [d for one in infos for d in one.param_decls or ()] or [f"--{own.name.replace('_', '-')}"]


def _help(one: Parameter) -> str:
    plain = one.kind in ("switch", "arrays", "sizes") or one.default is None
    parts = (
        f"Turns off {one.name}" if one.kind == "switch" and one.default else "",
        one.help,
        f"It may be {one.bounds}" if one.choices else "",
        "" if plain else f"Default {one.default}",
    )
    return " ".join(part if part.endswith(".") else f"{part}." for part in parts if part)


def parsed(method: str, given: Given, others: Sequence[str], inputs: Sequence[TensorInfo]) -> dict[str, Any]:
    """The method's parameters of the options that are given, and of `--parameter NAME=VALUE`.

    Raises:
        InvalidArgument: a value that no parameter can have, or an option that is another method's.
    """
    cls = registered().get(method)
    own = {one.name: one for one in parameters_of(cls)} if cls else {}
    found = dict[str, Any]()
    for option, value in given:
        one = own.get(option.first.name, option.first)
        if one.kind != option.first.kind:
            raise InvalidArgument(
                f"{option.word} is for {', '.join(option.of)}; {method} has an option of its own, or --parameter "
                f"{one.name}=VALUE"
            )
        match one.kind:
            case "arrays":
                found[one.name] = read_groups(value, inputs, option.word)
            case "sizes":
                found[one.name] = read_sizes(value, inputs, option.word)
            case "numbers":
                found[one.name] = read_numbers(value, option.word)
            case "switch":
                found[one.name] = not one.default if one.option else not option.first.default
            case "choice":
                words = {_loose(word): word for word in reversed(one.choices)}
                found[one.name] = value if value in one.choices else words.get(_loose(value), value)
            case _:
                found[one.name] = value
    for text in others:
        name, given_value, value = text.partition("=")
        if not given_value or not name:
            raise InvalidArgument(f"--parameter {text!r} is not of the form NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _loose(word: str) -> str:
    return word.replace("-", "_").lower()
