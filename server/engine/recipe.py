"""Recipes: how an engine evaluates a method. Code outside asks a recipe for its facts, not a method for its name.

@recipe(SquaredGradient)
def squared_gradient(method: SquaredGradient) -> Recipe:
    return Recipe(AtInput(), reduce=lambda gradient, activation: method.scale * gradient**2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_attribution import methods
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.walk.reveal_nodes import Where
from onnx_attribution.methods import Custom, Method, MethodInfo, NearZero, Quadrature
from onnx_attribution.values import Array

Floats = NDArray[np.float64]
Reduce = Callable[[Floats, Floats], Floats]
"""From what the walk back gives (a gradient, its mean along the path, a multiplier) and what it belongs to (the
activation; the difference to the baseline) to the attributions, each `[samples, *unit]`."""


def multiplier(gradient: Floats, _: Floats) -> Floats:
    """What the walk back gives, as it comes."""
    return gradient


def contribution(gradient: Floats, belongs_to: Floats) -> Floats:
    """The same times what it belongs to."""
    return gradient * belongs_to


@dataclass(frozen=True)
class AtInput:
    """Evaluated at x: a gradient, which belongs to the activation."""


@dataclass(frozen=True)
class Path:
    """Evaluated on the line from x' to x, with an error estimate: the mean gradient, which belongs to the difference
    x - x' of a source; with `conductance` the sum of gradients times the differences of a layer's activations."""

    quadrature: Quadrature
    steps: int
    max_steps: int
    tolerance: float | None
    conductance: bool = False


@dataclass(frozen=True)
class Ends:
    """Evaluated at x and x' together: DeepLIFT's multipliers, which belong to the difference of a layer's activations.

    `reveal_cancel` says after which linear operators the two parts of a change are told apart.
    """

    near_zero: NearZero = "midpoint"
    reveal_cancel: Where | None = None


@dataclass(frozen=True)
class Groups:
    """Evaluated with each group of features at its baseline: F(x) less F there."""

    groups: Mapping[str, Array]
    windows: Mapping[str, Sequence[int]]
    strides: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Recipe:
    """Where a method is evaluated, how that is reduced to attributions, and what follows from it.

    `sums_to_change`: at a cut the attributions sum to F(x) - F(x'). `layer_is_source`: a layer that is asked for is the
    source. `table` holds the rules of the walk back.
    """

    at: AtInput | Path | Ends | Groups
    reduce: Reduce = multiplier
    sums_to_change: bool = False
    layer_is_source: bool = False
    table: RuleTable = field(default_factory=lambda: VJP)

    @property
    def needs_reference(self) -> bool:
        return not isinstance(self.at, AtInput)

    @property
    def needs_derivatives(self) -> bool:
        return not isinstance(self.at, Groups)

    @property
    def takes_differences(self) -> bool:
        """Whether it takes differences at its sources, whose numbers must be finite for that."""
        return isinstance(self.at, Path | Ends)

    @property
    def takes_gradients(self) -> bool:
        """Whether it takes gradients, which see no step and no rounding."""
        return isinstance(self.at, AtInput | Path)

    @property
    def error_estimate(self) -> bool:
        return isinstance(self.at, Path)


Kind = TypeVar("Kind", bound=Method)
_recipes: dict[str, Callable[..., Recipe]] = {}


def recipe(cls: type[Kind]) -> Callable[[Callable[[Kind], Recipe]], Callable[[Kind], Recipe]]:
    """Says that a function makes the recipe of the values of a method."""

    def keep(make: Callable[[Kind], Recipe]) -> Callable[[Kind], Recipe]:
        _recipes[cls.name] = make
        return make

    return keep


def recipe_of(method: Method) -> Recipe:
    """The recipe of a method.

    Raises:
        InvalidArgument: the method is not known here, or has no recipe; or a parameter of one known by its name only.
    """
    if isinstance(method, Custom):
        methods.method_named(method.name)
        method = methods.make(method.name, method.given)
    if method.name not in _recipes:
        raise InvalidArgument(f"the method {method.name!r} has no recipe here", method=method.name)
    return _recipes[method.name](method)


def infos() -> list[MethodInfo]:
    """The methods that have a recipe, with its facts, as their default parameters have them."""
    return [
        methods.info_of(
            cls,
            needs_reference=found.needs_reference,
            needs_derivatives=found.needs_derivatives,
            layer_is_source=found.layer_is_source,
            sums_to="F(x) - F(x')" if found.sums_to_change else "",
            error_estimate=found.error_estimate,
        )
        for cls, found in _default_recipes()
    ]


def _default_recipes() -> Iterator[tuple[type[Method], Recipe]]:
    known = methods.registered()
    return ((cls, _recipes[name](cls())) for name, cls in known.items() if name in _recipes)


def without_derivatives() -> str:
    """The methods that need no derivative, in words."""
    return " or ".join(cls.name for cls, found in _default_recipes() if not found.needs_derivatives)


def without_differences() -> str:
    """The methods that take no differences at their sources, in words."""
    return " or ".join(cls.name for cls, found in _default_recipes() if not found.takes_differences)
