"""Options of which one argument of a command is made: the place of a model, how pictures become inputs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnx_attribution.server.cli import options
from onnx_attribution.server.cli.asker import Place
from onnx_attribution.server.cli.inputs import axes_of, shapes_of
from onnx_attribution.server.cli.login import Login
from onnx_attribution.server.cli.picture import picture_of
from onnx_attribution.server.cli.pictures import Picture


def place_of(
    file: options.File,
    provider: options.Provider = "auto",
    threads: options.Threads = 0,
    batch_axis: options.BatchAxis = None,
    shape: options.Shape = None,
    server: options.Server = None,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    key: options.Key = None,
    token: options.Token = None,
    model: options.Model = None,
) -> Place:
    """Where the model is. Raises: InvalidArgument: an axis or shape that cannot be meant."""
    login = Login(ca, certificate, key, token)
    axes, shapes = axes_of(batch_axis or []), shapes_of(shape or [])
    return Place(model or file, server, provider, threads, axes, shapes, login, file)


@dataclass(frozen=True)
class Places:
    """Where a model is that several servers may have: one place for each of them, or the file's."""

    each: tuple[Place, ...]


def places_of(
    file: options.File,
    provider: options.Provider = "auto",
    threads: options.Threads = 0,
    batch_axis: options.BatchAxis = None,
    shape: options.Shape = None,
    server: options.Servers = None,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    key: options.Key = None,
    token: options.Token = None,
    model: options.Model = None,
) -> Places:
    """Raises: as `place_of`."""
    place = place_of(file, provider, threads, batch_axis, shape, None, ca, certificate, key, token, model)
    return Places(tuple(replace(place, server=one) for one in server or (None,)))


MADE_BY: Mapping[type, Callable[..., Any]] = {Place: place_of, Places: places_of, Picture: picture_of}
"""By the type of an argument, the function whose arguments are the options in its place."""


def bundled(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a command have the options of which its arguments of the types of `MADE_BY` are made; `defaults` are those
    that differ in this command."""

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        parts = {name: MADE_BY[one.annotation] for name, one in own.items() if one.annotation in MADE_BY}
        arguments = {name: inspect.signature(made, eval_str=True).parameters for name, made in parts.items()}

        @functools.wraps(command)
        def run(**given: Any) -> None:
            made = {name: parts[name](**{one: given.pop(one) for one in arguments[name]}) for name in parts}
            command(**given, **made)

        flat = [
            one for name, p in own.items() for one in (arguments[name].values() if name in parts else (p,))
        ]
        flat = [
            one.replace(
                kind=inspect.Parameter.POSITIONAL_OR_KEYWORD, default=defaults.get(one.name, one.default)
            )
            for one in flat
        ]
        required = [one for one in flat if one.default is inspect.Parameter.empty]
        signature = inspect.Signature([*required, *(one for one in flat if one not in required)])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
        return run

    return with_options
