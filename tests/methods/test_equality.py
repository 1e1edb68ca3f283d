"""Where methods must agree, row by row: every pair of methods on networks for which theory says they are equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.methods import Quadrature
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Target
from tests.methods.toys import Floats, dense, explain, model, values, weight

TARGET = Target(index=1)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


@pytest.fixture
def x(rng: np.random.Generator) -> Floats:
    return rng.normal(size=(3, 5))


@pytest.fixture
def reference(rng: np.random.Generator) -> Floats:
    return rng.normal(size=(3, 5)) + 0.1


def at(
    engine: Engine,
    net: onnx.ModelProto,
    x: Floats,
    reference: Any,
    method: str,
    layer: str,
    *,
    steps: int = 7,
    quadrature: Quadrature = "trapezoid",
) -> Floats:
    """The attributions of one method at one layer."""
    return values(
        explain(
            engine, net, {"x": x}, method, layers=layer,
            baselines={} if method == "gradient_x_activation" else {"x": reference}, target=TARGET, steps=steps,
            quadrature=quadrature,
        )
    )  # fmt: skip


def all_equal(found: Mapping[str, Floats], tolerance: float = 1e-9) -> None:
    first, *others = found
    for other in others:
        np.testing.assert_allclose(
            found[other], found[first], rtol=tolerance, atol=1e-12, err_msg=f"{other} and {first}"
        )


def affine(rng: np.random.Generator) -> onnx.ModelProto:
    return model(
        "(double[N,5] x) => (double[N,3] y) { z = Gemm(x, W, b) y = Gemm(z, V, c) }",
        W=rng.normal(size=(5, 4)), b=rng.normal(size=4), V=rng.normal(size=(4, 3)), c=rng.normal(size=3),
    )  # fmt: skip


@pytest.mark.parametrize("quadrature", ["trapezoid", "left", "right"])
def test_row_1_an_affine_model(
    engine: Engine, rng: np.random.Generator, x: Floats, reference: Floats, quadrature: Quadrature
) -> None:
    net = affine(rng)
    W, v = weight(net, "W"), weight(net, "V")[:, 1]
    for ref in (reference, np.zeros_like(x)):
        found = {
            "definition": (x - ref) * (W @ v),
            "neuron_ig": at(engine, net, x, ref, "neuron_ig", "x", quadrature=quadrature),
            "rescale": at(engine, net, x, ref, "deeplift_rescale", "x"),
            "ig": at(engine, net, x, ref, "integrated_gradients", "x", quadrature=quadrature),
        }
        if not ref.any():  # gradient times input speaks of no reference
            found["gradient times input"] = at(engine, net, x, ref, "gradient_x_activation", "x")
        all_equal(found)
        hidden = {
            "definition": ((x - ref) @ W) * v,
            "neuron_ig": at(engine, net, x, ref, "neuron_ig", "z", quadrature=quadrature),
            "rescale": at(engine, net, x, ref, "deeplift_rescale", "z"),
        }
        all_equal(hidden)


@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
@pytest.mark.parametrize("quadrature", ["trapezoid", "left", "right"])
def test_row_2_the_last_hidden_layer_under_a_linear_head(
    engine: Engine,
    rng: np.random.Generator,
    x: Floats,
    reference: Floats,
    activation: str,
    quadrature: Quadrature,
) -> None:
    net = dense(rng, activation)
    found = {
        "neuron_ig": at(engine, net, x, reference, "neuron_ig", "h2", steps=1, quadrature=quadrature),
        "neuron_ig, more steps": at(engine, net, x, reference, "neuron_ig", "h2", quadrature=quadrature),
        "rescale": at(engine, net, x, reference, "deeplift_rescale", "h2"),
    }
    all_equal(found)
    product = at(engine, net, x, reference, "gradient_x_activation", "h2")
    assert np.abs(product - found["rescale"]).max() > 1e-2  # the activations at the reference are not 0


def test_row_2_gradient_times_activation_is_equal_where_the_reference_activates_nothing(
    engine: Engine, rng: np.random.Generator, x: Floats
) -> None:
    net = dense(rng, bias=False)
    zero = np.zeros_like(x)
    all_equal(
        {
            "neuron_ig": at(engine, net, x, zero, "neuron_ig", "h2", steps=1),
            "rescale": at(engine, net, x, zero, "deeplift_rescale", "h2"),
            "gradient times activation": at(engine, net, x, zero, "gradient_x_activation", "h2"),
        }
    )


def test_row_3_one_nonlinearity_after_a_straight_line(
    engine: Engine, rng: np.random.Generator, x: Floats, reference: Floats
) -> None:
    net = dense(rng, "Tanh", sizes=(5, 6, 3))
    before = {
        "rescale": at(engine, net, x, reference, "deeplift_rescale", "z1"),
        "neuron_ig": at(engine, net, x, reference, "neuron_ig", "z1", steps=4096),
    }
    all_equal(before, 1e-5)  # the trapezoid's error at 4096 steps, O(1/n^2)
    source = {
        "rescale": at(engine, net, x, reference, "deeplift_rescale", "x"),
        "ig": at(
            engine, net, x, reference, "integrated_gradients", "x", steps=100, quadrature="gausslegendre"
        ),
    }
    all_equal(source)
    for name, layer in (("rescale", "z1"), ("rescale", "x")):
        product = at(engine, net, x, reference, "gradient_x_activation", layer)
        assert np.abs(product - (before if layer == "z1" else source)[name]).max() > 1e-2


@pytest.mark.parametrize("layer", ["x", "z1", "h1", "z2", "h2", "y"])
def test_row_4_a_bias_free_relu_net_with_reference_0_in_one_step_to_the_right(
    engine: Engine, rng: np.random.Generator, x: Floats, layer: str
) -> None:
    """Along a ray every gate is constant, so that all agree; at 0 the gradient is 0 by convention, hence the rule."""
    net = dense(rng, bias=False)
    found = {
        "neuron_ig": at(engine, net, x, 0.0, "neuron_ig", layer, steps=1, quadrature="right"),
        "rescale": at(engine, net, x, 0.0, "deeplift_rescale", layer),
        "gradient times activation": at(engine, net, x, 0.0, "gradient_x_activation", layer),
    }
    if layer == "x":
        found["ig"] = at(engine, net, x, 0.0, "integrated_gradients", "x", steps=1, quadrature="right")
    all_equal(found)
    if layer in ("x", "z1", "h1", "z2"):  # a ReLU lies behind
        assert not at(engine, net, x, 0.0, "neuron_ig", layer, steps=1, quadrature="left").any()
        half = at(engine, net, x, 0.0, "neuron_ig", layer, steps=1)
        np.testing.assert_allclose(half, found["neuron_ig"] / 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layer", ["x", "z1", "h1", "h2"])
@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
def test_row_5_a_reference_equal_to_the_input_gives_nothing(
    engine: Engine, rng: np.random.Generator, x: Floats, layer: str, activation: str
) -> None:
    net = dense(rng, activation)
    for method in ("neuron_ig", "deeplift_rescale", "integrated_gradients"):
        if method != "integrated_gradients" or layer == "x":
            # the rows of the path differ from x by rounding, hence no exact 0
            found = at(engine, net, x, x, method, layer)
            np.testing.assert_allclose(found, 0, atol=1e-14)


def test_row_5_gradient_times_input_at_an_input_of_0_is_nothing(
    engine: Engine, rng: np.random.Generator
) -> None:
    net = dense(rng)
    assert not at(engine, net, np.zeros((2, 5)), 0.0, "gradient_x_activation", "x").any()
