"""What holds for the path of a neuron in every net: sums over cuts, bypasses, swapped ends, sums of functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.methods import Quadrature
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.rows.plan import conductance_plan
from onnx_attribution.values import Target
from tests.methods.test_neuron_ig import UNIFORM, logit
from tests.methods.toys import ask, dense, explain, model, values, weight

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


def points(rng: np.random.Generator, size: int = 5, samples: int = 2) -> tuple[Floats, Floats]:
    return rng.normal(size=(samples, size)), rng.normal(size=(samples, size))


def test_1_the_sum_over_a_cut_layer_tends_to_the_change_of_the_target(
    engine: Engine, rng: np.random.Generator
) -> None:
    net, (x, y) = dense(rng, "Tanh"), points(rng)
    layers = ("x", "z1", "h1", "z2", "h2", "y")
    residuals = []
    for n in (16, 64):
        answer = explain(engine, net, {"x": x}, layers=layers, baselines={"x": y}, target=logit(1), steps=n)
        assert all(answer.layers[name].cut for name in layers)
        residuals.append(np.array([np.abs(answer.layers[name].residual).max() for name in layers]))
    assert (residuals[1] < 1e-3).all()
    curved = residuals[0] > 1e-9
    assert curved.sum() >= 4
    np.testing.assert_array_less(
        residuals[1][curved], residuals[0][curved] / 8
    )  # error O(1/n^2): 16 in theory


def test_1_the_sum_over_a_cut_layer_of_a_relu_net_tends_to_the_change_of_the_target(
    engine: Engine, rng: np.random.Generator
) -> None:
    net, (x, y) = dense(rng), points(rng)
    answer = explain(
        engine, net, {"x": x}, layers=("x", "z1", "h1", "z2"), baselines={"x": y}, target=logit(1), steps=2048
    )
    change = answer.target.value - answer.target.baseline_value
    for layer in answer.layers.values():
        assert (np.abs(layer.residual) < 1e-3 * np.abs(change).max() + 1e-3).all()


RESIDUAL = """(double[N,4] x) => (double[N,1] y) {
    a = Gemm(x, W, b)
    left = Tanh(a)
    s = Add(left, x)
    t = Tanh(s)
    y = MatMul(t, v)
}"""


def residual_net(rng: np.random.Generator) -> onnx.ModelProto:
    return model(RESIDUAL, W=rng.normal(size=(4, 4)) / 2, b=rng.normal(size=4) / 2, v=rng.normal(size=(4, 1)))


def test_2_every_cut_layer_has_the_same_sum_and_a_bypassed_one_has_not(
    engine: Engine, rng: np.random.Generator
) -> None:
    x, y = points(rng, 4)
    answer = explain(
        engine,
        residual_net(rng),
        {"x": x},
        layers=("x", "a", "left", "s", "t"),
        baselines={"x": y},
        steps=512,
    )
    cuts = {name: layer.cut for name, layer in answer.layers.items()}
    assert cuts == {"x": True, "a": False, "left": False, "s": True, "t": True}
    change = answer.target.value - answer.target.baseline_value
    for name in ("x", "s", "t"):
        np.testing.assert_allclose(answer.layers[name].sum, change, rtol=0, atol=1e-5)
    for name in ("a", "left"):
        assert (np.abs(answer.layers[name].residual) > 1e-2).all()


def test_2_both_addends_of_a_residual_add_together_are_a_cut(
    engine: Engine, rng: np.random.Generator
) -> None:
    body = RESIDUAL.replace("s = Add(left, x)", "skip = Mul(x, two)\ns = Add(left, skip)")
    net = model(
        body, two=2.0, W=rng.normal(size=(4, 4)) / 2, b=rng.normal(size=4) / 2, v=rng.normal(size=(4, 1))
    )
    x, y = points(rng, 4)
    answer = explain(engine, net, {"x": x}, layers=("left", "skip", "s"), baselines={"x": y}, steps=64)
    both = values(answer, "left") + values(answer, "skip")
    np.testing.assert_allclose(both, values(answer, "s"), rtol=1e-10, atol=1e-12)
    assert not answer.layers["skip"].cut


@pytest.mark.parametrize("rule", UNIFORM)
def test_3_at_the_input_it_is_integrated_gradients_of_the_same_rule(
    engine: Engine, rng: np.random.Generator, rule: Quadrature
) -> None:
    net, (x, y) = dense(rng), points(rng)
    engine.add(f"third {rule}", net)
    both = [
        ask(
            engine, f"third {rule}", {"x": x}, method, layers="x", baselines={"x": y}, target=logit(2), steps=13,
            quadrature=rule,
        )
        for method in ("neuron_ig", "integrated_gradients")
    ]  # fmt: skip
    np.testing.assert_allclose(values(both[0]), values(both[1]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", UNIFORM)
@pytest.mark.parametrize("n", [1, 2, 9])
def test_4_at_the_target_logit_the_target_gets_all_and_the_others_exactly_nothing(
    engine: Engine, rng: np.random.Generator, rule: Quadrature, n: int
) -> None:
    net, (x, y) = dense(rng), points(rng)
    answer = explain(
        engine, net, {"x": x}, layers="y", baselines={"x": y}, target=logit(1), steps=n, quadrature=rule
    )
    change = answer.target.value - answer.target.baseline_value
    np.testing.assert_allclose(values(answer)[:, 1], change, rtol=1e-12)
    np.testing.assert_array_equal(values(answer)[:, [0, 2]], 0)


@pytest.mark.parametrize("rule", UNIFORM)
@pytest.mark.parametrize("n", [1, 2, 9])
def test_5_under_a_linear_head_it_is_weight_times_difference_and_equal_to_deeplift(
    engine: Engine, rng: np.random.Generator, rule: Quadrature, n: int
) -> None:
    net, (x, y) = dense(rng), points(rng)
    answer = explain(
        engine, net, {"x": x}, layers="h2", baselines={"x": y}, target=logit(1), steps=n, quadrature=rule
    )
    h, h0 = (hidden(net, at) for at in (x, y))
    np.testing.assert_allclose(values(answer), weight(net, "W3")[:, 1] * (h - h0), rtol=1e-10, atol=1e-13)
    lift = explain(
        engine, net, {"x": x}, "deeplift_rescale", layers="h2", baselines={"x": y}, target=logit(1)
    )
    np.testing.assert_allclose(values(answer), values(lift), rtol=1e-10, atol=1e-13)


def hidden(net: onnx.ModelProto, x: Floats, activation: Callable[[Floats], Any] | None = None) -> Floats:
    """The last hidden layer of a dense net in numpy."""
    f = activation or (lambda z: np.maximum(z, 0))
    for k in (1, 2):
        x = np.asarray(f(x @ weight(net, f"W{k}") + weight(net, f"b{k}")))
    return x


def test_6_a_unit_that_stands_still_or_leads_nowhere_gets_exactly_nothing(
    engine: Engine, rng: np.random.Generator
) -> None:
    net, (x, y) = dense(rng, "Tanh"), points(rng)
    W1, W2 = weight(net, "W1").copy(), weight(net, "W2").copy()
    W1[:, 3] = 0  # unit 3 of h1 is constant along the path
    W2[4, :] = 0  # unit 4 of h1 has no weight downstream
    changed = replaced(net, W1=W1, W2=W2)
    answer = explain(engine, changed, {"x": x}, layers="h1", baselines={"x": y}, target=logit(1))
    np.testing.assert_array_equal(values(answer)[:, [3, 4]], 0)
    assert (values(answer)[:, [0, 1, 2, 5, 6]] != 0).all()


def replaced(net: onnx.ModelProto, **weights: Floats) -> onnx.ModelProto:
    """A copy of a model with other constants."""
    copy = onnx.ModelProto()
    copy.CopyFrom(net)
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    return copy


def test_7_it_does_not_move_when_a_layer_is_rescaled_and_its_outgoing_weights_back(
    engine: Engine, rng: np.random.Generator
) -> None:
    net, (x, y) = dense(rng), points(rng)
    c = rng.uniform(0.1, 10, size=7)  # a ReLU unit of positively scaled input is the scaled unit
    scaled = replaced(
        net, W1=weight(net, "W1") * c, b1=weight(net, "b1") * c, W2=weight(net, "W2") / c[:, None]
    )
    both = [
        explain(engine, m, {"x": x}, layers="h1", baselines={"x": y}, target=logit(0)) for m in (net, scaled)
    ]
    np.testing.assert_allclose(values(both[0]), values(both[1]), rtol=1e-9, atol=1e-12)


def test_8_swapping_the_ends_negates_the_trapezoid_and_swaps_left_and_right(
    engine: Engine, rng: np.random.Generator
) -> None:
    net, (x, y) = dense(rng), points(rng)
    engine.add("swapped", net)

    def at(high: Floats, low: Floats, rule: Quadrature) -> Floats:
        return values(
            ask(
                engine, "swapped", {"x": high}, layers="z1", baselines={"x": low}, target=logit(1), steps=16,
                quadrature=rule,
            )
        )  # fmt: skip

    mirrored: dict[Quadrature, Quadrature] = {"trapezoid": "trapezoid", "left": "right", "right": "left"}
    for rule, other in mirrored.items():
        np.testing.assert_allclose(at(y, x, rule), -at(x, y, other), rtol=1e-10, atol=1e-12)


def test_9_the_attributions_of_a_sum_are_the_sum_of_the_attributions(
    engine: Engine, rng: np.random.Generator
) -> None:
    net, (x, y) = dense(rng), points(rng)
    engine.add("additive", net)
    one, two, both, less = (
        values(ask(engine, "additive", {"x": x}, layers="h1", baselines={"x": y}, target=target))
        for target in (logit(0), logit(1), Target(index=slice(0, 2)), Target(index=0, minus=1))
    )
    np.testing.assert_allclose(both, one + two, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(less, one - two, rtol=1e-10, atol=1e-12)


def test_10_one_step_to_the_right_is_gradient_times_difference(
    engine: Engine, rng: np.random.Generator
) -> None:
    net, (x, y) = dense(rng), points(rng)
    engine.add("one step", net)

    def gradient(at: Floats) -> Floats:
        return values(ask(engine, "one step", {"x": at}, "gradient", layers="z1", target=logit(1)))

    def step(rule: Quadrature) -> Floats:
        return values(
            ask(
                engine, "one step", {"x": x}, layers="z1", baselines={"x": y}, target=logit(1), steps=1,
                quadrature=rule,
            )
        )  # fmt: skip

    difference = (x - y) @ weight(net, "W1")
    np.testing.assert_allclose(step("right"), gradient(x) * difference, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(step("left"), gradient(y) * difference, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        step("trapezoid"), (gradient(x) + gradient(y)) / 2 * difference, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("rule", ["trapezoid", "left", "right", "gausslegendre"])
def test_11_the_chunk_size_does_not_move_the_result(
    digits_path: Path, digits_data: tuple[NDArray[np.float32], Any], rule: Quadrature
) -> None:
    images = digits_data[0][:3]
    found = []
    for memory in (1, 40_000, 2 << 30):
        with Engine(provider="cpu", threads=1, memory_budget=memory) as engine:
            engine.add("digits", digits_path)
            layers = tuple(x.name for x in engine.layers("digits", "Relu"))
            found.append(
                ask(
                    engine,
                    "digits",
                    {"image": images},
                    layers=layers,
                    target=logit(3),
                    steps=21,
                    quadrature=rule,
                )
            )
    for small in found[:2]:
        for name in found[2].layers:
            whole = values(found[2], name)
            scale = float(np.abs(whole).max())
            np.testing.assert_allclose(values(small, name), whole, rtol=0, atol=1e-6 * scale)
    assert found[0].evaluations > found[2].evaluations  # rows at the borders of chunks are evaluated twice


def test_12_a_channel_has_the_sum_over_its_positions(engine: Engine, rng: np.random.Generator) -> None:
    net = model(
        """(double[N,6] x) => (double[N,1] y) {
            z = MatMul(x, W)
            grid = Reshape(z, shape)
            h = Tanh(grid)
            first, second = Split<axis = 1, num_outputs = 2>(h)
            joined = Concat<axis = 1>(first, second)
            flat = Reshape(joined, back)
            w = MatMul(flat, V)
            a = Tanh(w)
            y = MatMul(a, u)
        }""",
        W=rng.normal(size=(6, 8)) / 2, shape=np.array([-1, 2, 4]), back=np.array([-1, 8]),
        V=rng.normal(size=(8, 5)) / 2, u=rng.normal(size=(5, 1)),
    )  # fmt: skip
    x, y = points(rng, 6)
    answer = explain(engine, net, {"x": x}, layers=("h", "first", "second", "flat"), baselines={"x": y})
    channels = values(answer, "h").sum(axis=2)
    alone = [values(answer, name).sum(axis=(1, 2)) for name in ("first", "second")]
    np.testing.assert_allclose(channels, np.stack(alone, axis=1), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(values(answer, "flat"), values(answer, "h").reshape(2, 8), rtol=1e-10)


@pytest.mark.parametrize("rule", UNIFORM)
def test_13_under_a_constant_gradient_the_differences_telescope(
    engine: Engine, rng: np.random.Generator, rule: Quadrature
) -> None:
    net, (x, y) = dense(rng), points(rng)
    whole = Target(tensor="h2", index=slice(None))
    answer = explain(
        engine, net, {"x": x}, layers="h2", baselines={"x": y}, target=whole, steps=17, quadrature=rule
    )
    np.testing.assert_allclose(values(answer), hidden(net, x) - hidden(net, y), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", UNIFORM)
@pytest.mark.parametrize("n", [1, 2, 5, 64])
def test_13_the_terms_of_a_plan_lead_from_the_baseline_to_the_input(rule: Quadrature, n: int) -> None:
    plan = conductance_plan(rule, n)
    for terms in (plan.fine, plan.coarse):
        gained = np.zeros(n + 1)
        for term in terms:
            gained[term.right] += term.weight
            gained[term.left] -= term.weight
        if terms:
            np.testing.assert_array_equal(gained, [-1.0, *[0.0] * (n - 1), 1.0])


def test_a_bias_free_net_at_its_zero_baseline_loses_half_a_step_by_the_trapezoid_and_none_to_the_right(
    engine: Engine, rng: np.random.Generator
) -> None:
    """At 0 every ReLU sits on its kink and its gradient there is 0 by convention."""
    net, (x, _) = dense(rng, bias=False), points(rng)
    engine.add("bias-free", net)
    for rule, lost in (("right", 0.0), ("trapezoid", 1 / 20), ("left", 1 / 10)):
        answer = ask(
            engine, "bias-free", {"x": x}, layers="h1", target=logit(0), steps=10, quadrature=rule  # type: ignore[arg-type]
        )  # fmt: skip
        np.testing.assert_allclose(
            answer.layers["h1"].residual, -lost * answer.target.value, rtol=1e-9, atol=1e-12
        )


def test_the_error_estimate_is_of_the_size_of_the_error(engine: Engine, rng: np.random.Generator) -> None:
    """The coarse grid's error is about four times the fine one's, so their difference is about three times it."""
    net, (x, y) = dense(rng, "Tanh"), points(rng)
    engine.add("estimate", net)
    coarse, fine = (
        ask(engine, "estimate", {"x": x}, layers="h1", baselines={"x": y}, target=logit(0), steps=n)
        for n in (32, 4096)
    )
    error = np.abs(values(coarse) - values(fine)).sum(axis=1)
    estimate = coarse.layers["h1"].error_estimate
    assert (estimate > error).all()
    assert (estimate < 6 * error).all()
