"""Recipes: what they may be made of, and what is said where one of somebody else fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from onnx_attribution import methods
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import IntegratedGradients, Method, NeuronIG, bounded, register
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.recipe import (
    AtInput,
    Ends,
    Groups,
    Path,
    Recipe,
    contribution,
    failures,
    infos,
    recipe,
    recipe_of,
)
from onnx_attribution.values import AttributionRequest
from tests.methods.toys import model

X = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)
CUBES = model(
    "(float[N,2] x) => (float[N,1] y) { h = Mul(x, x) c = Mul(h, x) y = ReduceSum(c, one) }",
    one=np.array([1]),
)


def path(steps: int = 4, **given: Any) -> Path:
    return Path(given.pop("quadrature", "trapezoid"), steps, 64, None, **given)


def squares(gradient: Any, _: Any) -> Any:
    return gradient**2


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Recipe(path(conductance=True), contribution), "leave reduce out"),
        (lambda: Recipe(Groups({}, {}, {}), squares, layer_is_source=True), "leave reduce out"),
        (lambda: Recipe(Ends(), squares), "multiplier or contribution between Ends"),
        (lambda: Recipe(path()), "state layer_is_source=True"),
        (lambda: Recipe(Groups({}, {}, {})), "state layer_is_source=True"),
        (lambda: Recipe(path(0), layer_is_source=True), "at least 1 step"),
        (lambda: Recipe(path(quadrature="simpson"), layer_is_source=True), "a quadrature that is known"),
    ],
)
def test_a_recipe_that_would_be_ignored_in_part_is_refused(made: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made()


@contextmanager
def known(made: Callable[[], Any], name: str = "theirs") -> Iterator[None]:
    """A method of this recipe, as long as it lasts."""

    @register(name)
    @dataclass(frozen=True)
    class Theirs(Method):
        """A method of somebody else."""

        steps: int = bounded(4, help="Steps.")

    @recipe(Theirs)
    def theirs(method: Theirs) -> Any:
        return made()

    try:
        yield
    finally:
        methods.forget(name)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("cubes", CUBES)
        yield made


def test_reduce_gets_the_mean_gradient_and_the_difference_along_a_path(engine: Engine) -> None:
    low = np.full((2, 2), 0.25, np.float32)
    with known(lambda: Recipe(path(256), lambda mean, change: mean**2 + change, layer_is_source=True)):
        answer = engine.attribute(AttributionRequest("cubes", {"x": X}, "theirs", baselines={"x": low}))
    x = X.astype(np.float64)
    mean = x**2 + 0.25 * x + 0.25**2  # of 3t² from x' to x
    found = np.asarray(answer.layers["x"].values, np.float64)
    np.testing.assert_allclose(found, mean**2 + x - 0.25, rtol=1e-3)


def test_reduce_gets_the_activation_of_a_hidden_layer_at_the_input(engine: Engine) -> None:
    with known(lambda: Recipe(AtInput(), lambda gradient, activation: activation - gradient)):
        answer = engine.attribute(AttributionRequest("cubes", {"x": X}, "theirs", ["h"]))
    found = np.asarray(answer.layers["h"].values, np.float64)
    np.testing.assert_allclose(found, X.astype(np.float64) ** 2 - X, rtol=1e-6)


def fails(*_: Any) -> Any:
    raise ZeroDivisionError("by nothing")


def positive(gradient: Any, _: Any) -> Any:
    return gradient > 0


def turned(gradient: Any, _: Any) -> Any:
    return gradient * 1j


BROKEN: Mapping[str, tuple[Callable[[], Any], str]] = {
    "raises": (fails, "its recipe raises ZeroDivisionError: by nothing"),
    "is none": (lambda: None, "its recipe raises TypeError: NoneType is no Recipe"),
    "has no steps": (
        lambda: Recipe(path(0), layer_is_source=True),
        "its recipe raises ValueError: a path has",
    ),
    "reduces with an error": (lambda: Recipe(AtInput(), fails), "the reduce of its recipe raises ZeroDiv"),
    "sums": (lambda: Recipe(AtInput(), lambda g, _: g.sum(1)), r"gives float64 of shape \[2\]; .* \[2, 2\]"),
    "is true or false": (lambda: Recipe(AtInput(), positive), "gives bool of shape"),
    "is complex": (lambda: Recipe(path(), turned, layer_is_source=True), "gives complex128"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_recipe_that_fails_is_named_with_its_method(engine: Engine, case: str) -> None:
    made, words = BROKEN[case]
    with (
        known(made),
        pytest.raises(InvalidArgument, match=f"the method 'theirs'.*{words}|reduce.*'theirs' {words}"),
    ):
        engine.attribute(AttributionRequest("cubes", {"x": X}, "theirs"))


def test_a_recipe_that_fails_stops_no_other_method(engine: Engine) -> None:
    before = [one.name for one in infos()]
    with known(fails):
        assert [one.name for one in engine.methods()] == before
        assert "the method 'theirs' cannot be evaluated: its recipe raises ZeroDivisionError" in failures()
    assert failures() == ""


def test_only_a_class_that_is_registered_itself_has_a_recipe() -> None:
    class Mine(IntegratedGradients):
        """One that inherits its name."""

    with pytest.raises(ValueError, match="Mine is not registered"):
        recipe(Mine)
    assert isinstance(recipe_of(IntegratedGradients()).at, Path)


def test_a_method_that_is_forgotten_leaves_no_recipe_to_its_successor() -> None:
    with known(lambda: Recipe(AtInput())):
        recipe_of(methods.make("theirs"))

    @register("theirs")
    @dataclass(frozen=True)
    class Successor(Method):
        """Another method of that name."""

    try:
        with pytest.raises(InvalidArgument, match="'theirs' has no recipe here"):
            recipe_of(Successor())
    finally:
        methods.forget("theirs")


def test_a_tolerance_doubles_the_steps_to_1024_or_what_it_began_with() -> None:
    for steps, most, last in ((8, None, 1024), (4096, None, 4096), (8, 99, 99)):
        at = recipe_of(NeuronIG(steps, 0.1, most)).at
        assert isinstance(at, Path)
        assert at.max_steps == last
