"""Methods declare whether their attributions are products with the layer's values, or their differences to the
baseline: by their definitions these vanish where both are 0, and others do not."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnx_attribution.client.audit.metrics.faithfulness import Factor, factor_of
from onnx_attribution.methods import Custom, Method, MethodInfo, SmoothGrad, make, registered
from onnx_attribution.server.engine.methods import DRIVERS
from onnx_attribution.server.engine.recipe import infos
from tests.definitions.network import HIDDEN, SOURCE, Floats, drawn

assert DRIVERS  # which fill the table of recipes
KNOWN = {one.name: one for one in infos()}
NAMES = sorted(name for name, cls in registered().items() if cls.__module__.startswith("onnx_attribution."))
NOISE = {"smoothgrad_sq": {"stdev": 0.5}, "smoothgrad": {"stdev": 0.5}, "vargrad": {"stdev": 0.5}}
"""By default a share of the input's range, which is 0 here."""
NEAR = 1e-9
"""How far the baseline is from 0: a secant needs two ends."""


def at_nothing(name: str, baseline: float = NEAR, **parameters: Any) -> Floats:
    """What the definition of a method says of a layer of zeros, whose baseline is as good as that too, or `baseline`
    times drawn numbers; 0 for what is as small as their difference."""
    own: Any = importlib.import_module(f"tests.definitions.{name}")
    parameters = {**getattr(own, "GIVEN", {}), **NOISE.get(name, {}), **parameters}
    net, x, _ = drawn(2)
    (layer, *_) = getattr(own, "LAYERS", (SOURCE,))
    if layer not in (SOURCE, HIDDEN):  # a map of the convolution's positions, all of which are cut off
        net = replace(net, b1=-net.b1)
    zero = np.zeros_like(x)
    assert np.abs(net.gradient_from(HIDDEN, net.hidden(zero))).sum() > 0.1
    found = np.asarray(own.attributions(net, layer, zero, baseline * x, **parameters))
    return np.where(np.abs(found) < 1e3 * NEAR, 0, found)


@pytest.mark.parametrize("name", NAMES)
def test_attributions_are_0_where_the_layer_is_if_the_method_says_that_they_are_multiplied(name: str) -> None:
    assert at_nothing(name).any() != KNOWN[name].multiplied_by_inputs


@pytest.mark.parametrize("name", [name for name in NAMES if KNOWN[name].multiplied_by_inputs])
def test_a_product_with_the_values_is_0_whatever_the_baseline_and_one_with_the_difference_is_not(
    name: str,
) -> None:
    wanted: Factor = "difference" if at_nothing(name, baseline=1.0).any() else "value"
    assert factor_of(name, infos()) == wanted


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "multiply_by_inputs" in make(name).parameters() and name not in NOISE]
)
def test_the_parameter_takes_the_factor_away(name: str) -> None:
    assert factor_of(name, infos()) != "none"
    assert factor_of(make(name, {"multiply_by_inputs": False}), infos()) == "none"
    assert at_nothing(name, multiply_by_inputs=False).any()


@pytest.mark.parametrize(
    ("of", "wanted"),
    [
        ("gradient", "none"),
        ("gradient_x_activation", "value"),
        ("gradient_x_activation(multiply_by_inputs=false)", "none"),
        ("lrp", "value"),
        ("grad_cam(sign=positive)", "value"),
        ("guided_backprop", "none"),
        ("fb_trace(form=positive)", "value"),
        ("integrated_gradients", "difference"),
    ],
)
def test_a_noisy_method_is_as_the_one_inside_of_it(of: str, wanted: Factor) -> None:
    assert factor_of(SmoothGrad(of=of), infos()) == wanted


def test_of_a_method_that_is_known_by_its_name_the_server_says_it() -> None:
    mine = [MethodInfo("mine", "", "", multiplied_by_inputs=True)]
    asked: list[tuple[Method, Factor]] = [
        (Custom("mine"), "value"),
        (Custom("mine", {"multiply_by_inputs": False}), "none"),
        (Custom("other"), "none"),
        (Custom("other", {"multiply_by_inputs": True}), "difference"),
    ]
    assert [factor_of(method, mine) for method, _ in asked] == [wanted for _, wanted in asked]
