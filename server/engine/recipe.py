"""Recipes: how an engine evaluates a method. Code outside asks a recipe for its facts, not a method for its name.

@recipe(SquaredGradient)
def squared_gradient(method: SquaredGradient) -> Recipe:
    return Recipe(AtInput(), reduce=lambda gradient, activation: method.factor * gradient**2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from onnx_attribution import methods
from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.graph_tools.operators import VJP, Held, RuleTable
from onnx_attribution.graph_tools.walk.reveal_nodes import Where
from onnx_attribution.methods import Custom, Method, MethodInfo, NearZero, Quadrature, Upsample
from onnx_attribution.register import method_named
from onnx_attribution.values import Array

Floats = NDArray[np.float64]
Reduce = Callable[[Floats, Floats], Floats]
"""From what the walk back gives and what it belongs to, to the attributions; each `[samples, *unit]` in float64.

At the input it gets the gradient and the layer's activation; along a path the mean gradient and the source's x - x',
once for all steps and once for half of them, which the error estimate compares. Between ends it is `multiplier` or
`contribution`, since the program multiplies. Groups give the effects themselves and a conductance adds up its products:
there is nothing to choose.
"""


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
class Biases:
    """Evaluated at x: terms that sum to F, of each source its gradient times its values, and of each tensor to which a
    bias is added its gradient times that.

    `mapped`: the terms become a map of each source, each brought to a range of 1 where it is `normalised`, and to the
    size of the source; else they are the answer. `plain`: the gradient in place of the product with a constant.
    """

    mapped: bool = False
    plain: bool = False
    normalised: Literal[False, "range", "magnitude"] = False
    channel_axis: int = 1
    upsample: Upsample = "linear_corners"


@dataclass(frozen=True)
class Path:
    """Evaluated on the line from x' to x, with an error estimate: the mean gradient, which belongs to the difference
    x - x' of a source; with `conductance` the sum of gradients times the differences of a layer's activations; with
    `apart` the mean gradient of layers between source and target, which belongs to nothing. `through`: of the ways
    through a neuron, a layer by its name and the index of one sample."""

    quadrature: Quadrature
    steps: int
    max_steps: int
    tolerance: float | None
    conductance: bool = False
    apart: bool = False
    through: tuple[str, tuple[int, ...]] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.max_steps < 1 or self.quadrature not in get_args(Quadrature):
            raise ValueError(f"a path has at least 1 step and a quadrature that is known, unlike {self}")


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
class Coalitions(Groups):
    """Evaluated with coalitions of groups at x and all others at their baseline: so many, or (None) as many as the
    groups need, drawn by a seed where they are not all; with an error estimate."""

    coalitions: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Values:
    """Evaluated at x, forward only: the layer's values. There is no target unless one is named."""


@dataclass(frozen=True)
class Pooled:
    """What is reduced is terms of the channels of a layer, of which maps of its positions are made.

    `channel_axis` counts with the axis of the samples in front; `reduce` is given channels first, `[samples, channels,
    *positions]`. Then the channels are added up (`summed`), what is negative is left out (`relu`), and the map is
    brought to the positions of the source (`upsample`). A layer that is not named is the last one with positions.
    """

    channel_axis: int = 1
    summed: bool = True
    relu: bool = False
    upsample: Upsample = "none"


@dataclass(frozen=True)
class Product:
    """Evaluated at x as two recipes: what `of` makes of the sources, times the map that `by` makes of a layer, at the
    size of each source."""

    of: Recipe
    by: Recipe
    upsample: Upsample = "nearest"


@dataclass(frozen=True)
class Trace:
    """Evaluated at x: shares of what is explained, of which those below `tau` are 0; None: below what keeps the share
    `budget` of the positions of the sources.

    `top`: so many units of each layer are named, with the edges between them.
    `signed`: of each layer's gradient times activation; else of a mass that is sent back by positive terms, and where
    `absolute` (None: of samples with a number below 0) by |x w| at the sources.
    """

    signed: bool
    tau: float | None
    budget: float
    absolute: bool | None
    channel_axis: int | None
    top: int = 0


Reduction = Literal["mean", "mean_square", "variance"]


@dataclass(frozen=True)
class Draws:
    """Evaluated at random draws: another recipe at x with normal noise at its sources, and over the draws the mean of
    the attributions, of their squares, or their variance; with an error estimate.

    The noise has the standard deviation `stdev`, or `noise_level` times the range of each sample's source. `along`: at
    a random point between a reference, drawn from those of the request, and x with its noise. `absolute`: of the
    absolute attributions. Draw k is the same for every sample, target and run size.
    """

    of: Recipe
    count: int
    seed: int
    stdev: float | None = None
    noise_level: float = 0.0
    reduction: Reduction = "mean"
    absolute: bool = False
    along: bool = False

    def __post_init__(self) -> None:
        if self.count < 1 or isinstance(self.of.at, Draws):
            raise ValueError("there is at least one draw, of a recipe that draws nothing itself")


@dataclass(frozen=True)
class Recipe:
    """Where a method is evaluated, how that is reduced to attributions, and what follows from it.

    `sums_to_change`: at a cut the attributions sum to F(x) - F(x'). `sums_to_value`: those of all layers sum to F(x).
    `layer_is_source`: a layer that is asked for is the source; so it is of Groups, and of a Path without conductance.
    `table` holds the rules of the walk back. `pooled`: maps are made of the channels of a layer, AtInput only.
    `alone`: a run is of one sample. `relevance`: what is carried back begins with the target's value, and is the
    attribution; it sums to that, less what biases take. `names`: nodes, tensors or operators that the method speaks of.
    `rectifies`: it is the gradient where no rectifier is on the way. `multiplied`: attributions are products with the
    values of their layer, or with their differences to the baseline, as those of the reduce `contribution` are.
    `partial`: rules that are no relevance may leave a layer nothing.

    Raises:
        ValueError: a `reduce` that could have no effect, or a layer apart from the source where there is none.
    """

    at: AtInput | Biases | Path | Ends | Groups | Product | Trace | Values | Draws
    reduce: Reduce = multiplier
    sums_to_change: bool = False
    sums_to_value: bool = False
    layer_is_source: bool = False
    table: RuleTable = field(default_factory=lambda: VJP)
    pooled: Pooled | None = None
    alone: bool = False
    relevance: bool = False
    names: tuple[str, ...] = ()
    rectifies: bool = False
    multiplied: bool = False
    partial: bool = False

    def __post_init__(self) -> None:
        at = self.at
        hidden = isinstance(at, Path) and (at.conductance or at.apart)
        fixed = hidden or isinstance(at, Groups | Product | Trace | Values | Draws)
        if fixed and self.reduce is not multiplier:
            raise ValueError(
                f"{type(at).__name__}{' with conductance or apart' * hidden} gives attributions as they are: leave "
                "reduce out"
            )
        if self.pooled is not None and not isinstance(at, AtInput):
            raise ValueError("maps are made of what is evaluated AtInput")
        if isinstance(at, Ends) and self.reduce not in (multiplier, contribution):
            raise ValueError("reduce is multiplier or contribution between Ends")
        if isinstance(at, Groups | Path) and not self.layer_is_source and not hidden:
            raise ValueError(
                "Groups and a Path without conductance are of their source: state layer_is_source=True"
            )

    def reduced(self, name: str, gradient: Floats, belongs_to: Floats) -> Floats:
        """The attributions. Raises: InvalidArgument that names the method, whose `reduce` gives none."""
        try:
            found = np.asarray(self.reduce(gradient, belongs_to))
        except Exception as error:
            raise _failed(name, "the reduce of its recipe", error) from error
        if found.shape != gradient.shape or found.dtype.kind != "f":
            raise InvalidArgument(
                f"the reduce of the method {name!r} gives {found.dtype.name} of shape {list(found.shape)}; "
                f"attributions are floats of shape {list(gradient.shape)}",
                method=name,
            )
        return found.astype(np.float64, copy=False)

    @property
    def rules(self) -> Held:
        """The table as a part of the keys of sessions."""
        return Held(self.table)

    @property
    def sums_to(self) -> str:
        """What the attributions sum to, in words: those of a cut, or of all layers; "" if to nothing in general."""
        if self.sums_to_change:
            return "F(x) - F(x')"
        if self.relevance:
            return "F(x), less what biases take"
        return "F(x)" if self.sums_to_value else ""

    @property
    def inner(self) -> Recipe:
        """What is evaluated: at each draw, where there are draws."""
        return self.at.of if isinstance(self.at, Draws) else self

    @property
    def mapped(self) -> Pooled | None:
        """How a map of a layer is made of its channels, where one is."""
        inner = self.inner
        return inner.at.by.pooled if isinstance(inner.at, Product) else inner.pooled

    @property
    def multiplied_by_inputs(self) -> bool:
        """Whether attributions are products with the values of their layer, or their differences to the baseline."""
        return self.multiplied or self.inner.multiplied or self.inner.reduce is contribution

    @property
    def needs_reference(self) -> bool:
        return not isinstance(self.inner.at, AtInput | Biases | Product | Trace | Values) or self._along

    @property
    def needs_derivatives(self) -> bool:
        return not isinstance(self.inner.at, Groups | Values)

    @property
    def needs_target(self) -> bool:
        """Whether there is no answer without a target."""
        return not isinstance(self.inner.at, Values)

    @property
    def takes_differences(self) -> bool:
        """Whether it takes differences at its sources, whose numbers must be finite for that."""
        return isinstance(self.inner.at, Path | Ends) or self._along

    @property
    def takes_gradients(self) -> bool:
        """Whether it takes gradients, which see no step and no rounding."""
        return isinstance(self.inner.at, AtInput | Biases | Path | Product | Trace)

    @property
    def error_estimate(self) -> bool:
        return isinstance(self.at, Path | Draws | Coalitions)

    @property
    def _along(self) -> bool:
        return isinstance(self.at, Draws) and self.at.along


Kind = TypeVar("Kind", bound=Method)
_recipes: WeakKeyDictionary[type[Method], Callable[..., Recipe]] = WeakKeyDictionary()


def recipe(cls: type[Kind]) -> Callable[[Callable[[Kind], Recipe]], Callable[[Kind], Recipe]]:
    """Says that a function makes the recipe of the values of a method.

    Raises:
        ValueError: the class is not registered.
    """
    methods.require_registered(cls)

    def keep(make: Callable[[Kind], Recipe]) -> Callable[[Kind], Recipe]:
        _recipes[cls] = make
        return make

    return keep


def recipe_of(method: Method) -> Recipe:
    """The recipe of a method.

    Raises:
        InvalidArgument: the method is not known here, or has no recipe, or that fails; or a parameter of one known by
            its name only.
    """
    if isinstance(method, Custom):
        method_named(method.name)
        method = methods.make(method.name, method.parameters())
    made = _recipes.get(type(methods.make(method)))
    if made is None:
        raise InvalidArgument(f"the method {method.name!r} has no recipe here", method=method.name)
    try:
        found = made(method)
        if not isinstance(found, Recipe):
            raise TypeError(f"{type(found).__name__} is no Recipe")
    except AttributionError:
        raise
    except Exception as error:  # of somebody else's code
        raise _failed(method.name, "its recipe", error) from error
    return found


def _failed(name: str, part: str, error: Exception) -> InvalidArgument:
    """The refusal of a method whose own code fails."""
    return InvalidArgument(
        f"the method {name!r} cannot be evaluated: {part} raises {type(error).__name__}: {error}", method=name
    )


def infos() -> list[MethodInfo]:
    """The methods that have a recipe, with its facts, as their default parameters have them."""
    return [
        methods.info_of(
            cls,
            needs_reference=found.needs_reference,
            needs_derivatives=found.needs_derivatives,
            layer_is_source=found.layer_is_source,
            sums_to=found.sums_to,
            error_estimate=found.error_estimate,
            multiplied_by_inputs=found.multiplied_by_inputs,
        )
        for cls, found in _default_recipes()
    ]


def _default_recipes() -> Iterator[tuple[type[Method], Recipe]]:
    """The methods that have a recipe with their defaults; `failures` says what is wrong with the others."""
    for cls in methods.registered().values():
        with suppress(InvalidArgument):
            yield cls, recipe_of(cls())


def failures() -> str:
    """In words what is wrong with methods of others: what could not be loaded, and recipes that fail."""
    found = [methods.failures()]
    for cls in methods.registered().values():
        try:
            recipe_of(cls())
        except InvalidArgument as error:
            found.append(error.message)
    return "; ".join(filter(None, found))


def without_derivatives() -> str:
    """The methods that explain a target without a derivative, in words."""
    return " or ".join(
        cls.name for cls, found in _default_recipes() if found.needs_target and not found.needs_derivatives
    )


def without_differences() -> str:
    """The methods that take no differences at their sources, in words."""
    return " or ".join(cls.name for cls, found in _default_recipes() if not found.takes_differences)
