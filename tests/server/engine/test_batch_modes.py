"""Samples that share a run, are freed to, or run one by one have the same answers, and what runs is counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.server.engine.rows import evaluate
from onnx_attribution.values import (
    Accepted,
    Array,
    Attribution,
    AttributionRequest,
    Progress,
    Revision,
    Target,
)
from tests.method_names import METHODS, SOURCE_METHODS
from tests.server.engine.test_engine import parsed, relu_layers, wide

Data = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.mark.parametrize("method", METHODS)
def test_the_freed_export_of_the_digits_answers_like_the_dynamic_one(
    engine: Engine, digits_data: Data, method: str
) -> None:
    images = digits_data[0][:4]
    found: list[Attribution] = []
    for name in ("digits", "fixed"):
        layers = () if method in SOURCE_METHODS else ("image", *relu_layers(engine, name))
        found.append(
            engine.attribute(
                AttributionRequest(
                    name, {"image": images}, method, layers=layers, target=Target(index=[0, 4, 7, 9]), steps=8,
                    baselines={"image": 0.25}, source=("image",),
                )
            )
        )  # fmt: skip
    dynamic, freed = found
    assert (dynamic.batch, freed.batch) == ("dynamic", "freed")
    np.testing.assert_allclose(freed.target.value, dynamic.target.value, rtol=1e-5)
    assert len(freed.layers) == len(dynamic.layers) >= 1
    for a, b in zip(dynamic.layers.values(), freed.layers.values(), strict=True):
        scale = float(np.abs(wide(a.values)).max())
        np.testing.assert_allclose(
            wide(b.values).reshape(a.values.shape), wide(a.values), rtol=0, atol=1e-5 * scale
        )


WEIGHTS = {
    "W": np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32),
    "V": np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32),
}


MIXED = """(float[1,4] x) => (float[1,3] y) <int64[1] rows = {0}> {
    z = MatMul(x, W)
    h = Tanh(z)
    m = ReduceMean<keepdims = 1>(h, rows)
    p = Mul(h, m)
    y = MatMul(p, V)
}"""


SEPARABLE = """(float[N,4] x) => (float[N,3] y) {
    z = MatMul(x, W)
    h = Tanh(z)
    p = Mul(h, h)
    y = MatMul(p, V)
}"""


@pytest.mark.parametrize("method", METHODS)
def test_a_model_whose_batch_is_mixed_has_the_sums_of_the_same_function_one_row_a_run(
    rng: np.random.Generator, method: str
) -> None:
    """A mean over the batch is the identity for one row: `h * mean(h)` is `h * h`."""
    x, low = rng.normal(size=(2, 3, 4)).astype(np.float32)
    found = []
    with Engine(provider="cpu", threads=1) as engine:
        for name, body in (("mixed", MIXED), ("separable", SEPARABLE)):
            engine.add(name, parsed(body, **WEIGHTS))
            inputs = x[:, None] if name == "mixed" else x
            baseline = low[:, None] if name == "mixed" else low
            layers = ("x",) if method in SOURCE_METHODS else ("x", "h", "p")
            found.append(
                engine.attribute(
                    AttributionRequest(
                        name, {"x": inputs}, method, layers=layers, source=("x",), target=Target(index=[0, 1, 2]),
                        baselines={"x": baseline}, steps=10,
                    )
                )
            )  # fmt: skip
    mixed, separable = found
    assert (mixed.batch, separable.batch) == ("single", "dynamic")
    np.testing.assert_allclose(mixed.target.value, separable.target.value, rtol=1e-5)
    np.testing.assert_allclose(mixed.target.baseline_value, separable.target.baseline_value, rtol=1e-5)
    for name, layer in separable.layers.items():
        other = mixed.layers[name]
        np.testing.assert_allclose(
            wide(other.values).reshape(layer.values.shape), wide(layer.values), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(other.sum, layer.sum, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(other.error_estimate, layer.error_estimate, rtol=1e-3, atol=1e-6)


FOLDED = """(float[N,2,4] x) => (float[N,2] y)
    <int64[2] rows = {-1, 4}, int64[2] back = {-1, 6}, float[6,2] U = {1,-1,0.5,2,-0.3,1,0.7,-2,1.5,0.2,-1,1}> {
        r = Reshape(x, rows)
        z = MatMul(r, W)
        h = Tanh(z)
        p = MatMul(h, V)
        q = Reshape(p, back)
        t = Tanh(q)
        y = MatMul(t, U)
    }"""


SECOND_AXIS = """(float[2,N,4] x) => (float[3,N] y) <int64[1] first = {0}> {
    z = MatMul(x, W)
    h = Tanh(z)
    p = MatMul(h, V)
    s = ReduceSum<keepdims = 0>(p, first)
    c = Tanh(s)
    y = Transpose<perm = [1, 0]>(c)
}"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", ["x", "r", "z"])
@pytest.mark.parametrize(
    "target", [Target(index=1), Target("p", (1, 2)), Target("h", (slice(None), 0))], ids=str
)
def test_samples_that_a_reshape_folds_into_rows_answer_together_as_alone(
    rng: np.random.Generator, method: str, source: str, target: Target
) -> None:
    """`r` to `p` hold two neighbouring rows for each sample, as layers, as sources and as targets."""
    x, low = rng.normal(size=(2, 3, 2, 4)).astype(np.float32)
    layers = () if method in SOURCE_METHODS else ("z", "h")
    assert_together_as_alone(parsed(FOLDED, **WEIGHTS), 0, x, low, method, layers, source, target)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", ["x", "z"])
def test_samples_along_the_second_axis_answer_together_as_alone(
    rng: np.random.Generator, method: str, source: str
) -> None:
    x, low = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
    layers = () if method in SOURCE_METHODS else (source, "h", "s", "c")
    assert_together_as_alone(
        parsed(SECOND_AXIS, **WEIGHTS), 1, x, low, method, layers, source, Target(index=2)
    )


def assert_together_as_alone(
    proto: onnx.ModelProto,
    axis: int,
    x: Array,
    low: Array,
    method: str,
    layers: tuple[str, ...],
    source: str,
    target: Target,
) -> None:
    """The answer about three samples is the three answers about one; cut layers are complete."""
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", proto, batch_axes={"x": axis})

        def answer(at: Array, reference: Array) -> Attribution:
            return engine.attribute(
                AttributionRequest(
                    "net", {"x": at}, method, layers=layers, source=(source,), target=target, steps=64,
                    baselines={"x": reference},
                )
            )  # fmt: skip

        whole = answer(x, low)
        alone = [answer(*(np.take(a, [k], axis=axis) for a in (x, low))) for k in range(3)]
    for name, layer in whole.layers.items():
        expected = np.concatenate([wide(one.layers[name].values) for one in alone])
        assert layer.values.shape == expected.shape
        np.testing.assert_allclose(wide(layer.values), expected, rtol=1e-4, atol=1e-5)
        if layer.cut and method in ("neuron_ig", "integrated_gradients", "deeplift_rescale"):
            np.testing.assert_allclose(layer.residual, 0, atol=1e-2)  # the trapezoid's error at 64 steps


def test_a_hidden_source_has_the_baseline_of_its_input_and_says_so(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 4)).astype(np.float32)
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", parsed(SEPARABLE, **WEIGHTS))
        found = engine.attribute(
            AttributionRequest(
                "net", {"x": x}, "integrated_gradients", layers=("h",), target=Target(index=1),
                baselines={"x": 0.5}, steps=2,
            )
        )  # fmt: skip
        given = engine.attribute(
            AttributionRequest(
                "net", {"x": x}, "integrated_gradients", source=("h",), target=Target(index=1), steps=2,
                baselines={"h": np.tanh(np.full((1, 4), 0.5) @ WEIGHTS["W"])},
            )
        )  # fmt: skip
    h, h0 = np.tanh(x @ WEIGHTS["W"]), np.tanh(np.full(4, 0.5) @ WEIGHTS["W"])
    expected = (h - h0) * (h + h0) * WEIGHTS["V"][:, 1]  # quadratic in h: the trapezoid is exact
    np.testing.assert_allclose(wide(found.layers["h"].values), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(wide(given.layers["h"].values), expected, rtol=1e-4, atol=1e-5)
    assert any("activation at the baseline of 'x'" in w for w in found.warnings)


@pytest.mark.parametrize("limit", [256, 5])
@pytest.mark.parametrize("name", ["digits", "mixed"])
@pytest.mark.parametrize("method", METHODS)
def test_evaluations_are_the_rows_that_ran(
    digits_path: Path,
    digits_data: Data,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    name: str,
    limit: int,
) -> None:
    """Counted at the runtime: rows of a path program, else samples, and DeepLIFT's references."""
    counted: list[int] = []
    run = Session.run

    def counting(self: Session, inputs: dict[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        first = inputs["image"] if "image" in inputs else inputs.get("x")
        rows = len(inputs["path/row_sample"]) if "path/row_sample" in inputs else len(np.asarray(first))
        references = [len(a) for n, a in inputs.items() if n.startswith("baseline/")]
        kept = any(n.startswith("reference/") for n in inputs)
        lifts = any(n.startswith("contribution/") for n in self.outputs) and not kept
        counted.append(rows + (references[0] if lifts else 0))
        return run(self, inputs, outputs)

    monkeypatch.setattr(evaluate, "MAX_ROWS", limit)
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("digits", digits_path)
        engine.add("mixed", parsed(MIXED, **WEIGHTS))
        inputs: dict[str, Array] = (
            {"image": digits_data[0][:3]}
            if name == "digits"
            else {"x": rng.normal(size=(3, 1, 4)).astype(np.float32)}
        )
        asked = AttributionRequest(name, inputs, method, target=Target(index=1), steps=9)
        engine.attribute(asked)  # loads, proves and builds
        monkeypatch.setattr(Session, "run", counting)
        events = list(engine.stream(asked))
    (answer,) = [e.attribution for e in events if isinstance(e, Revision)]
    assert answer.evaluations == sum(counted)
    accepted, last = events[0], [e for e in events if isinstance(e, Progress)][-1]
    assert isinstance(accepted, Accepted)
    assert accepted.planned_evaluations == last.done == answer.evaluations
