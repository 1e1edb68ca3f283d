"""The names of the methods by the facts of their recipes."""

from __future__ import annotations

import typing
from collections.abc import Callable

from onnx_attribution.methods import MethodInfo, NearZero, Quadrature
from onnx_attribution.server.engine.methods import DRIVERS
from onnx_attribution.server.engine.recipe import infos

assert DRIVERS  # which fill the table of recipes


def _where(holds: Callable[[MethodInfo], bool]) -> tuple[str, ...]:
    return tuple(one.name for one in infos() if holds(one))


METHODS = _where(lambda one: True)
PATH_METHODS = frozenset(_where(lambda one: one.error_estimate))
GRADIENT_METHODS = frozenset(_where(lambda one: not one.needs_reference))
SOURCE_METHODS = frozenset(_where(lambda one: one.layer_is_source))
DEEPLIFT_METHODS = frozenset(_where(lambda one: bool(one.sums_to) and not one.error_estimate))
QUADRATURES: tuple[Quadrature, ...] = typing.get_args(Quadrature)
NEAR_ZERO: tuple[NearZero, ...] = typing.get_args(NearZero)
