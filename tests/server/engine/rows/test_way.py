"""A path that leaves the singular point of a normalisation is run through slowly there: fewer rows, and sound ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.methods import NeuronIG
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.rows.way import STRAIGHT, Way
from onnx_attribution.values import AttributionRequest, Target
from tests.server.engine.rows.test_adaptive import followed

Floats = NDArray[np.float64]


@pytest.mark.parametrize("width", [0.3, 3e-3, 1e-6])
def test_places_and_alphas_are_inverse_and_the_ends_are_exact(width: float) -> None:
    way = Way.from_width(width)
    assert (way.alpha(0.0), way.alpha(1.0), way.place(0.0), way.place(1.0)) == (0, 1, 0, 1)
    for place in (1e-3, 0.1, 0.5, 0.99):
        assert way.place(way.alpha(place)) == pytest.approx(place, rel=1e-9)
    assert width / 3 < way.alpha(1 / way.bend) < 3 * width


def test_nothing_is_run_through_slowly_that_takes_the_whole_path() -> None:
    assert Way.from_width(2.0) == Way.from_width(0.0) == STRAIGHT
    assert STRAIGHT.alpha(0.37) == 0.37


@pytest.mark.parametrize(("width", "rows"), [(3e-3, 9), (1e-5, 17)])
def test_a_path_that_turns_at_its_start_takes_a_level(width: float, rows: int) -> None:
    def h(a: Floats) -> Floats:
        return (a / np.sqrt(a**2 + width**2))[:, None]

    def g(a: Floats) -> Floats:
        return np.exp(h(a))

    exact = np.exp(1 / np.sqrt(1 + width**2)) - 1
    slow, _ = followed(g, h, smooth=True, change=exact, way=Way.from_width(width))
    assert slow.rows <= rows
    assert abs(slow.sums()["h"][0] - exact) <= slow.errors()["h"] <= 0.01 * exact


WIDTH, TOKENS = 8, 4
MODEL = """
    <ir_version: 9, opset_import: ["": 20]>
    net (float[N,4,8] x) => (float[N,3] y) {
        n = LayerNormalization <epsilon: float = EPSILON> (x, scale, shift)
        t = MatMul(n, w)  u = Tanh(t)  s = ReduceSum <keepdims: int = 0> (u, axes)  y = MatMul(s, v)
    }
"""


@pytest.mark.parametrize("layer", ["n", "x"])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-12])
def test_attributions_at_a_normalisation_of_zeros_are_within_their_estimate(
    layer: str, epsilon: float
) -> None:
    rng = np.random.default_rng(3)
    shapes = {"scale": (WIDTH,), "shift": (WIDTH,), "w": (WIDTH, WIDTH), "v": (WIDTH, 3)}
    held: dict[str, NDArray[Any]] = {
        name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()
    }
    x = rng.normal(size=(1, TOKENS, WIDTH)).astype(np.float32)
    model = onnx.parser.parse_model(MODEL.replace("EPSILON", str(epsilon)))
    for name, array in {**held, "axes": np.array([1])}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    request = AttributionRequest("m", {"x": x}, NeuronIG(), [layer], target=Target(index=1))
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("m", model)
        answer = engine.attribute(request)
    found = answer.layers[layer]

    exact = conductance(layer, x[0].astype(np.float64), epsilon, held)
    off = np.abs(found.values[0] - exact).sum()
    assert off <= found.error_estimate[0] + 1e-6
    assert off <= 0.01 * np.abs(exact).sum()
    assert answer.evaluations <= 33


def conductance(layer: str, x: Floats, epsilon: float, held: dict[str, NDArray[Any]]) -> Floats:
    """That of the model from zeros, by a trapezoid on rows that lie densely where the normalisation turns."""
    alphas = np.concatenate([[0], np.geomspace(1e-9, 1, 20_001)])[:, None, None]
    y = alphas * x
    centred = y - y.mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    hat = centred * inverse
    n = hat * held["scale"] + held["shift"]
    g = (1 - np.tanh(n @ held["w"]) ** 2) * held["v"][:, 1] @ held["w"].T
    if layer == "x":
        g = g * held["scale"]
        g = inverse * (g - g.mean(axis=-1, keepdims=True) - hat * (g * hat).mean(axis=-1, keepdims=True))
    h = n if layer == "n" else y
    return np.asarray((0.5 * (g[1:] + g[:-1]) * np.diff(h, axis=0)).sum(axis=0))
