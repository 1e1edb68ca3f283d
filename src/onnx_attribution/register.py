"""What a method is, and which there are: values by name, made known from anywhere.

A method of your own is a dataclass and a recipe; an entry point of the group `onnx_attribution.methods` names the
module that holds them. All of it is public as `onnx_attribution.methods`, with the methods of this package.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.parameters import EMPTY, Parameter, alike, parameters_of, shown

ENTRY_POINTS = "onnx_attribution.methods"
TAKEN = frozenset(
    [
        "baselines",
        "channel_sums",
        "inputs",
        "layers",
        "method",
        "model",
        "progress",
        "request_id",
        "revisions",
        "self",
        "source",
        "sums_only",
        "target",
        "targets",
        "timeout",
    ]
)
"""What requests and calls of clients have beside a method's parameters."""


class Method:
    """What all methods have: a name, and the source of their definition. A method is a frozen dataclass below it.

    Raises:
        InvalidArgument: a parameter is out of its bounds; `violations` has one entry for each.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    captum: ClassVar[str] = ""
    indifferent_to: ClassVar[frozenset[str]] = frozenset()
    """Parameters of other methods that would change nothing here, whatever their value."""

    def __post_init__(self) -> None:
        found: dict[str, InvalidArgument] = {}
        for one in parameters_of(type(self)):
            try:
                object.__setattr__(self, one.name, one.parsed(getattr(self, one.name)))
            except InvalidArgument as error:
                found[one.name] = error
        if not found:
            for name, message in self.contradictions():
                found[name] = InvalidArgument(message)
        if found:
            first = next(iter(found.values()))
            raise InvalidArgument(
                "; ".join(error.message for error in found.values()),
                reason=first.reason,
                violations={name: error.message for name, error in found.items()},
                field=next(iter(found)),
            )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Parameters that do not go together: the name of one, and the message."""
        yield from ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Method) or type(self) is not type(other):
            return False
        return self.name == other.name and alike(self.parameters(), other.parameters())

    def __hash__(self) -> int:
        return hash(self.name)

    def parameters(self) -> dict[str, Any]:
        """The parameters by name."""
        return {one.name: getattr(self, one.name) for one in parameters_of(type(self))}


Kept = TypeVar("Kept", bound=type[Method])
_known: dict[str, type[Method]] = {}
_failed: dict[str, str] = {}


def register(name: str, *, paper: str = "", captum: str = "") -> Callable[[Kept], Kept]:
    """Makes a method known under a name, with its source and what Captum calls it.

    Raises:
        TypeError, ValueError: the class, its name, a parameter or a default cannot be one of a method.
    """

    def keep(cls: Kept) -> Kept:
        if not (isinstance(cls, type) and issubclass(cls, Method)):
            raise TypeError(f"a method is a class below onnx_attribution.methods.Method, not {shown(cls)}")
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or name == "custom":
            raise ValueError(f"a method is called in small letters, digits and _, not {name!r}")
        held = _known.get(name, cls)
        if (held.__module__, held.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"there is a method {name!r} already: {held.__module__}.{held.__qualname__}")
        if "__dataclass_params__" not in vars(cls) or not vars(cls)["__dataclass_params__"].frozen:
            raise TypeError(
                f"{cls.__qualname__} is no frozen dataclass: put @dataclass(frozen=True) below @register"
            )
        for one in parameters_of(cls):
            if one.name in TAKEN or hasattr(Method, one.name) or one.name.startswith("_"):
                raise ValueError(f"no parameter can be called {one.name!r}: requests or methods have it")
            if not all(isinstance(word, str) for word in (paper, captum, one.help, one.option, one.bounds)):
                raise TypeError("paper, captum, help and option are text")
        try:
            cls()
        except Exception as error:
            raise ValueError(f"{cls.__qualname__} cannot be made with its defaults: {error}") from error
        cls.name, cls.paper, cls.captum = name, paper, captum
        _known[name] = cls
        return cls

    return keep


def require_registered(cls: type[Method]) -> None:
    """Refuses a class that no name stands for, such as one below a registered class.

    Raises:
        ValueError: the class is not registered itself.
    """
    if _known.get(cls.name) is not cls:
        raise ValueError(
            f"{cls.__qualname__} is not registered itself: put @register(NAME) above it; values from before its module "
            "was read again are made anew"
        )


def forget(name: str) -> None:
    """Makes a method unknown again, and so its recipe, which belongs to its class."""
    _known.pop(name, None)


def registered() -> Mapping[str, type[Method]]:
    """The methods by name, those of entry points included."""
    _load_entry_points()
    return dict(_known)


@functools.cache
def _load_entry_points() -> None:
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a package of others does, SystemExit too: the rest goes on
            _failed[point.name] = f"{type(error).__name__}: {error}"


def failures() -> str:
    """In words which entry points could not be loaded, and why; "" where all could."""
    registered()
    return "; ".join(f"{point!r} could not be loaded: {why}" for point, why in _failed.items())


def method_named(name: str) -> type[Method]:
    """Raises: InvalidArgument that lists the methods, and the entry points that could not be loaded."""
    known = registered()
    if name in known:
        return known[name]
    raise unknown(name, known)


def unknown(name: str, known: Iterable[str]) -> InvalidArgument:
    """The refusal of a method that is not there."""
    words = "; ".join(filter(None, (f"there are: {', '.join(known)}", failures())))
    return InvalidArgument(f"no method {name!r}; {words}", method=name)


def make(method: Method | str, parameters: Mapping[str, Any] = EMPTY) -> Method:
    """The method as a value: from a value that parameters change, or from its name with parameters.

    A parameter that the method does not know is refused, unless it asks for nothing: its value is the default of those
    that know it, or says how exact the answer has to be while the method is exact. A name that is not known here may be
    one of the server: `Custom`.

    Raises:
        InvalidArgument: a parameter that does not exist, or is out of its bounds; a value of a class that is not
            registered.
    """
    if isinstance(method, Method):
        if not isinstance(method, Custom):
            try:
                require_registered(type(method))
            except ValueError as error:
                raise InvalidArgument(str(error)) from None
        given = {**method.parameters(), **parameters} if parameters else {}
        return make(method.name, given) if given else method
    if not isinstance(method, str):
        raise InvalidArgument(
            f"a method is a value of onnx_attribution.methods or its name, not {shown(method)}"
        )
    cls = registered().get(method)
    if cls is None:
        return Custom(method, dict(parameters))
    own = {one.name for one in parameters_of(cls)}
    for name in parameters:
        if name not in own:
            _require_idle(cls, own, name, parameters[name])
    return cls(**{name: value for name, value in parameters.items() if name in own})


def named(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the parameters of a method in words: `grad_cam`, or `grad_cam(sign=positive, channel_axis=-1)`.

    Values are JSON, or words.

    Raises:
        InvalidArgument: the text is not of this form.
    """
    found = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\)\s*)?", text, re.DOTALL)
    if found is None:
        raise InvalidArgument(f"{shown(text)} is no method: NAME, or NAME(PARAMETER=VALUE, ...)", option="of")
    parameters = dict[str, Any]()
    for part in filter(str.strip, re.split(r",(?=\s*\w+\s*=)", found[2] or "")):
        name, sign, value = (word.strip() for word in part.partition("="))
        if not name or not sign or not value:
            raise InvalidArgument(
                f"{shown(part.strip())} in {shown(text)} is not PARAMETER=VALUE", option="of"
            )
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return found[1].replace("-", "_"), parameters


def _require_idle(cls: type[Method], own: set[str], name: str, value: Any) -> None:
    """Refuses a parameter that the method does not know, if it asks for something."""
    others = {
        other: one for other, held in registered().items() for one in parameters_of(held) if one.name == name
    }
    if not others:
        known = ", ".join(sorted(own)) or "none"
        raise InvalidArgument(f"{cls.name} has no parameter {name!r}; there are: {known}", option=name)
    first = next(iter(others.values()))
    value = first.parsed(value)  # what nobody can mean is refused
    if not (first.accuracy or name in cls.indifferent_to or value == first.default):
        message = f"{cls.name} knows no {name}; it is a parameter of {', '.join(others)}"
        raise InvalidArgument(message, reason=first.reason, option=name)


@dataclass(frozen=True, eq=False)
class Custom(Method):
    """A method that is known by its name only: whoever evaluates it knows more."""

    name: str = ""  # type: ignore[misc]  # of this value, in place of the class's
    given: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Nothing is known of the parameters here."""
        if not isinstance(self.name, str) or not isinstance(self.given or {}, Mapping):
            raise InvalidArgument(
                f"a method has a name and a dict of parameters, not {shown(self.name)} and {shown(self.given)}"
            )
        object.__setattr__(self, "given", dict(self.given or {}))

    def parameters(self) -> dict[str, Any]:
        return dict(self.given or {})


@dataclass(frozen=True)
class MethodInfo:
    """What is known of a method: its parameters, its sources, and the facts of its recipe.

    `summary` is the first paragraph of its documentation, `description` all of it. `needs_reference`: its answer
    depends on the baselines. `layer_is_source`: a layer that is asked for is the source. `sums_to`: what the
    attributions of a cut sum to, "" where they need not sum to anything. `multiplied_by_inputs`: attributions are
    products with the values of their layer, or with their differences to the baselines, and not yet to be multiplied;
    a parameter of that name takes the factor away.
    """

    name: str
    summary: str
    description: str
    parameters: tuple[Parameter, ...] = ()
    paper: str = ""
    captum: str = ""
    needs_reference: bool = False
    needs_derivatives: bool = True
    layer_is_source: bool = False
    sums_to: str = ""
    error_estimate: bool = False
    multiplied_by_inputs: bool = False


def info_of(cls: type[Method], **facts: Any) -> MethodInfo:
    """What a method's own class says of it, and facts of its recipe."""
    text = inspect.cleandoc(cls.__doc__ or "")
    summary = " ".join(text.partition("\n\n")[0].split())
    return MethodInfo(cls.name, summary, text, parameters_of(cls), cls.paper, cls.captum, **facts)
