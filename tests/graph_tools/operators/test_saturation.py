"""Derivatives and secants where functions saturate: in float32 to a relative 1e-3 of the mathematics in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.server.engine.backend import Backend
from tests.checks import gradient_model
from tests.programs import parsed

Array = NDArray[Any]
FAR = np.concatenate([np.linspace(-30, 30, 241), [-80.0, 80.0]])
RELATIVE = 1e-3


def sigmoid_slope(x: Array) -> Array:
    fall = np.exp(-np.abs(x))
    return np.asarray(fall / (1 + fall) ** 2)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def normal(x: Array) -> Array:
    return np.asarray([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])


def density(x: Array) -> Array:
    return np.asarray(np.exp(-x * x / 2) / math.sqrt(2 * math.pi))


def gelu_tanh(x: Array) -> Array:
    c = 2 * math.sqrt(2 / math.pi)
    inner = c * (x + 0.044715 * x**3)
    return sigmoid(inner) + x * sigmoid_slope(inner) * c * (1 + 3 * 0.044715 * x * x)


def mish(x: Array) -> Array:
    """x (e^2 + 2 e) / (e^2 + 2 e + 2) with e = exp x, differentiated."""
    e = np.exp(x)
    part = e * e + 2 * e
    return np.asarray(part / (part + 2) + x * 4 * e * (e + 1) / (part + 2) ** 2)


SLOPES: dict[str, tuple[Callable[[Array], Array], Array]] = {
    "Sigmoid": (sigmoid_slope, FAR),
    "Tanh": (lambda x: 4 * sigmoid_slope(2 * x), FAR[np.abs(FAR) < 40]),
    "Softplus": (sigmoid, FAR),
    "Erf": (lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x), FAR[np.abs(FAR) < 9]),
    "Gelu": (lambda x: normal(x) + x * density(x), FAR[np.abs(FAR) < 12]),
    'Gelu<approximate="tanh">': (gelu_tanh, FAR[np.abs(FAR) < 9]),
    "Mish": (mish, FAR[np.abs(FAR) < 31]),
    "Elu<alpha=0.7>": (lambda x: np.where(x > 0, 1, 0.7 * np.exp(np.minimum(x, 0))), FAR),
    "Selu<alpha=1.5, gamma=2.0>": (lambda x: np.where(x > 0, 2, 3 * np.exp(np.minimum(x, 0))), FAR),
    "Celu<alpha=2.0>": (lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0) / 2)), FAR),
    "com.microsoft.QuickGelu": (
        lambda x: sigmoid(1.702 * x) + 1.702 * x * sigmoid_slope(1.702 * x),
        FAR[np.abs(FAR) < 31],
    ),
    "Asin": (lambda x: 1 / np.sqrt((1 - x) * (1 + x)), np.asarray([-1 + 2**-20, 0.3, 1 - 2**-22])),
    "Acos": (lambda x: -1 / np.sqrt((1 - x) * (1 + x)), np.asarray([-1 + 2**-20, 0.3, 1 - 2**-22])),
    "Atanh": (lambda x: 1 / ((1 - x) * (1 + x)), np.asarray([-1 + 2**-20, 0.3, 1 - 2**-22])),
    "Acosh": (lambda x: 1 / np.sqrt((x - 1) * (x + 1)), np.asarray([1 + 2**-22, 1.5, 30.0])),
}


def gradient(body: str, x: Array, v: Array) -> Array:
    model = parsed(
        f"g (float[{','.join(map(str, x.shape))}] x) => (float[{','.join(map(str, v.shape))}] z) {body}"
    )
    graph, names = gradient_model(model, ["x"])
    feeds = {"x": x.astype(np.float32), "v/z": v.astype(np.float32)}
    session = Backend("cpu", 1).session(graph)
    return np.asarray(
        session.run({n: a for n, a in feeds.items() if n in session.inputs})[names["x"]], np.float64
    )


@pytest.mark.parametrize("operator", SLOPES)
def test_the_derivative_keeps_its_digits(operator: str) -> None:
    right, points = SLOPES[operator]
    x = points.astype(np.float32).astype(np.float64)
    found = gradient(f"{{ z = {operator}(x) }}", x, np.ones_like(x))
    np.testing.assert_allclose(found, right(x), rtol=RELATIVE, atol=1e-37)


GAPS = np.asarray(
    [[0.0, -9.0, -20.0], [3.0, 19.0, -4.0], [1.0, 0.5, 0.2], [-30.0, 0.0, -24.0], [5.0, 5.0, -25.0]]
)


def softmax(x: Array) -> Array:
    return np.asarray(
        np.exp(x - x.max(1, keepdims=True)) / np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)
    )


def jacobian_of_softmax(x: Array) -> Array:
    """`[row, output, input]`; what is 1 less an element is the sum of the others."""
    p = softmax(x)
    made = -p[:, :, None] * p[:, None, :]
    for k in range(p.shape[1]):
        made[:, k, k] = p[:, k] * np.delete(p, k, axis=1).sum(1)
    return made


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("output", range(3))
def test_softmax_near_a_vertex_keeps_its_digits(operator: str, output: int, axis: int) -> None:
    v = np.eye(3)[[output] * len(GAPS)]
    found = gradient(f"{{ z = {operator}<axis = {axis}>(x) }}", GAPS, v)
    expected = jacobian_of_softmax(GAPS)[:, output]
    if operator == "LogSoftmax":
        expected = expected / softmax(GAPS)[:, output, None]
    np.testing.assert_allclose(found, expected, rtol=RELATIVE)


@pytest.mark.parametrize("operator", ["Sigmoid", "Tanh"])
@pytest.mark.parametrize("ends", [(9.0, 8.0), (17.0, 16.5), (-9.0, -8.5), (16.0, -16.0), (20.0, 20.0)])
def test_secants_of_saturated_gates_keep_their_digits(operator: str, ends: tuple[float, float]) -> None:
    model = onnx.shape_inference.infer_shapes(
        parsed(f"g (float[1] x) => (float[1] z) {{ z = {operator}(x) }}")
    )
    program = deeplift_program(
        Network(model, "single", {"x": None}, {}), Choice(("x",), ("x",), "z"), multiply=False
    )
    x, y = ends
    given = {
        "x": np.array([x], np.float32),
        "baseline/x": np.array([y], np.float32),
        "target/weight": np.ones(1, np.float32),
    }
    (found,) = Backend("cpu", 1).session(program.model).run(given)["contribution/x"]
    rate = 1 if operator == "Sigmoid" else 2
    slope = rate * rate * sigmoid_slope(np.asarray(rate * x))
    if x != y:  # sigmoid x - sigmoid y = (exp -y - exp -x) sigmoid x sigmoid y
        change = (
            (np.exp(-rate * y) - np.exp(-rate * x))
            * sigmoid(np.asarray(rate * x))
            * sigmoid(np.asarray(rate * y))
        )
        slope = rate * change / (x - y)
    np.testing.assert_allclose(found, slope, rtol=RELATIVE)
