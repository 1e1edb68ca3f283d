"""Baselines on a singular point: the node is named, and what is proposed instead works."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, AttributionRequest, Target
from tests.method_names import PATH_METHODS
from tests.methods.toys import model

ROOTS = "(double[N,3] x) => (double[N] y) { [root] r = Sqrt(x) y = ReduceSum<keepdims=0>(r, axes) }"
BRANCHED = """(double[N,3] x, bool loud) => (double[N] y) {
    r = If(loud) <
        then_branch = a () => (double[N,3] s) { [root] s = Sqrt(x) },
        else_branch = b () => (double[N,3] t) { t = Identity(x) }
    >
    y = ReduceSum<keepdims=0>(r, axes)
}"""
SIZE, LAYERS = 16, 4
NORMS = "(float[N,16] x) => (float[N,2] y) {" + "".join(
    f"[norm{k}] n{k} = LayerNormalization<axis=-1, epsilon=1e-9>({f'h{k}' if k else 'x'}, one)\n"
    f"m{k} = MatMul(n{k}, W{k})\nh{k + 1} = Tanh(m{k})\n"
    for k in range(LAYERS)
) + f"y = MatMul(h{LAYERS}, V) }}"  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    rng = np.random.default_rng(0)
    weights = {f"W{k}": rng.normal(size=(SIZE, SIZE)) / 4 for k in range(LAYERS)} | {
        "V": rng.normal(size=(SIZE, 2))
    }
    narrow = {n: a.astype(np.float32) for n, a in (weights | {"one": np.ones(SIZE)}).items()}
    with Engine(provider="cpu", threads=1) as made:
        made.add("roots", model(ROOTS, axes=[1]))
        made.add("branched", model(BRANCHED, axes=[1]))
        made.add("norms", model(NORMS, **narrow))
        yield made


def proposed(answer: Attribution) -> str:
    """What the only warning says is to be tried."""
    (note,) = [w for w in answer.warnings if "; try " in w]
    return note.partition("; try ")[2]


@pytest.mark.parametrize("method", sorted(PATH_METHODS))
@pytest.mark.parametrize("name", ["roots", "branched"])
def test_a_root_at_0_is_named_and_a_quadrature_without_the_ends_works(
    engine: Engine, method: str, name: str
) -> None:
    inputs = {"x": np.array([[1.0, 4.0, 9.0]])} | ({"loud": np.array(True)} if name == "branched" else {})
    asked = AttributionRequest(name, inputs, method, source=["x"], steps=64)
    answer = engine.attribute(asked)
    (note,) = [w for w in answer.warnings if "infinite numbers" in w]
    assert "infinity begins in the backward pass, at Sqrt (node 'root'" in note
    assert ", at the baseline; try " in note
    assert proposed(answer).startswith("the quadrature 'gausslegendre'")
    better = engine.attribute(
        AttributionRequest(name, inputs, method, source=["x"], steps=64, quadrature="gausslegendre")
    )
    np.testing.assert_allclose(better.layers["x"].sum, 6, rtol=0.05)


@pytest.mark.parametrize("method", sorted(PATH_METHODS))
def test_stacked_normalisations_of_zeros_are_named_and_noise_works(engine: Engine, method: str) -> None:
    x = np.random.default_rng(1).normal(size=(2, SIZE)).astype(np.float32)
    answer = engine.attribute(AttributionRequest("norms", {"x": x}, method, target=Target(index=0), steps=64))
    change = answer.target.value - answer.target.baseline_value
    assert (np.abs(answer.layers["x"].residual) > np.abs(change)).any()
    (note,) = [w for w in answer.warnings if "miss" in w]
    assert (
        "the gradient is steep at the baseline, through a normalisation of constants, LayerNormalization (node 'norm"
        in note
    )
    share = re.fullmatch(
        r"noise at the baseline \(normal, (\S+) of the largest number of the input\)", proposed(answer)
    )
    assert share is not None
    worst = int(np.argmax(np.abs(answer.layers["x"].residual / change)))
    noise = np.random.default_rng(0).normal(size=(1, SIZE)) * float(share[1]) * np.abs(x[worst]).max()
    better = engine.attribute(
        AttributionRequest(
            "norms", {"x": x[[worst]]}, method, target=Target(index=0), steps=64,
            baselines={"x": noise.astype(np.float32)},
        )
    )  # fmt: skip
    moved = better.target.value - better.target.baseline_value
    assert abs(better.layers["x"].residual[0]) < 0.06 * abs(moved[0])


def test_without_advice_the_warning_is_that_of_more_steps_and_nothing_more_is_run(engine: Engine) -> None:
    x = np.random.default_rng(1).normal(size=(2, SIZE)).astype(np.float32)
    ask = AttributionRequest("norms", {"x": x}, "neuron_ig", target=Target(index=0), steps=64)
    advised, plain = engine.attribute(ask), engine.attribute(ask, advise=False)
    np.testing.assert_array_equal(plain.layers["x"].values, advised.layers["x"].values)
    assert "noise at the baseline" in proposed(advised)
    assert proposed(plain) == "more steps, a tolerance or another baseline"
