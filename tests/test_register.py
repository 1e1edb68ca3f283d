"""What can be registered as a method, and what is refused there rather than later."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, make_dataclass
from typing import Any, Literal, Optional

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.client import AsyncClient, Client
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import (
    Gradient,
    IntegratedGradients,
    Method,
    NeuronIG,
    bounded,
    forget,
    make,
    register,
    registered,
)
from onnx_attribution.parameters import parameters_of
from onnx_attribution.values import AttributionRequest


def method_with(name: str, kind: Any, default: Any, **bounds: Any) -> type:
    """A method with one parameter."""
    field = bounded(default, help="A parameter.", **bounds)
    return make_dataclass("Made", [(name, kind, field)], bases=(Method,), frozen=True)


@dataclass(frozen=True)
class Open(Method):
    """A parameter without a default."""

    value: int


@dataclass(frozen=True)
class Never(Method):
    """One that cannot be made."""

    def __post_init__(self) -> None:
        raise RuntimeError("no licence")


@dataclass
class Thawed(Method):
    """A dataclass that can be changed."""


class Undecorated(IntegratedGradients):
    """A class that takes all from another."""


LITERAL, OPTIONAL = Literal[1, 2], Optional[float]  # noqa: UP045
NO_METHODS: Mapping[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a set": (lambda: method_with("value", set[int], None), TypeError, "'value' has type set"),
    "a choice of numbers": (lambda: method_with("value", LITERAL, 1), TypeError, "a Literal of words"),
    "Optional": (lambda: method_with("value", OPTIONAL, None), TypeError, r"written as float \| None"),
    "no default": (lambda: Open, TypeError, "'value' has no default"),
    "a default that the wire changes": (
        lambda: method_with("value", int, 2**53 + 1),
        TypeError,
        "the default of 'value' is 9007199254740993",
    ),
    "a default out of bounds": (
        lambda: method_with("value", float, 0.0, above=0),
        ValueError,
        "cannot be made with its defaults: value is 0.0; it must be above 0",
    ),
    "help that is no text": (
        lambda: make_dataclass("Made", [("value", int, bounded(1, help=3))], bases=(Method,), frozen=True),  # type: ignore[arg-type]
        TypeError,
        "help and option are text",
    ),
    "a class that raises": (lambda: Never, ValueError, "cannot be made with its defaults: no licence"),
    "a function": (lambda: len, TypeError, "a method is a class below onnx_attribution.methods.Method"),
    "another class": (lambda: int, TypeError, "a method is a class below onnx_attribution.methods.Method"),
    "no dataclass": (lambda: Undecorated, TypeError, r"put @dataclass\(frozen=True\) below @register"),
    "not frozen": (lambda: Thawed, TypeError, r"put @dataclass\(frozen=True\) below @register"),
}


@pytest.mark.parametrize("case", NO_METHODS)
def test_what_is_no_method_is_refused_where_it_is_registered(case: str) -> None:
    made, kind, words = NO_METHODS[case]
    with pytest.raises(kind, match=words):
        register("made")(made())
    assert "made" not in registered()


@pytest.mark.parametrize("name", ["", "custom", "my-method", "Mine", "two words", "9th", "größe"])
def test_a_name_is_a_word_that_every_door_can_write(name: str) -> None:
    with pytest.raises(ValueError, match="a method is called in small letters"):
        register(name)(method_with("value", int, 1))


ASKED = (AttributionRequest, Client.attribute, Client.stream, AsyncClient.attribute, AsyncClient.stream)
WORDS = {
    one.name
    for call in ASKED
    for one in inspect.signature(call).parameters.values()
    if one.kind is not inspect.Parameter.VAR_KEYWORD
}


@pytest.mark.parametrize(
    "name", sorted({*WORDS, "name", "paper", "captum", "parameters", "indifferent_to", "_mine"})
)
def test_no_parameter_is_called_as_what_a_request_has_already(name: str) -> None:
    with pytest.raises(ValueError, match=f"no parameter can be called '{name}'"):
        register("made")(method_with(name, int, 1))


def test_a_name_is_registered_once() -> None:
    theirs = method_with("value", int, 1)
    theirs.__qualname__ = "Gradient"  # of another module
    for name, held in (("neuron_ig", NeuronIG), ("gradient", Gradient)):
        with pytest.raises(ValueError, match=f"there is a method '{name}' already: onnx_attribution.methods"):
            register(name)(theirs)
        assert registered()[name] is held


def test_a_module_that_is_read_again_registers_its_methods_again() -> None:
    try:
        first, second = (register("made")(method_with("value", int, 1)) for _ in range(2))
        assert registered()["made"] is second is not first
        with pytest.raises(InvalidArgument, match="Made is not registered"):
            make(first())
    finally:
        forget("made")


def test_a_class_below_a_method_is_not_that_method() -> None:
    for given in ({}, {"steps": 8}):
        with pytest.raises(InvalidArgument, match="Undecorated is not registered itself: put @register"):
            make(Undecorated(), given)
        with pytest.raises(InvalidArgument, match="Undecorated is not registered"):
            AttributionRequest("m", {}, Undecorated(), **given)  # type: ignore[arg-type]


def test_a_method_with_slots_is_one_as_any_other() -> None:
    @register("made")
    @dataclass(frozen=True, slots=True)
    class Slotted(Method):
        """A dataclass that is made twice."""

        Scale: float = bounded(1.0, help="A number.")

    try:
        assert AttributionRequest("m", {}, "made", Scale=2) == AttributionRequest("m", {}, Slotted(2.0))
    finally:
        forget("made")


@pytest.fixture
def arrays() -> Iterator[type]:
    yield register("made")(method_with("maps", Mapping[str, NDArray[np.generic]], {"x": np.ones(2)}))
    forget("made")


def test_a_dict_is_a_default_as_any_other(arrays: type) -> None:
    first, second = arrays(), arrays()
    assert first.maps.keys() == {"x"}
    assert first.maps is not second.maps
    empty = method_with("maps", Mapping[str, NDArray[np.generic]], {})
    assert parameters_of(empty)[0].default == {}
