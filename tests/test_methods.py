"""Methods as values: their parameters and bounds, and what is made of a name with parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import (
    Custom,
    DeepLiftRescale,
    IntegratedGradients,
    NeuronIG,
    Occlusion,
    make,
    registered,
)
from onnx_attribution.parameters import parameters_of
from onnx_attribution.values import AttributionRequest

REFUSED: Mapping[str, tuple[Callable[[], object], str]] = {
    "no steps": (lambda: NeuronIG(steps=0), r"steps is 0; it must lie between 1 and 16384"),
    "half a step": (lambda: NeuronIG(steps=1.5), r"steps is 1.5, which is no integer"),  # type: ignore[arg-type]
    "an unknown quadrature": (
        lambda: make("neuron_ig", {"quadrature": "simpson"}),
        r"quadrature is 'simpson'; it may be: auto, trapezoid, left, ",
    ),
    "a tolerance of nothing": (lambda: NeuronIG(tolerance=0.0), r"tolerance is 0.0; it must be above 0"),
    "no number": (lambda: NeuronIG(tolerance=float("nan")), r"tolerance is nan; it must be above 0"),
    "max_steps below steps": (
        lambda: NeuronIG(steps=4, tolerance=0.1, max_steps=2),
        r"max_steps is 2, below steps, 4",
    ),
    "one step of Captum's trapezoid": (
        lambda: IntegratedGradients(steps=1, quadrature="riemann_trapezoid"),
        r"riemann_trapezoid needs at least 2 steps",
    ),
    "a word for a switch": (
        lambda: make("deeplift_rescale", {"multiply_by_inputs": "no"}),
        r"multiply_by_inputs is 'no', which is not True or False",
    ),
    "an array for a dict": (lambda: Occlusion(groups=np.zeros(3)), r"groups maps the name of a source to an"),  # type: ignore[arg-type]
    "a window of halves": (
        lambda: Occlusion(windows={"x": (1.5,)}),  # type: ignore[dict-item]
        r"windows of 'x' is \(1.5,\); it has one integer for each of the last axes",
    ),
    "a parameter of others": (
        lambda: make("gradient", {"near_zero": "input"}),
        r"gradient knows no near_zero; it is a parameter of deeplift_rescale, ",
    ),
    "a parameter of nobody": (
        lambda: make("neuron_ig", {"stepz": 3}),
        r"neuron_ig has no parameter 'stepz'; there are: max_steps, quadrature, steps, tolerance",
    ),
    "a window without an end": (
        lambda: Occlusion(windows={"x": (float("inf"),)}),  # type: ignore[dict-item]
        r"windows of 'x' is \(inf,\); it has one integer for each",
    ),
    "parameters that are no dict": (
        lambda: Custom("theirs", 3),  # type: ignore[arg-type]
        r"a name and a dict of parameters, not 'theirs' and 3",
    ),
    "no method": (lambda: make(3), r"a method is a value of onnx_attribution.methods or its name, not 3"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_method_can_have_is_refused_by_name(case: str) -> None:
    made, words = REFUSED[case]
    with pytest.raises(InvalidArgument, match=words):
        made()


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidArgument) as caught:
        make("neuron_ig", {"steps": 0, "quadrature": "simpson", "tolerance": -1})
    assert list(caught.value.violations) == ["steps", "tolerance", "quadrature"]


def test_a_parameter_of_others_that_asks_for_nothing_is_left_out() -> None:
    others = {
        "steps": 8,
        "tolerance": 0.1,
        "near_zero": "midpoint",
        "groups": {},
        "multiply_by_inputs": False,
    }
    assert make("gradient", others) == make("gradient")
    assert make("deeplift_rescale", {**others, "near_zero": "input"}) == DeepLiftRescale(False, "input")


def test_numbers_of_numpy_are_numbers() -> None:
    made = NeuronIG(steps=np.int64(8), tolerance=np.float32(0.5))  # type: ignore[arg-type]
    assert (made, type(made.steps), type(made.tolerance)) == (NeuronIG(steps=8, tolerance=0.5), int, float)


def test_a_request_takes_a_value_or_a_name_with_parameters() -> None:
    by_name = AttributionRequest("m", {}, "neuron_ig", ["h"], steps=8)
    assert by_name == AttributionRequest("m", {}, NeuronIG(steps=8), ["h"])
    assert by_name.changed(steps=9, layers=()).method == NeuronIG(steps=9)
    assert by_name.changed(method="occlusion").method.name == "occlusion"


def test_a_name_that_is_not_known_here_travels_with_its_parameters() -> None:
    made = make("of_the_server", {"scale": 2})
    assert isinstance(made, Custom)
    assert (made.name, made.parameters()) == ("of_the_server", {"scale": 2})


def test_max_steps_that_are_not_given_leave_room_for_any_steps() -> None:
    made = make(NeuronIG(steps=2000), {"steps": 4000, "tolerance": 0.1})
    assert made == NeuronIG(steps=4000, tolerance=0.1)
    with pytest.raises(InvalidArgument, match="max_steps is 1024, below steps, 4000"):
        NeuronIG(steps=4000, tolerance=0.1, max_steps=1024)


def test_a_parameter_that_changes_nothing_is_read_too() -> None:
    with pytest.raises(InvalidArgument, match="multiply_by_inputs is 'banana', which is not True or False"):
        AttributionRequest("m", {}, "gradient", multiply_by_inputs="banana")


def test_the_arrays_of_a_method_are_its_own() -> None:
    given = np.zeros(3, np.int64)
    made = Occlusion(groups={"x": given})
    given[:] = 7
    assert not made.groups["x"].any()


def test_requests_and_methods_with_arrays_are_compared_by_value() -> None:
    def asked(group: int, level: float) -> AttributionRequest:
        method = Occlusion(groups={"x": np.array([0, group])})
        return AttributionRequest("m", {"x": np.ones((1, 2))}, method, baselines={"x": np.full(2, level)})

    assert asked(1, 0.5) == asked(1, 0.5)
    assert asked(1, 0.5) != asked(2, 0.5)
    assert asked(1, 0.5) != asked(1, 0.25)
    assert Custom("theirs", {"map": np.ones(2)}) == Custom("theirs", {"map": np.ones(2)})
    assert len({Custom("theirs", {"k": 1}), Custom("theirs", {"k": 1}), Custom("theirs", None)}) == 2


@pytest.mark.parametrize("name", sorted(registered()))
def test_every_parameter_says_what_it_is_for(name: str) -> None:
    cls: Any = registered()[name]
    assert cls.__doc__
    assert cls.paper
    assert all(one.help.endswith(".") for one in parameters_of(cls))
