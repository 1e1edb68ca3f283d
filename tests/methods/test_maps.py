"""Class activation maps of convolutional layers: their definitions at every rank of positions, the toys, and the cases
in which they are equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.definitions import grad_cam, grad_cam_pp, hires_cam, layer_cam, xgrad_cam
from tests.methods.convolutions import asked, assert_is, defined, ends, inputs, nets
from tests.methods.toys import model

WEIGHTS: dict[str, Any] = {
    "grad_cam": grad_cam.weights,
    "grad_cam_pp": grad_cam_pp.weights,
    "hires_cam": hires_cam.weights,
    "layer_cam": layer_cam.weights,
    "xgrad_cam": xgrad_cam.weights,
}
SIGNS = ("signed", "positive", "absolute")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with nets() as made:
        made.add("given", GIVEN)
        yield made


# --- Definitions


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("method", sorted(WEIGHTS))
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_maps_are_their_definition(engine: Engine, rank: int, method: str, sign: str) -> None:
    x = inputs(rank)
    for layer in ("r1", "c2"):  # of values from 0 up, and of both signs
        pair = ends(engine, f"net{rank}", x, layer)
        for changed in ({}, {"attr_dim_summation": False}, {"relu_attributions": True}):
            answer = asked(engine, f"net{rank}", x, method, layer, sign=sign, **changed)
            found = answer.layers[layer].values
            assert found.shape == (
                3,
                1 if changed.get("attr_dim_summation", True) else pair[0].shape[1],
                *pair[0].shape[2:],
            )
            assert_is(found, defined(pair, WEIGHTS[method](sign), **changed))


@pytest.mark.parametrize("form", ["authors", "jacobgil"])
@pytest.mark.parametrize("sign", SIGNS)
def test_both_forms_of_grad_cam_pp_are_their_definitions(engine: Engine, form: str, sign: str) -> None:
    x = inputs(2)
    found = asked(engine, "net2", x, "grad_cam_pp", "r2", form=form, sign=sign).layers["r2"].values
    assert_is(found, defined(ends(engine, "net2", x, "r2"), grad_cam_pp.weights(sign, form)))


@pytest.mark.parametrize("method", sorted(WEIGHTS))
@pytest.mark.parametrize("rank", [1, 2])
def test_channels_may_lie_last(engine: Engine, rank: int, method: str) -> None:
    x = inputs(rank)
    first = asked(engine, f"net{rank}", x, method, "r2").layers["r2"].values
    there = asked(engine, f"tokens{rank}", x, method, "tokens", channel_axis=-1).layers["tokens"].values
    np.testing.assert_allclose(there, np.moveaxis(first, 1, -1), rtol=1e-6, atol=1e-7)


def test_samples_and_targets_have_the_maps_that_they_have_alone(engine: Engine) -> None:
    x = inputs(2)
    hidden = Target("t", 4)
    several = engine.attribute(
        AttributionRequest("net2", {"x": x}, "grad_cam", ["r2", "r1"], targets=[0, 2, hidden])
    )
    for k, target in enumerate((0, 2, hidden)):
        for layer in ("r2", "r1"):
            assert_is(
                several.layers[layer].values[k],
                defined(ends(engine, "net2", x, layer, target), grad_cam.weights()),
            )
            for n in range(3):
                alone = asked(engine, "net2", x[n : n + 1], "grad_cam", layer, target=target)
                np.testing.assert_allclose(
                    several.layers[layer].values[k, n], alone.layers[layer].values[0], rtol=1e-5, atol=1e-6
                )


def test_sums_only_are_the_sums_of_maps(engine: Engine) -> None:
    x = inputs(2)
    for method in WEIGHTS:
        changed: dict[str, Any] = {"upsample": "linear", "relu_attributions": True}
        whole = asked(engine, "net2", x, method, "r2", **changed).layers["r2"]
        sums = asked(engine, "net2", x, method, "r2", sums_only=True, **changed).layers["r2"]
        np.testing.assert_allclose(sums.sum, whole.sum, rtol=1e-6)
        np.testing.assert_allclose(whole.sum, whole.values.sum(axis=(1, 2, 3)), rtol=1e-5)


# --- Toys: methods.md's, of which every number is known by hand

A = np.array([[[1.0, 2], [0, 1]], [[2, 0], [1, 1]]])
G = np.array([[[1.0, -1], [1, -3]], [[0.5, 0.5], [0.5, 0.5]]])
FIXED = "(double[N,2,2,2] x) => (double[N,1] y) { p = Mul(x, G) f = Flatten(p) y = ReduceSum(f, one) }"
GIVEN = model(FIXED, G=G, one=np.array([1]))
TOYS: list[tuple[str, dict[str, Any], list[list[float]]]] = [
    ("grad_cam", {}, [[0.5, -1], [0.5, 0]]),
    ("grad_cam", {"sign": "positive"}, [[1.5, 1], [0.5, 1]]),
    ("grad_cam", {"relu_attributions": True}, [[0.5, 0], [0.5, 0]]),
    ("grad_cam_pp", {"form": "jacobgil"}, [[4 / 3, 2 / 3], [0.5, 5 / 6]]),
    ("grad_cam_pp", {}, [[2, 2], [0.5, 1.5]]),  # the weights are 1 and 1/2
    ("hires_cam", {}, [[2, -2], [0.5, -2.5]]),
    ("layer_cam", {}, [[2, 0], [0.5, 0.5]]),
]


@pytest.mark.parametrize(("method", "changed", "wanted"), TOYS, ids=str)
def test_toys_have_the_numbers_worked_out_by_hand(
    engine: Engine, method: str, changed: dict[str, Any], wanted: list[list[float]]
) -> None:
    found = asked(engine, "given", A[None], method, "x", target=None, **changed).layers["x"].values
    tolerance = 1e-5 if changed.get("form") == "jacobgil" else 1e-12  # its 1e-6
    np.testing.assert_allclose(found[0, 0], wanted, rtol=tolerance)


def test_weights_of_signed_grad_cam_pp_have_the_signs_of_gradients(engine: Engine) -> None:
    """|alpha| G of the first channel: (1/6 - 1/2 + 1/6 - 3/10) / (1/6 + 1/2 + 1/6 + 1/10)."""
    found = (
        asked(
            engine, "given", A[None], "grad_cam_pp", "x", target=None, sign="signed", attr_dim_summation=False
        )
        .layers["x"]
        .values[0]
    )
    weight = (1 / 6 - 1 / 2 + 1 / 6 - 3 / 10) / (1 / 6 + 1 / 2 + 1 / 6 + 1 / 10)
    np.testing.assert_allclose(found, np.array([weight, 0.5])[:, None, None] * A, rtol=1e-12)


# --- Where methods are equal


def test_with_gradients_from_zero_up_signs_make_no_difference(engine: Engine) -> None:
    engine.add("up", model(FIXED, G=np.abs(G), one=np.array([1])))
    for method in WEIGHTS:
        signed, positive, absolute = (
            asked(engine, "up", A[None], method, "x", sign=sign, target=None).layers["x"].values
            for sign in SIGNS
        )
        np.testing.assert_allclose(positive, signed, rtol=1e-12)
        np.testing.assert_allclose(absolute, signed, rtol=1e-12)


def test_before_a_mean_over_positions_hires_and_xgrad_are_grad_cam(engine: Engine) -> None:
    rng = np.random.default_rng(0)
    nodes = "h = Abs(x) m = GlobalAveragePool(h) f = Flatten(m) y = MatMul(f, w)"
    proto = model(
        f"(float[N,3,4,5] x) => (float[N,2] y) {{ {nodes} }}", w=rng.normal(size=(3, 2)).astype(np.float32)
    )
    engine.add("gap", proto)
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    found = {method: asked(engine, "gap", x, method, "h").layers["h"].values for method in WEIGHTS}
    np.testing.assert_allclose(found["hires_cam"], found["grad_cam"], rtol=1e-5)
    np.testing.assert_allclose(found["xgrad_cam"], found["grad_cam"], rtol=1e-5)
    total = asked(engine, "gap", x, "hires_cam", "h")
    np.testing.assert_allclose(total.layers["h"].sum, total.target.value, rtol=1e-5)


def test_signed_layer_cam_is_hires_cam(engine: Engine) -> None:
    x = inputs(3)
    one, other = (
        asked(engine, "net3", x, m, "c2", sign="signed").layers["c2"].values
        for m in ("layer_cam", "hires_cam")
    )
    np.testing.assert_array_equal(one, other)
