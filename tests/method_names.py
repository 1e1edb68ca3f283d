"""The names of the methods by the facts of their recipes."""

from __future__ import annotations

import typing
from collections.abc import Callable

from onnx_attribution.methods import MethodInfo, NearZero, Quadrature, registered
from onnx_attribution.server.engine.methods import DRIVERS
from onnx_attribution.server.engine.recipe import infos

assert DRIVERS  # which fill the table of recipes


def _where(holds: Callable[[MethodInfo], bool]) -> tuple[str, ...]:
    return tuple(one.name for one in infos() if holds(one))


def _has(one: MethodInfo, parameter: str) -> bool:
    return any(own.name == parameter for own in one.parameters)


MAP_METHODS = frozenset(_where(lambda one: _has(one, "channel_axis")))
"""Those that make maps of layers with positions."""
METHODS = _where(
    lambda one: (
        not _has(one, "neuron")
        and one.name not in MAP_METHODS | {"lrp", "smoothgrad_sq", "vargrad"}
        and one.sums_to != "F(x)"
    )
)
"""Those that need nothing but a request about any layer; of three that evaluate the same rows one. Not lrp, which has
no rule for some operators."""
PATH_METHODS = frozenset(_where(lambda one: bool(one.sums_to) and _has(one, "tolerance")))
GRADIENT_METHODS = frozenset(_where(lambda one: not one.needs_reference)) & {
    *METHODS,
    "smoothgrad_sq",
    "vargrad",
}
DRAWN_METHODS = frozenset(_where(lambda one: _has(one, "draws")))
SUMMING_METHODS = frozenset(_where(lambda one: one.sums_to == "F(x) - F(x')"))
TABLE_METHODS = frozenset(
    name for name, cls in registered().items() if cls.__module__ == "onnx_attribution.methods.relevance"
)
"""Those that carry something else than the gradient back, by a table of rules."""
FIXED_METHODS = tuple(
    name
    for name in METHODS
    if name not in DRAWN_METHODS | TABLE_METHODS | {"layer_activation", "internal_influence", "kernel_shap"}
)
"""Those whose numbers of small models are known: gradients, differences of the target, and what sums to them."""
SOURCE_METHODS = frozenset(_where(lambda one: one.layer_is_source))
DEEPLIFT_METHODS = SUMMING_METHODS - frozenset(_where(lambda one: one.error_estimate))
QUADRATURES: tuple[Quadrature, ...] = typing.get_args(Quadrature)
NEAR_ZERO: tuple[NearZero, ...] = typing.get_args(NearZero)
