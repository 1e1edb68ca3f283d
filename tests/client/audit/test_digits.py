"""What is known of methods under randomised parameters (arXiv 1810.03292, 1912.09818) holds on the digits network, as
an order with intervals over 50 inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.client import Client
from onnx_attribution.client.audit.arrays import Floats
from onnx_attribution.client.audit.checks import check
from onnx_attribution.client.audit.metrics.interval import interval
from onnx_attribution.client.audit.metrics.randomisation import (
    Randomisation,
    model_parameter_randomisation,
    permuted,
)
from onnx_attribution.client.audit.metrics.sensitivity import compared, other_classes
from onnx_attribution.client.audit.subject import Subject
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import Lrp, Method, SmoothGrad
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings as Serving

Data = tuple[NDArray[np.float32], NDArray[np.int64]]
RANKS = ("spearman", "spearman_absolute")
METHODS: dict[str, Method | str] = {
    "gradient": "gradient",
    "smoothgrad": SmoothGrad(draws=8),
    "integrated_gradients": "integrated_gradients",
    "deeplift_rescale": "deeplift_rescale",
    "guided_backprop": "guided_backprop",
    "deconvnet": "deconvnet",
    "rectgrad": "rectgrad",
    "grad_cam": "grad_cam",
    "hires_cam": "hires_cam",
    "grad_cam_pp": "grad_cam_pp",
    "full_grad": "full_grad",
    "lrp_epsilon": "lrp",
    "lrp_zplus": Lrp(rule="zplus"),
}
POSITIVE = ("guided_backprop", "deconvnet", "rectgrad", "grad_cam_pp", "full_grad", "lrp_zplus")
"""Methods that keep only positive relevance or add up magnitudes (arXiv 2012.00362)."""
SIGNED = tuple(name for name in METHODS if name not in POSITIVE)
TIMES_INPUT = ("integrated_gradients", "deeplift_rescale")


@pytest.fixture(scope="module")
def engine(digits_path: Path) -> Iterator[Engine]:
    with Engine(threads=1) as engine:
        engine.add("digits", digits_path)
        yield engine


@pytest.fixture(scope="module")
def cascade(engine: Engine, digits_data: Data) -> Randomisation:
    subject, inputs = Subject(engine, "digits"), {"image": digits_data[0][:50]}
    return model_parameter_randomisation(subject, METHODS, inputs, subject.classes(inputs), names=RANKS)


def mean_difference_is_positive(left: Floats, right: Floats) -> bool:
    """Whether the interval of the difference of each input begins above 0."""
    return interval(left - right).low > 0


def test_gradient_and_smoothgrad_change_as_soon_as_the_top_is_drawn_anew(cascade: Randomisation) -> None:
    top = cascade.stages[0].similarity
    for name in ("gradient", "smoothgrad"):
        chance = compared(cascade.originals[name], permuted(cascade.originals[name]), names=RANKS)
        assert interval(top[name]["spearman"] - chance["spearman"]).low < 0


@pytest.mark.parametrize("positive", POSITIVE)
@pytest.mark.parametrize("signed", SIGNED)
def test_methods_that_keep_positive_relevance_stay_alike_where_others_change(
    cascade: Randomisation, positive: str, signed: str
) -> None:
    left, right = (cascade.scores(name, "spearman") for name in (positive, signed))
    assert mean_difference_is_positive(left, right)
    top = cascade.stages[0].similarity
    assert mean_difference_is_positive(top[positive]["spearman"], top[signed]["spearman"])


def test_guided_backprop_changes_less_in_the_upper_layers_than_in_the_lower(cascade: Randomisation) -> None:
    curve = cascade.curve("guided_backprop", "spearman")
    assert mean_difference_is_positive(curve[0], curve[2])
    assert mean_difference_is_positive(curve[2], curve[3])


def test_maps_of_the_last_convolution_change_most_once_it_is_drawn_anew_itself(
    cascade: Randomisation,
) -> None:
    """Before that only the weights of its channels do: positive ones hardly, and signed ones more than half."""
    assert [stage.block for stage in cascade.stages] == [
        "/dense2/Gemm", "/dense1/Gemm", "/conv2/Conv", "/conv1/Conv",
    ]  # fmt: skip
    positive, signed, gradient = (
        cascade.curve(name, "spearman") for name in ("grad_cam_pp", "grad_cam", "gradient")
    )
    assert mean_difference_is_positive(positive[:2].mean(axis=0), positive[2])
    for other in (signed, gradient):
        assert mean_difference_is_positive(
            positive[:2].mean(axis=0) - other[:2].mean(axis=0), np.full(50, 0.5)
        )
    assert mean_difference_is_positive(signed[:2].mean(axis=0), gradient[:2].mean(axis=0))


@pytest.mark.parametrize("name", TIMES_INPUT)
def test_magnitudes_times_the_input_stay_alike_and_their_signs_do_not(
    cascade: Randomisation, name: str
) -> None:
    for stage in cascade.stages:
        both = stage.similarity[name]
        assert mean_difference_is_positive(both["spearman_absolute"], both["spearman"] + 0.5)
        gradient = stage.similarity["gradient"]["spearman_absolute"]
        assert mean_difference_is_positive(both["spearman_absolute"], gradient)


def test_maps_of_another_class_are_alike_where_positive_relevance_is_kept(
    engine: Engine, digits_data: Data, cascade: Randomisation
) -> None:
    subject, inputs = Subject(engine, "digits"), {"image": digits_data[0][:50]}
    other = other_classes(subject.scores(inputs), seed=1)
    found = {
        name: compared(cascade.originals[name], subject.maps(METHODS[name], inputs, other), names=RANKS)
        for name in METHODS
    }
    for positive in POSITIVE:
        for signed in SIGNED:
            assert mean_difference_is_positive(found[positive]["spearman"], found[signed]["spearman"])


def test_stages_are_the_same_by_every_call(engine: Engine, digits_data: Data) -> None:
    subject, inputs = Subject(engine, "digits"), {"image": digits_data[0][:2]}
    runs = [
        model_parameter_randomisation(
            subject, {"gradient": "gradient"}, inputs, subject.classes(inputs),
            order="independent", draw="shuffle", seed=3, most=2, names=RANKS,
        )
        for _ in range(2)
    ]  # fmt: skip
    first, second = (run.curve("gradient", "spearman") for run in runs)
    np.testing.assert_array_equal(first, second)
    assert first.shape == (2, 2)


def test_a_server_gives_the_same_maps_and_refuses_to_draw_parameters_anew(
    engine: Engine, digits_data: Data
) -> None:
    inputs = {"image": digits_data[0][:3]}
    with app.background(engine, Serving(port=0, grace_seconds=1)) as (address, _), Client(address) as client:
        here, there = Subject(engine, "digits"), Subject(client, "digits")
        assert there.classes(inputs) == here.classes(inputs)
        for name in ("gradient", "integrated_gradients"):
            own, other = (one.maps(name, inputs, one.classes(inputs))["image"] for one in (here, there))
            np.testing.assert_allclose(own, other, rtol=1e-6, atol=1e-9)
        with pytest.raises(InvalidArgument, match="Engine"):
            there.randomised()
        found = check(client, "digits", ["gradient"], inputs, checks="classes,randomisation,perturbations")
    assert "Engine" in found.skipped["randomisation"]
    told = {one.metric for one in found.verdicts.method("gradient").findings}
    assert told >= {"random_logit", "infidelity", "max_sensitivity"}
