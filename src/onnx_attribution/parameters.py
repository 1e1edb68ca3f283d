"""Parameters of methods: what type and bounds they have, and what is wrong with a value. Needs numpy only."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, Reason

__all__ = ["EMPTY", "Kind", "Numbers", "Parameter", "alike", "bounded", "parameters_of", "shown"]

Kind = Literal["integer", "number", "switch", "choice", "text", "arrays", "sizes", "numbers"]
"""`arrays` and `sizes` map the names of sources: to an array of integers, to one integer for each of the last axes.
`numbers` is one, or a list of them; of an array its elements in C order."""
Numbers = float | Sequence[float] | NDArray[np.generic]
"""The type of `numbers`; a parsed value is a float or a tuple."""
KINDS: Mapping[object, Kind] = {
    int: "integer",
    float: "number",
    bool: "switch",
    str: "text",
    Mapping[str, NDArray[np.generic]]: "arrays",
    Mapping[str, Sequence[int]]: "sizes",
}
EMPTY: Mapping[str, Any] = types.MappingProxyType({})
EXACT = 1 << 53
"""Up to here a number of JSON, a double, holds every integer."""


@dataclass(frozen=True)
class Parameter:
    """One parameter: its default, what it may be, and what it is for.

    `accuracy`: it says how exact the answer has to be, so that exact methods meet it and need not know it. `option`
    is the word of the command line, where it differs from the name.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    optional: bool = False
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    accuracy: bool = False
    option: str = ""

    @property
    def reason(self) -> Reason:
        """Of a refusal."""
        return Reason.GROUPS_INVALID if self.kind in ("arrays", "sizes") else Reason.PARAMETER_INVALID

    @property
    def bounds(self) -> str:
        """What the value may be, in words; "" where anything of its type may be."""
        low = (
            f"above {self.above:g}" if self.above is not None
            else f"at least {self.at_least:g}" if self.at_least is not None else ""
        )  # fmt: skip
        if self.choices:
            return ", ".join(self.choices)
        if low and self.at_most is not None:
            return f"between {self.at_least if self.above is None else self.above:g} and {self.at_most:g}"
        return low or (f"at most {self.at_most:g}" if self.at_most is not None else "")

    def parsed(self, value: Any) -> Any:
        """The value as the method holds it. Raises: InvalidArgument for one that it cannot have."""
        if value is None and self.optional:
            return None
        try:
            found = getattr(self, f"_{self.kind}")(value)
        except (TypeError, ValueError, OverflowError):
            raise self._refused(f"{self.name} is {shown(value)}, which is {WORDS[self.kind]}") from None
        low, high = self.at_least, self.at_most
        if (
            (low is not None and not found >= low)
            or (self.above is not None and not found > self.above)
            or (high is not None and not found <= high)
            or (self.kind == "number" and not math.isfinite(found))
        ):
            words = f"lie {self.bounds}" if self.bounds.startswith("between") else f"be {self.bounds}"
            raise InvalidArgument(f"{self.name} is {shown(value)}; it must {words or 'be finite'}")
        return found

    def _integer(self, value: Any) -> int:
        if isinstance(value, bool | np.bool_) or int(value) != value:
            raise TypeError
        return int(value)

    def _number(self, value: Any) -> float:
        if isinstance(value, bool | np.bool_ | str):
            raise TypeError
        return float(value)

    def _numbers(self, value: Any) -> float | tuple[float, ...]:
        array = np.asarray(value)
        if array.dtype.kind not in "fiu" or not array.size:
            raise TypeError
        found = tuple(array.astype(np.float64).ravel().tolist())
        if not all(map(math.isfinite, found)):
            raise self._refused(f"{self.name} is {shown(value)}; it must be finite")
        return found[0] if len(found) == 1 else found

    def _switch(self, value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise TypeError
        return bool(value)

    def _text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError
        return value

    def _choice(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.choices:
            raise InvalidArgument(f"{self.name} is {shown(value)}; it may be: {self.bounds}")
        return value

    def _arrays(self, value: Any) -> Mapping[str, NDArray[np.generic]]:
        return {name: np.array(array) for name, array in self._mapping(value, "an array").items()}

    def _sizes(self, value: Any) -> Mapping[str, tuple[int, ...]]:
        found = {}
        for name, sizes in self._mapping(value, "sizes").items():
            array = np.asarray(sizes)
            if array.ndim != 1 or not array.size or not is_whole(array):
                raise self._refused(
                    f"{self.name} of {name!r} is {shown(sizes)}; it has one integer for each of the last axes"
                )
            found[name] = tuple(int(size) for size in array)
        return found

    def _mapping(self, value: Any, what: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise self._refused(
                f"{self.name} maps the name of a source to {what}; it cannot be {shown(value)}"
            )
        return value

    def _refused(self, message: str) -> InvalidArgument:
        return InvalidArgument(message, reason=self.reason)


WORDS: Mapping[Kind, str] = {
    "integer": "no integer",
    "number": "no number",
    "switch": "not True or False",
    "choice": "no word",
    "text": "no text",
    "arrays": "no dict of arrays",
    "sizes": "no dict of sizes",
    "numbers": "no number, and no list of numbers",
}


def bounded(
    default: Any,
    *,
    help: str,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    accuracy: bool = False,
    option: str = "",
) -> Any:
    """The field of a method's parameter: its default, its bounds, and what it is for."""
    said = {
        "help": help,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "accuracy": accuracy,
        "option": option,
    }
    if isinstance(default, Mapping):
        return field(default_factory=lambda: dict(default), metadata=said)
    return field(default=default, metadata=said)


def parameters_of(cls: type) -> tuple[Parameter, ...]:
    """The parameters of a method, from its fields. Raises: TypeError for a type that no parameter can have."""
    return _parameters(cls)


@functools.cache
def _parameters(cls: type) -> tuple[Parameter, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(_parameter(one, hints[one.name]) for one in dataclasses.fields(cls))


def _parameter(one: dataclasses.Field[Any], hint: Any) -> Parameter:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    plain = [option for option in options if option is not types.NoneType]
    choices = typing.get_args(plain[0]) if typing.get_origin(plain[0]) is Literal else ()
    kind: Kind | None = "choice" if choices else KINDS.get(plain[0])
    if tuple(plain) == typing.get_args(Numbers):
        kind, plain = "numbers", plain[:1]
    if kind is None or len(plain) != 1 or not all(isinstance(word, str) for word in choices):
        known = (
            "int, float, bool, str, a Literal of words, Mapping[str, NDArray[np.generic]], "
            "Mapping[str, Sequence[int]], parameters.Numbers, or one of these or None, written as float | None"
        )
        raise TypeError(f"the parameter {one.name!r} has type {hint}; there may be: {known}")
    if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
        raise TypeError(f"the parameter {one.name!r} has no default")
    default = one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default
    if isinstance(default, int) and abs(default) > EXACT:
        raise TypeError(f"the default of {one.name!r} is {shown(default)}, more than the wire holds (2**53)")
    said = {"help": "", **one.metadata}
    return Parameter(one.name, kind, default, optional=types.NoneType in options, choices=choices, **said)


def is_whole(array: NDArray[Any]) -> bool:
    """Whether the numbers of an array are integers, as floats too."""
    if array.dtype.kind == "f":
        return bool((np.isfinite(array) & (array == np.trunc(array))).all())
    return array.dtype.kind in "iu"


def alike(one: object, other: object) -> bool:
    """Whether two values are the same: arrays by type, shape and elements, dataclasses by their fields."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if type(one) is not type(other):
        return not isinstance(one, np.ndarray) and not isinstance(other, np.ndarray) and bool(one == other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if dataclasses.is_dataclass(one):
        return all(alike(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return bool(one == other)


def shown(value: object) -> str:
    """A value in at most 80 letters."""
    try:
        shown = ascii(value) if isinstance(value, str) else repr(value)
    except ValueError:  # an integer of too many digits
        shown = f"an {type(value).__name__} of very many digits"
    return shown if len(shown) <= 80 else shown[:77] + "..."
