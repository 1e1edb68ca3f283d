"""The engine: threads, refusals, batch modes that agree, evaluations that are counted, tolerances that stop."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import (
    AttributionError,
    Cancelled,
    InvalidArgument,
    ModelError,
    NotDifferentiable,
    NotFound,
    NotReady,
    Overloaded,
)
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.rows import evaluate
from onnx_attribution.values import (
    Accepted,
    Array,
    Attribution,
    AttributionRequest,
    Completed,
    Progress,
    Revision,
    Target,
)
from tests.method_names import METHODS, SOURCE_METHODS

Data = tuple[NDArray[np.float32], NDArray[np.int64]]
Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def engine(digits_path: Path, digits_fixed_path: Path) -> Iterator[Engine]:
    """Returns an engine with both exports of the digits model."""
    with Engine(provider="cpu", threads=1) as made:
        made.add("digits", digits_path)
        made.add("fixed", digits_fixed_path)
        yield made


@pytest.fixture
def request_(digits_data: Data) -> AttributionRequest:
    """Returns a question about three digits."""
    return AttributionRequest(
        "digits", {"image": digits_data[0][:3]}, "neuron_ig", target=Target(index=[1, 2, 3]), steps=8
    )


def parsed(body: str, **weights: Any) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 21]> g {body}')
    for name, value in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return proto


def wide(array: Array) -> Floats:
    return np.asarray(array, np.float64)


def relu_layers(engine: Engine, name: str) -> tuple[str, ...]:
    return tuple(x.name for x in engine.layers(name, "Relu"))


# --- Threads and life


@pytest.mark.parametrize("method", METHODS)
def test_eight_threads_have_the_answer_of_one(digits_path: Path, digits_data: Data, method: str) -> None:
    """The model is loaded and its programs are built under way, by whichever thread is first."""
    images = digits_data[0]
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("digits", digits_path)

        def answer(k: int) -> Floats:
            found = engine.attribute(
                AttributionRequest(
                    "digits", {"image": images[k : k + 2]}, method, target=Target(index=k % 10), steps=6,
                    source=("image",),
                )
            )  # fmt: skip
            return np.asarray(found.layers["image"].values, np.float64)

        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(answer, range(24)))
        for k in range(24):
            np.testing.assert_array_equal(together[k], answer(k))


def test_eight_threads_load_a_model_once(
    digits_path: Path, digits_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    class Counted(LoadedModel):
        def __init__(self, *given: Any) -> None:
            loads.append(1)
            super().__init__(*given)

    monkeypatch.setattr("onnx_attribution.server.engine.models.registry.LoadedModel", Counted)
    with Engine(provider="cpu", threads=1) as engine, ThreadPoolExecutor(8) as pool:
        engine.add("digits", digits_path)
        outputs = list(pool.map(lambda _: engine.predict("digits", {"image": digits_data[0][:2]}), range(8)))
    assert len(loads) == 1
    assert len(outputs) == 8


CALLS: dict[str, Callable[[Engine, dict[str, Array]], object]] = {
    "attribute": lambda engine, inputs: engine.attribute(AttributionRequest("digits", inputs, "gradient")),
    "predict": lambda engine, inputs: engine.predict("digits", inputs),
    "layers": lambda engine, _: engine.layers("digits"),
    "info": lambda engine, _: engine.info("digits"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_engine_refuses(digits_path: Path, digits_data: Data, call: str) -> None:
    inputs: dict[str, Array] = {"image": digits_data[0][:1]}
    engine = Engine(provider="cpu", threads=1)
    engine.add("digits", digits_path)
    CALLS[call](engine, inputs)
    engine.close()
    with pytest.raises(NotReady, match="closed"):
        CALLS[call](engine, inputs)


def test_closing_twice_is_closing_once() -> None:
    engine = Engine(provider="cpu", threads=1)
    engine.close()
    engine.close()


# --- Refusals


def digits(images: Array, **changes: Any) -> AttributionRequest:
    return replace(AttributionRequest("digits", {"image": images}, "neuron_ig", steps=4), **changes)


IMAGE = np.zeros((2, 1, 8, 8), dtype=np.float32)
NAN = IMAGE.copy()
NAN[1, 0, 2, 3] = np.nan
REFUSALS: dict[str, tuple[dict[str, Any], type[AttributionError], str, str]] = {
    "wrong model": (
        {"model": "digit"},
        NotFound,
        "MODEL_NOT_FOUND",
        r"no model 'digit'; close names: digits",
    ),
    "wrong version": (
        {"model": "digits/versions/9"},
        NotFound,
        "VERSION_NOT_FOUND",
        r"no version '9'; it has: 1",
    ),
    "wrong method": (
        {"method": "saliency"},
        InvalidArgument,
        "PARAMETER_INVALID",
        r"no method 'saliency'; there are: gradient",
    ),
    "wrong input": (
        {"inputs": {"picture": IMAGE, "image": IMAGE}},
        InvalidArgument,
        "INPUT_UNKNOWN",
        r"there is no input 'picture'; the inputs are 'image'",
    ),
    "missing input": ({"inputs": {}}, InvalidArgument, "INPUT_MISSING", r"input 'image' is missing"),
    "wrong input and a missing one": (
        {"inputs": {"picture": IMAGE}},
        InvalidArgument,
        "INPUT_INVALID",
        r"'image' is missing; there is no input 'picture'",
    ),
    "wrong rank": (
        {"inputs": {"image": IMAGE[0, 0]}},
        InvalidArgument,
        "SHAPE_MISMATCH",
        r"input 'image' has shape \[8, 8\]; the model takes \['batch', 1, 8, 8\]",
    ),
    "wrong size": (
        {"inputs": {"image": IMAGE[..., :7]}},
        InvalidArgument,
        "SHAPE_MISMATCH",
        r"'image' has shape \[2, 1, 8, 7\]",
    ),
    "no samples": (
        {"inputs": {"image": IMAGE[:0]}},
        InvalidArgument,
        "SHAPE_MISMATCH",
        r"'image' has shape \[0, 1, 8, 8\]",
    ),
    "too many samples": (
        {"inputs": {"image": np.zeros((257, 1, 8, 8), np.float32)}},
        InvalidArgument,
        "REQUEST_TOO_LARGE",
        r"257 samples; it may hold 1 to 256",
    ),
    "wrong type": (
        {"inputs": {"image": IMAGE.astype(np.int64)}},
        InvalidArgument,
        "DTYPE_MISMATCH",
        r"input 'image' has type int64; the model takes float32",
    ),
    "NaN": (
        {"inputs": {"image": NAN}},
        InvalidArgument,
        "NON_FINITE_INPUT",
        r"'image' holds 1 numbers that are NaN or infinite, the first at \(1, 0, 2, 3\)",
    ),
    "wrong layer": (
        {"layers": ("conv9",)},
        NotFound,
        "NODE_NOT_FOUND",
        r"no tensor or node 'conv9'; close names: \S",
    ),
    "wrong source": (
        {"source": ("imag",)},
        NotFound,
        "NODE_NOT_FOUND",
        r"no tensor or node 'imag'; close names: .*image",
    ),
    "target out of range": (
        {"target": Target(index=10)},
        InvalidArgument,
        "TARGET_INVALID",
        r"index 10 is out of range along axis 0; legal are 0 to 9",
    ),
    "wrong target": (
        {"target": Target("logit")},
        NotFound,
        "NODE_NOT_FOUND",
        r"no tensor or node 'logit'; close names: .*logits",
    ),
    "layer behind the target": (
        {"layers": ("logits",), "target": Target("*relu*", index=(0, 0, 0))},
        NotDifferentiable,
        "NO_PATH",
        r"layer 'logits' does not lie between the source 'image' and the target",
    ),
    "layer before the source": (
        {"layers": ("image",), "source": ("*relu*",)},
        NotDifferentiable,
        "NO_PATH",
        r"layer 'image' does not lie between the source",
    ),
    "wrong baseline": (
        {"baselines": {"image": np.zeros((3, 3))}},
        InvalidArgument,
        "BASELINE_INVALID",
        r"the baseline of 'image' has shape \[3, 3\]; it must broadcast to \[2, 1, 8, 8\]",
    ),
    "NaN in the baseline": (
        {"baselines": {"image": float("nan")}},
        InvalidArgument,
        "BASELINE_INVALID",
        r"baseline of 'image' holds NaN",
    ),
    "baseline beyond the type": (
        {"baselines": {"image": 1e300}},
        InvalidArgument,
        "BASELINE_INVALID",
        r"baseline of 'image' holds numbers outside float32",
    ),
    "baseline of no source": (
        {"baselines": {"logits": 0.0}},
        InvalidArgument,
        "BASELINE_INVALID",
        r"'logits' has a baseline but is no source",
    ),
}


def one_relu(engine: Engine, names: Sequence[str]) -> tuple[str, ...]:
    """Layer names, with `*relu*` as the first ReLU's output."""
    return tuple(relu_layers(engine, "digits")[0] if name == "*relu*" else name for name in names)


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_answered_is_refused_by_name(engine: Engine, case: str) -> None:
    changes, error, reason, words = REFUSALS[case]
    asked = digits(IMAGE, **changes)
    (target,) = asked.each_target
    if target.tensor is not None:
        target = replace(target, tensor=one_relu(engine, [target.tensor])[0])
    asked = replace(
        asked, layers=one_relu(engine, asked.layers), source=one_relu(engine, asked.source), target=target
    )
    with pytest.raises(error, match=words) as caught:
        engine.attribute(asked)
    assert caught.value.reason == reason
    with pytest.raises(error, match=words):
        list(engine.stream(asked))


TOKENS = """(int64[N,3] ids, float[N,3] weight) => (float[N,2] y)
    <float[5,2] table = {1,2,3,4,5,6,7,8,9,0}, int64[1] two = {2}, int64[1] one = {1}> {
        e = Gather(table, ids)
        w = Unsqueeze(weight, two)
        p = Mul(e, w)
        s = ReduceSum<keepdims = 0>(p, one)
        y = Tanh(s)
    }"""


def test_an_integer_source_is_refused_with_a_float_one_proposed() -> None:
    inputs = {"ids": np.array([[1, 2, 3]]), "weight": np.ones((1, 3), np.float32)}
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("tokens", parsed(TOKENS))
        with pytest.raises(NotDifferentiable, match=r"source 'ids' has type int64; .*a float source is 'e'"):
            engine.attribute(AttributionRequest("tokens", inputs, "gradient", source=("ids",)))
        with pytest.raises(InvalidArgument, match=r"input 'ids' has type float32; the model takes int64"):
            engine.attribute(AttributionRequest("tokens", {**inputs, "ids": np.ones((1, 3), np.float32)}))
        with pytest.raises(InvalidArgument, match="different numbers of samples: 'ids': 2, 'weight': 3"):
            engine.attribute(
                AttributionRequest(
                    "tokens", {"ids": np.ones((2, 3), np.int64), "weight": np.ones((3, 3), np.float32)}
                )
            )


def test_a_token_outside_the_table_is_refused_with_the_range(engine: Engine) -> None:
    inputs = {"ids": np.array([[1, 7, 3], [4, 0, 0]]), "weight": np.ones((2, 3), np.float32)}
    engine.add("tokens", parsed(TOKENS))
    words = r"the model cannot be run on these inputs: input 'ids' holds 7; Gather \(node '[^']*'\) looks up 0 to 4$"
    for call in (
        lambda: engine.predict("tokens", inputs),
        lambda: engine.attribute(AttributionRequest("tokens", inputs, "gradient", target=Target(index=0))),
    ):
        with pytest.raises(InvalidArgument, match=words) as caught:
            call()
        assert caught.value.reason == "INPUT_INVALID"
        assert caught.value.metadata["legal"] == "0..4"
        assert list(caught.value.violations) == ["inputs.ids"]
    low = {"ids": np.array([[1, 2, 3]]), "weight": np.ones((1, 3), np.float32)}
    asked = AttributionRequest(
        "tokens", low, "occlusion", source=["ids"], baselines={"ids": 9}, target=Target(index=0)
    )
    with pytest.raises(InvalidArgument, match=r"cannot be run at the baseline: input 'ids' holds 9"):
        engine.attribute(asked)


@pytest.mark.parametrize(
    ("body", "inputs", "words"),
    [
        (
            "(float[N,T] x, float[N,U] z) => (float[M,V] y) { y = Concat<axis = 0>(x, z) }",
            {"x": np.ones((1, 3)), "z": np.ones((1, 4))},
            r"Concat \(node '\w+'\): .*Axis 1 has mismatched dimensions of 4 and 3",
        ),
        (
            "(float[N,T] x, float[N,U] z) => (float[N,V] y) { y = Add(x, z) }",
            {"x": np.ones((1, 3)), "z": np.ones((1, 2))},
            r"Add \(node '\w+'\): Attempting to broadcast an axis by a dimension other than 1. 2 by 3",
        ),
        (
            "(float[N,T] x) => (float[N,V] y) <int64[2] s = {-1, 2}> { y = Reshape(x, s) }",
            {"x": np.ones((1, 3))},
            r"Reshape \(node '\w+'\): .*Input shape:\{1,3\}",
        ),
        (
            "(int64[N,1] k) => (float[N,1] y) <float[1,3] t = {1,2,3}> { y = GatherElements<axis = 1>(t, k) }",
            {"k": np.array([[9]])},
            r"GatherElements \(node '\w+'\): .*Out of range value in index tensor",
        ),
    ],
)
def test_inputs_on_which_the_model_does_not_run_are_refused_without_places_in_the_runtime(
    body: str, inputs: dict[str, Array], words: str
) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("net", parsed(body), shapes={n: (1, 2) for n in inputs if n != "k"})
        with pytest.raises(
            InvalidArgument, match=f"the model cannot be run on these inputs: {words}"
        ) as caught:
            engine.predict("net", inputs)
    assert not re.search(
        r"ONNXRuntimeError|Status Message|Non-zero|::|\.(h|cc):\d|/onnx|was false", str(caught.value)
    )


def test_a_run_beyond_the_memory_is_overload_and_not_an_input_error() -> None:
    body = "(float[N,1] x, int64[2] s) => (float[N,M] y) { y = Expand(x, s) }"
    with Engine(provider="cpu") as engine:
        engine.add("net", parsed(body), example={"s": np.array([1, 2])}, batch_axes={"s": None})
        with pytest.raises(Overloaded):
            engine.predict("net", {"x": np.ones((1, 1)), "s": np.array([1, 1 << 42])})


def test_a_file_that_is_no_model_is_refused_at_first_use_and_told_in_the_list(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("broken", tmp_path / "broken.onnx")
        assert engine.models()[0].state == "UNLOADED"
        for _ in range(2):
            with pytest.raises(ModelError, match="model 'broken' cannot be loaded"):
                engine.predict("broken", {})
        assert engine.models()[0].state == "FAILED"
        assert "cannot be loaded" in engine.models()[0].reason


# --- Batch modes


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


# --- Evaluations


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
        lifts = any(n.startswith("contribution/") for n in self.outputs)
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


# --- Streams


def test_a_stream_is_accepted_progresses_and_completes(engine: Engine, request_: AttributionRequest) -> None:
    events = list(engine.stream(request_.changed(layers=relu_layers(engine, "digits"))))
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Completed)
    assert [type(e) for e in events].count(Revision) == 1
    done = [e.done for e in events if isinstance(e, Progress)]
    assert done == sorted(done)


def revisions(events: Sequence[object]) -> list[Attribution]:
    return [e.attribution for e in events if isinstance(e, Revision)]


def relative_error(answer: Attribution) -> float:
    return max(
        float((x.error_estimate / np.abs(wide(x.values)).reshape(len(x.values), -1).sum(axis=1)).max())
        for x in answer.layers.values()
    )


def test_a_tolerance_stops_at_the_first_grid_that_meets_it(
    engine: Engine, request_: AttributionRequest
) -> None:
    asked = request_.changed(layers=(), steps=4, tolerance=0.02, max_steps=4096)
    events = list(engine.stream(asked))
    found = revisions(events)
    assert [a.steps for a in found] == [4 * 2**k for k in range(len(found))]
    assert len(found) > 1
    assert all(relative_error(a) > 0.02 for a in found[:-1])
    assert relative_error(found[-1]) <= 0.02
    assert events[-1] == Completed("converged", len(found) - 1)
    assert engine.attribute(asked).steps == found[-1].steps
    spent = [a.evaluations for a in found]
    assert spent == sorted(spent)


def test_a_tolerance_that_cannot_be_met_ends_at_max_steps_with_the_best_revision(
    engine: Engine, request_: AttributionRequest
) -> None:
    events = list(engine.stream(request_.changed(layers=(), steps=4, tolerance=1e-12, max_steps=20)))
    found = revisions(events)
    assert [a.steps for a in found] == [4, 8, 16, 20]
    errors = [relative_error(a) for a in found]
    assert events[-1] == Completed("max_steps", int(np.argmin(errors)))


def test_a_method_without_a_path_is_exact_in_one_revision(
    engine: Engine, request_: AttributionRequest
) -> None:
    events = list(engine.stream(request_.changed(layers=(), method="deeplift_rescale", tolerance=1e-3)))
    assert len(revisions(events)) == 1
    assert events[-1] == Completed("exact", 0)


def test_a_wish_to_stop_is_granted_once_there_is_a_revision(
    engine: Engine, request_: AttributionRequest
) -> None:
    asked = request_.changed(layers=(), steps=4, tolerance=1e-12, max_steps=256)
    events = list(engine.stream(asked, stop=lambda: "deadline_near"))
    assert [a.steps for a in revisions(events)] == [4]
    assert events[-1] == Completed("deadline_near", 0)


def test_a_cancelled_stream_ends_at_once(engine: Engine, request_: AttributionRequest) -> None:
    asked = request_.changed(layers=(), steps=4)
    with pytest.raises(Cancelled):
        list(engine.stream(asked, stop=lambda: "cancelled"))


def test_a_layer_named_alone_is_refused_not_spelled_out(digits_path: Path) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        request = AttributionRequest("digits", {"image": np.zeros((1, 1, 8, 8))}, layers="conv2")
        with pytest.raises(InvalidArgument, match="sequences of names"):
            engine.attribute(request)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 1.5}, "no integer"),
        ({"tolerance": 1e-9, "max_steps": 20000}, "max_steps is 20000"),
        ({"multiply_by_inputs": False}, "neuron_ig knows no multiply_by_inputs"),
        ({"inputs": {"image": [[1.0], [1.0, 2.0]]}}, "ragged"),
        ({"inputs": [1.0]}, "inputs map"),
        ({"baselines": 0.5}, "baselines map"),
        ({"target": Target(index=slice("a", None))}, "no integers"),
        ({"target": Target(index=slice(None, None, 0))}, "step 0"),
    ],
)
def test_what_has_the_wrong_form_is_refused_by_name(digits_path: Path, change: Any, words: str) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        request = AttributionRequest("digits", {"image": np.zeros((1, 1, 8, 8))})
        with pytest.raises(InvalidArgument, match=words):
            engine.attribute(request.changed(**change))


def test_a_model_that_failed_to_load_keeps_no_frames_of_its_callers(tmp_path: Path) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("bad", tmp_path / "missing.onnx")
        depths = []
        for _ in range(3):
            with pytest.raises(ModelError) as refusal:
                engine.info("bad")
            depths.append(len(list(traceback.walk_tb(refusal.value.__traceback__))))
        assert depths[1] == depths[2]


def test_a_large_grid_is_accepted_at_once(digits_path: Path) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        engine.info("digits")
        images = np.zeros((256, 1, 8, 8), dtype=np.float32)
        asked = AttributionRequest("digits", {"image": images}, steps=16384, layers=["conv2"])
        first = next(engine.stream(asked))
        assert isinstance(first, Accepted)
        assert first.planned_evaluations >= 256 * 16385


def test_baselines_are_named_like_sources(digits_path: Path) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        image = np.ones((1, 1, 8, 8), dtype=np.float32)
        answers = [
            engine.attribute(
                AttributionRequest(
                    "digits",
                    {"image": image},
                    "deeplift_rescale",
                    ["relu2"],
                    source=[name],
                    baselines={name: 0.2},
                )
            )
            for name in ("conv1", "/conv1/Conv")
        ]
        np.testing.assert_array_equal(answers[0].layers["relu2"].values, answers[1].layers["relu2"].values)


def test_sizes_of_one_name_must_be_equal() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> n (float[N,T] x, float[N,T] m) => (float[N,T] y) { y = Mul(x, m) }'
    with Engine(provider="cpu") as engine:
        engine.add("net", onnx.parser.parse_model(text))
        with pytest.raises(InvalidArgument, match="size 7 along 'T', input 'x' has 6"):
            engine.predict("net", {"x": np.ones((1, 6)), "m": np.ones((1, 7))})


def test_a_tensor_that_a_fusion_swallows_can_be_a_layer(shared: Path) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("bert", shared / "models" / "bert-toy-fused" / "model.onnx")
        tokens = {n: np.ones((1, 6), np.int64) for n in ("input_ids", "token_type_ids", "input_mask")}
        answer = engine.attribute(
            AttributionRequest(
                "bert", tokens, "gradient", ["117"], target=Target("seq_relationship_score", 0)
            )
        )
        assert np.isfinite(answer.layers["117"].values).all()


@pytest.mark.parametrize("name", ["target", "weight", "slot", "slots", "row_sample", "target_weight"])
@pytest.mark.parametrize("method", METHODS)
def test_tensors_may_be_called_as_programs_call_theirs(name: str, method: str) -> None:
    graph = f"n (float[N,3] x) => (float[N,3] {name}) {{ h = Exp(x) {name} = Tanh(h) }}"
    text = f'<ir_version: 8, opset_import: ["" : 17]> {graph}'
    with Engine(provider="cpu") as engine:
        engine.add("net", onnx.parser.parse_model(text))
        layers = ["x" if method in SOURCE_METHODS else "h"]
        answer = engine.attribute(
            AttributionRequest("net", {"x": np.ones((2, 3))}, method, layers, target=Target(index=1))
        )
        assert answer.target.tensor == name
        assert np.isfinite(answer.layers[layers[0]].values).all()


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("target/weight", "gradient"),
        ("target/weight", "neuron_ig"),
        ("baseline/x", "deeplift_rescale"),
        ("target/value", "gradient"),
        ("path/row_sample", "neuron_ig"),
    ],
)
def test_a_name_that_a_program_needs_is_refused(name: str, method: str) -> None:
    net = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> n (float[N,3] x) => (float[N,3] y) { h = Tanh(x) y = Mul(h, h) }'
    )
    net.graph.node[0].output[0] = net.graph.node[1].input[0] = net.graph.node[1].input[1] = name
    with Engine(provider="cpu") as engine:
        engine.add("net", net)
        with pytest.raises(ModelError, match=f"a tensor called '{name}'"):
            engine.attribute(
                AttributionRequest("net", {"x": np.ones((2, 3))}, method, target=Target(index=1))
            )


@pytest.mark.parametrize("source", [None, 3, bytearray(b"x"), memoryview(b"x")])
def test_what_is_no_model_is_refused_where_it_is_added(source: Any) -> None:
    with (
        Engine(provider="cpu") as engine,
        pytest.raises(InvalidArgument, match="a path, bytes or a ModelProto, not"),
    ):
        engine.add("net", source)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "occlusion"])
def test_a_scalar_input_is_a_source_of_several_samples(method: str) -> None:
    net = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> n (float[N,3] x, float s) => (float[N,3] y) { y = Mul(x, s) }'
    )
    with Engine(provider="cpu") as engine:
        engine.add("net", net)
        inputs: dict[str, Array] = {"x": np.ones((2, 3), np.float32), "s": np.asarray(2, np.float32)}
        answer = engine.attribute(AttributionRequest("net", inputs, method, target=Target(index=1), steps=2))
    # y = x s: from (0, 0) to (1, 2) each has half of it; the gradient of s is x
    expected = {"gradient": 1.0, "gradient_x_activation": 2.0}.get(method, 1.0)
    np.testing.assert_allclose(wide(answer.layers["s"].values), expected, rtol=1e-5)
