"""The methods, each a value that carries its own parameters: what client, wire and command line read of them.

    NeuronIG(steps=256, tolerance=0.01)

How an engine evaluates a method is its recipe (`onnx_attribution.server.engine.recipe`). A method of your own is a
dataclass and a recipe, registered from anywhere; an entry point of the group `onnx_attribution.methods` names the
module that holds them. Needs numpy only.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.parameters import EMPTY, Parameter, alike, bounded, parameters_of, shown

__all__ = [
    "DEFAULT",
    "EMPTY",
    "Custom",
    "DeepLiftGenomicsDefault",
    "DeepLiftRescale",
    "DeepLiftRevealCancel",
    "ExpectedGradients",
    "Gradient",
    "GradientXActivation",
    "IntegratedGradients",
    "InternalInfluence",
    "LayerActivation",
    "Method",
    "MethodInfo",
    "NearZero",
    "NeuronConductance",
    "NeuronIG",
    "Occlusion",
    "Parameter",
    "Quadrature",
    "SmoothGrad",
    "SmoothGradSquared",
    "VarGrad",
    "bounded",
    "failures",
    "forget",
    "info_of",
    "make",
    "register",
    "registered",
    "require_registered",
]

ENTRY_POINTS = "onnx_attribution.methods"
MAX_STEPS = 16384
MAX_DRAWS = 1 << 20
MAX_SEED = 1_000_000_000
DOUBLED_STEPS = 1024
"""Where the refinement for a tolerance ends by default, unless it begins above."""
FIXED_STEPS = 64
"""The steps of a fixed quadrature that are not named."""
TOLERANCE = 0.01
"""The tolerance of the quadrature auto that is not named."""
TAKEN = frozenset(
    [
        "baselines",
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
Quadrature = Literal[
    "auto",
    "trapezoid",
    "left",
    "right",
    "riemann_left",
    "riemann_right",
    "riemann_middle",
    "riemann_trapezoid",
    "gausslegendre",
]
NearZero = Literal["midpoint", "input", "reference"]


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
    attributions of a cut sum to, "" where they need not sum to anything.
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


def info_of(cls: type[Method], **facts: Any) -> MethodInfo:
    """What a method's own class says of it, and facts of its recipe."""
    text = inspect.cleandoc(cls.__doc__ or "")
    summary = " ".join(text.partition("\n\n")[0].split())
    return MethodInfo(cls.name, summary, text, parameters_of(cls), cls.paper, cls.captum, **facts)


# --- what there is

MULTIPLY_BY_INPUTS = "Multiply by the difference to the baseline, or by the activation."
STEPS = (
    "Segments of the path, or Captum's n_steps with its quadratures; without, as many as the tolerance needs, "
    f"or {FIXED_STEPS} of a quadrature that is named."
)
QUADRATURE = (
    "Where the steps lie and what they weigh; auto lays them where the path needs them, or makes a trapezoid "
    "of steps that are named; from riemann_left on Captum's."
)
DRAWN = "How many rows are drawn for each sample; Captum's n_samples and nt_samples."
GROUPS = (
    "By source, integers from 0 that broadcast to one sample: elements of one number are replaced together, across "
    "sources too."
)
WINDOWS = "By source, the sizes of a window that moves over the last axes; other axes are taken whole."
NEURON = (
    "By the name of its layer, the index of the neuron in one sample; with fewer numbers than axes all neurons whose "
    "index begins so, as those of a channel."
)
STRIDES = "By source, how far the window moves; by default its size, so that windows do not overlap."


@register("gradient", captum="Saliency (its absolute value), NeuronGradient", paper="arXiv 1312.6034")
@dataclass(frozen=True)
class Gradient(Method):
    """The derivative of the target with respect to the layer, at the input."""

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})


@register(
    "gradient_x_activation", captum="InputXGradient, LayerGradientXActivation", paper="arXiv 1605.01713"
)
@dataclass(frozen=True)
class GradientXActivation(Method):
    """The gradient times the layer's values."""

    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")


@dataclass(frozen=True)
class _AlongPath(Method):
    """The parameters of methods that add up gradients on the line from the baseline to the input."""

    steps: int | None = bounded(
        None,
        at_least=1,
        at_most=MAX_STEPS,
        accuracy=True,
        help=STEPS,
    )
    tolerance: float | None = bounded(
        None,
        above=0,
        accuracy=True,
        help="Refine until the estimated L1 error is at most this part of the attributions' L1 norm; without, "
        f"{TOLERANCE} of the quadrature auto, and steps that are named are not refined.",
    )
    max_steps: int | None = bounded(
        None,
        at_least=1,
        at_most=MAX_STEPS,
        accuracy=True,
        help=f"Where the refinement ends; by default at {DOUBLED_STEPS}, or at steps where that is more.",
    )
    quadrature: Quadrature = bounded(
        "auto",
        accuracy=True,
        help=QUADRATURE,
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if (
            self.tolerance is not None
            and self.max_steps is not None
            and self.steps is not None
            and self.max_steps < self.steps
        ):
            yield "max_steps", f"max_steps is {self.max_steps}, below steps, {self.steps}"


@dataclass(frozen=True)
class _MeanAlongPath(_AlongPath):
    """The same of mean gradients."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from super().contradictions()
        if self.quadrature == "riemann_trapezoid" and self.steps == 1:  # its only node would be the baseline
            yield "steps", "riemann_trapezoid needs at least 2 steps"


@register(
    "integrated_gradients",
    captum="IntegratedGradients; LayerIntegratedGradients, whose source is the layer; NeuronIntegratedGradients, "
    "whose target is a neuron",
    paper="arXiv 1703.01365",
)
@dataclass(frozen=True)
class IntegratedGradients(_MeanAlongPath):
    """The mean gradient on the line from the baseline to the source, times the difference. Sums to F(x) - F(x')."""

    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")


@register("neuron_ig", captum="LayerConductance", paper="arXiv 1807.09946")
@dataclass(frozen=True)
class NeuronIG(_AlongPath):
    """Neuron Integrated Gradients, the total conductance of a hidden layer: gradients times the differences of its
    activations along the path. Sums to F(x) - F(x') at a cut."""


@dataclass(frozen=True)
class _DeepLift(Method):
    """The parameters of all rules of DeepLIFT."""

    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")
    near_zero: NearZero = bounded(
        "midpoint",
        help="Where the gradient is taken that stands for a secant whose ends are too close for a quotient: at the "
        "midpoint, at the input as Captum does, or at the reference as kundajelab/deeplift does.",
    )


@register(
    "deeplift_rescale",
    captum="DeepLift, LayerDeepLift, NeuronDeepLift; DeepLiftShap with References",
    paper="arXiv 1704.02685",
)
@dataclass(frozen=True)
class DeepLiftRescale(_DeepLift):
    """DeepLIFT with the Rescale rule: secants in place of gradients. Sums to F(x) - F(x') at a cut."""


@register("deeplift_reveal_cancel", paper="arXiv 1704.02685, section 3.5.3")
@dataclass(frozen=True)
class DeepLiftRevealCancel(_DeepLift):
    """DeepLIFT with the RevealCancel rule wherever a nonlinearity follows something linear: the positive and the
    negative part of each change apart. Sums to F(x) - F(x') at a cut."""


@register(
    "deeplift_genomics_default",
    paper="github.com/kundajelab/deeplift, NonlinearMxtsMode.DeepLIFT_GenomicsDefault",
)
@dataclass(frozen=True)
class DeepLiftGenomicsDefault(_DeepLift):
    """DeepLIFT with RevealCancel after dense layers and Rescale elsewhere. Sums to F(x) - F(x') at a cut."""


@register(
    "occlusion",
    captum="FeatureAblation (groups are its feature_mask); Occlusion with windows and strides",
    paper="arXiv 1311.2901",
)
@dataclass(frozen=True, eq=False)
class Occlusion(Method):
    """By how much the target falls where a group of features is at its baseline; of any model that runs.

    A source with neither groups nor a window has every element as its own group. Sources may hold integers, text and
    truth values too (baselines: 0, "" and False), and are by default those that groups and windows name, else the
    inputs of which each sample has its own.
    """

    groups: Mapping[str, NDArray[np.generic]] = bounded(EMPTY, help=GROUPS)
    windows: Mapping[str, Sequence[int]] = bounded(EMPTY, option="window", help=WINDOWS)
    strides: Mapping[str, Sequence[int]] = bounded(EMPTY, option="stride", help=STRIDES)


@register(
    "layer_activation", captum="LayerActivation", paper="github.com/meta-pytorch/captum, LayerActivation"
)
@dataclass(frozen=True)
class LayerActivation(Method):
    """The layer's values at the input; of any model that runs.

    It needs no target: where none is named, the answer speaks of the sum of the first layer.
    """

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})


@register("internal_influence", captum="InternalInfluence", paper="arXiv 1802.03788")
@dataclass(frozen=True)
class InternalInfluence(_MeanAlongPath):
    """The mean gradient of a hidden layer on the line from the baseline to the source."""

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})


@register("neuron_conductance", captum="NeuronConductance", paper="arXiv 1805.12233")
@dataclass(frozen=True, eq=False)
class NeuronConductance(_MeanAlongPath):
    """The conductance of one neuron by input: the part of integrated gradients that goes through the neuron.

    The mean over the line from the baseline to the source of the target's derivative by the neuron times the neuron's
    gradient, times the difference of the source. Summed over the neurons of a cut it is integrated_gradients, and
    summed over the source the neuron's neuron_ig.
    """

    neuron: Mapping[str, Sequence[int]] = bounded(EMPTY, help=NEURON)
    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from super().contradictions()
        if len(self.neuron) > 1:
            yield "neuron", f"neuron is of one layer, not of {', '.join(map(repr, self.neuron))}"


@dataclass(frozen=True)
class _Drawn(Method):
    """The parameters of methods that are means over random draws."""

    draws: int = bounded(
        50,
        at_least=1,
        at_most=MAX_DRAWS,
        accuracy=True,
        help=DRAWN,
    )
    seed: int = bounded(
        0,
        at_least=0,
        at_most=MAX_SEED,
        help="The same seed gives the same draws, for every sample and target, whatever shares a run.",
    )


@register(
    "expected_gradients",
    captum="GradientShap, LayerGradientShap, NeuronGradientShap",
    paper="arXiv 1906.10670",
)
@dataclass(frozen=True)
class ExpectedGradients(_Drawn):
    """The mean over random points between the references and the input of the gradient times the difference. Sums to
    F(x) less the mean of F over the references, but for what the draws scatter.

    Each draw takes one of the references (a plain baseline is one), a point between it and the input with its noise,
    and the difference of the two. The error estimate is the L1 norm of the standard errors of the mean.
    """

    draws: int = bounded(
        200,
        at_least=1,
        at_most=MAX_DRAWS,
        accuracy=True,
        help=DRAWN,
    )
    stdev: float = bounded(
        0.0,
        at_least=0,
        help="Standard deviation of normal noise that is added to the input, or to the layer that is asked for.",
    )
    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")


@dataclass(frozen=True, eq=False)
class _Noisy(_Drawn):
    """The parameters of methods that take the attributions of another method at the input with noise; from
    `multiply_by_inputs` on they are those of the other method."""

    stdev: float | None = bounded(
        None, at_least=0, help="Standard deviation of the noise, in the unit of the source; Captum's stdevs."
    )
    noise_level: float = bounded(
        0.15,
        at_least=0,
        help="Standard deviation as a share of the range of each sample's source, where stdev is left open.",
    )
    of: str = bounded("gradient", help="The method whose attributions are taken, by its name.")
    absolute: bool = bounded(
        False, help="Take the absolute attributions of each draw, as Captum's Saliency does."
    )
    multiply_by_inputs: bool = bounded(True, help=MULTIPLY_BY_INPUTS, option="multipliers")
    steps: int | None = bounded(None, at_least=1, at_most=MAX_STEPS, accuracy=True, help=STEPS)
    quadrature: Quadrature = bounded("auto", accuracy=True, help=QUADRATURE)
    groups: Mapping[str, NDArray[np.generic]] = bounded(EMPTY, help=GROUPS)
    windows: Mapping[str, Sequence[int]] = bounded(EMPTY, option="window", help=WINDOWS)
    strides: Mapping[str, Sequence[int]] = bounded(EMPTY, option="stride", help=STRIDES)
    neuron: Mapping[str, Sequence[int]] = bounded(EMPTY, help=NEURON)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        given = self._given()
        if self.of != Gradient.name or given:
            try:
                self.inner()
            except InvalidArgument as error:
                yield next(iter(error.violations), "of"), error.message

    def inner(self) -> Method:
        """The method whose attributions are taken. Raises: InvalidArgument: it knows none of the parameters."""
        return make(self.of.replace("-", "_"), self._given())

    def _given(self) -> dict[str, Any]:
        """The parameters of the other method that are not as they are by default."""
        of = ("multiply_by_inputs", "steps", "quadrature", "groups", "windows", "strides", "neuron")
        known = {one.name: one.default for one in parameters_of(type(self)) if one.name in of}
        return {name: value for name in known if not alike(value := getattr(self, name), known[name])}


@register("smoothgrad", captum="NoiseTunnel, nt_type smoothgrad", paper="arXiv 1706.03825")
@dataclass(frozen=True, eq=False)
class SmoothGrad(_Noisy):
    """The mean of the gradient, or of another method's attributions, over noise at the input.

    The noise is normal and added to the sources. The other method is named by `of`; the parameters from
    `multiply_by_inputs` on are its. The error estimate is the L1 norm of the standard errors of the mean.
    """


@register("smoothgrad_sq", captum="NoiseTunnel, nt_type smoothgrad_sq", paper="arXiv 1806.10758")
@dataclass(frozen=True, eq=False)
class SmoothGradSquared(_Noisy):
    """The mean of the square of the gradient, or of another method's attributions, over noise at the input.

    The noise is normal and added to the sources. The other method is named by `of`; the parameters from
    `multiply_by_inputs` on are its. The error estimate is the L1 norm of the standard errors of the mean.
    """


@register("vargrad", captum="NoiseTunnel, nt_type vargrad", paper="arXiv 1810.03307")
@dataclass(frozen=True, eq=False)
class VarGrad(_Noisy):
    """The variance of the gradient, or of another method's attributions, over noise at the input.

    The noise is normal and added to the sources. The other method is named by `of`; the parameters from
    `multiply_by_inputs` on are its. The squares are divided by the number of draws, as Captum does. The error estimate
    is the L1 norm of the standard errors of the variance.
    """


DEFAULT: Method = NeuronIG()
"""What is evaluated where a request names no method."""
