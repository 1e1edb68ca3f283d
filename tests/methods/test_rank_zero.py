"""Tensors of rank 0 and 1: each sample has its own attributions, in the shape of the tensor.

References are central differences in float64 numpy, and sums of them along the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.method_names import DEEPLIFT_METHODS, FIXED_METHODS, PATH_METHODS, SOURCE_METHODS
from tests.methods.toys import Floats, model, values

W = np.random.default_rng(0).normal(size=(3, 2))
LOW = 0.2
Point = dict[str, Floats]


@dataclass(frozen=True)
class Case:
    """A model, the shapes of its inputs for one sample, which of them samples share, and the target in numpy."""

    proto: onnx.ModelProto
    shapes: Mapping[str, tuple[int, ...]]
    function: Callable[..., float]
    shared: tuple[str, ...] = ()
    target: int | None = None
    layers: tuple[str, ...] = ()


def softmax(z: Floats) -> Floats:
    e = np.exp(z - z.max())
    return np.asarray(e / e.sum())


SCALED = "{ h = MatMul(x, W) q = Mul(h, t) y = Softmax(q) }"
SHAPED = """(double[N,3] x, double t) => (double[N] y) {
    s = Shape(x)
    e = Expand(t, s)
    u = Unsqueeze(t, first)
    m = Mul(x, e)
    v = Mul(m, u)
    w = Tanh(t)
    a = Add(v, w)
    y = ReduceSum<keepdims=0>(a, axes)
}"""
CHOSEN = """(double[N,3] x, double t) => (double[N] y) {
    c = Greater(x, far)
    w = Where(c, x, t)
    u = Max(w, t)
    v = Min(u, x, t)
    z = Sum(v, u, t)
    y = ReduceSum<keepdims=0>(z, axes)
}"""
NUMBER = "{ a = Mul(x, x) b = Tanh(a) y = Exp(b) }"
NORM = "(double[3] x) => (double y) { q = Mul(x, x) n = ReduceSum<keepdims=0>(q) d = Sqrt(n) y = Tanh(d) }"
CASES = {
    "a shared number": Case(
        model(f"(double[N,3] x, double t) => (double[N,2] y) {SCALED}", W=W),
        {"x": (3,), "t": ()}, lambda x, t: softmax(x @ W * t)[1], ("t",), 1, ("h", "q"),
    ),
    "a shared vector": Case(
        model(f"(double[N,3] x, double[2] t) => (double[N,2] y) {SCALED}", W=W),
        {"x": (3,), "t": (2,)}, lambda x, t: softmax(x @ W * t)[1], ("t",), 1, ("h", "q"),
    ),
    "a number that is shaped": Case(
        model(SHAPED, axes=[1], first=[0]),
        {"x": (3,), "t": ()}, lambda x, t: float((x * t * t + np.tanh(t)).sum()), ("t",), None, ("m", "a"),
    ),
    "a number that is chosen": Case(
        model(CHOSEN, axes=[1], far=1.0), {"x": (3,), "t": ()},
        lambda x, t: float(sum(min(u, a, t) + u + t for a in x for u in [max(a if a > 1 else t, t)])), ("t",), None,
        ("w", "z"),
    ),
    "a number alone": Case(
        model(f"(double x) => (double y) {NUMBER}"), {"x": ()}, lambda x: float(np.exp(np.tanh(x * x))), (), None,
        ("a", "b"),
    ),
    "two numbers": Case(
        model("(double x, double s) => (double y) { a = Mul(x, s) b = Tanh(a) y = Add(b, s) }"),
        {"x": (), "s": ()}, lambda x, s: float(np.tanh(x * s) + s), (), None, ("a", "b"),
    ),
    "a number a sample": Case(
        model(f"(double[N] x) => (double[N] y) {NUMBER}"), {"x": ()}, lambda x: float(np.exp(np.tanh(x * x))), (),
        None, ("a", "b"),
    ),
    "a norm": Case(
        model(NORM), {"x": (3,)}, lambda x: float(np.tanh(np.sqrt((x * x).sum()))), (), None, ("q", "n", "d")
    ),
}  # fmt: skip


def slope(case: Case, point: Point, name: str) -> Floats:
    """The gradient of the target by central differences."""
    found = np.zeros(point[name].shape)
    for place in np.ndindex(*found.shape):
        step = np.zeros(found.shape)
        step[place] = 1e-6
        high, low = ({**point, name: np.asarray(point[name] + s)} for s in (step, -step))
        found[place] = (case.function(**high) - case.function(**low)) / 2e-6
    return found


def wanted(case: Case, method: str, point: Point, name: str) -> Floats:
    low = {n: np.full(a.shape, LOW) for n, a in point.items()}
    if method == "gradient":
        return slope(case, point, name)
    if method == "gradient_x_activation":
        return slope(case, point, name) * point[name]
    if method == "occlusion":
        found = np.zeros(point[name].shape)
        for place in np.ndindex(*found.shape):
            changed = np.array(point[name])
            changed[place] = LOW
            found[place] = case.function(**point) - case.function(**{**point, name: changed})
        return found
    between = [
        {n: np.asarray(low[n] + (k + 0.5) / 200 * (a - low[n])) for n, a in point.items()} for k in range(200)
    ]
    return np.asarray(np.mean([slope(case, p, name) for p in between], axis=0) * (point[name] - low[name]))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        for name, case in CASES.items():
            made.add(name, case.proto)
        yield made


def points(case: Case, count: int) -> tuple[Point, list[Point]]:
    """Inputs of several samples, and those of each."""
    rng = np.random.default_rng(count)
    inputs = {
        n: np.asarray(rng.uniform(0.5, 1.5, size=shape if n in case.shared else (count, *shape)))
        for n, shape in case.shapes.items()
    }
    each = [{n: np.asarray(a if n in case.shared else a[k]) for n, a in inputs.items()} for k in range(count)]
    return inputs, each


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("method", FIXED_METHODS)
@pytest.mark.parametrize("name", CASES)
def test_each_sample_has_its_own_attributions(engine: Engine, name: str, method: str, count: int) -> None:
    case = CASES[name]
    inputs, each = points(case, count)
    asked = AttributionRequest(
        name, inputs, method, source=list(case.shapes), target=Target(index=case.target),
        baselines=dict.fromkeys(case.shapes, LOW), steps=400,
    )  # fmt: skip
    answer = engine.attribute(asked)
    np.testing.assert_allclose(answer.target.value, [case.function(**point) for point in each])
    for source, shape in case.shapes.items():
        found = values(answer, source)
        assert found.shape == (count, *shape) or (
            source not in case.shared and found.shape == (count, 1, *shape)
        )
        if method not in DEEPLIFT_METHODS:
            expected = [wanted(case, method, point, source) for point in each]
            # 400 trapezoids, beside kinks where an element passes the number
            np.testing.assert_allclose(found.reshape(count, *shape), np.array(expected), rtol=1e-3, atol=3e-3)
    if method in DEEPLIFT_METHODS:
        low = case.function(**{n: np.full(shape, LOW) for n, shape in case.shapes.items()})
        total = sum(layer.sum for layer in answer.layers.values())
        np.testing.assert_allclose(total, [case.function(**point) - low for point in each], rtol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("method", sorted((PATH_METHODS | DEEPLIFT_METHODS) - SOURCE_METHODS))
@pytest.mark.parametrize("name", CASES)
def test_hidden_layers_that_are_cuts_sum_to_the_change(
    engine: Engine, name: str, method: str, count: int
) -> None:
    case = CASES[name]
    inputs, _ = points(case, count)
    asked = AttributionRequest(
        name, inputs, method, case.layers, source=list(case.shapes), target=Target(index=case.target),
        baselines=dict.fromkeys(case.shapes, LOW), steps=400,
    )  # fmt: skip
    for layer in engine.attribute(asked).layers.values():
        assert len(layer.values) == count
        if layer.cut:
            np.testing.assert_allclose(layer.residual, 0, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2])
def test_the_conductance_of_a_number_is_its_part_of_the_change(engine: Engine, count: int) -> None:
    inputs, each = points(CASES["a norm"], count)
    answer = engine.attribute(
        AttributionRequest("a norm", inputs, "neuron_ig", ("d", "n"), baselines={"x": LOW}, steps=400)
    )
    change = [np.tanh(np.linalg.norm(p["x"])) - np.tanh(LOW * np.sqrt(3)) for p in each]
    for name in ("d", "n"):
        found = values(answer, name)
        assert found.shape == (count,)
        np.testing.assert_allclose(found, change, rtol=1e-4)  # 400 trapezoids
