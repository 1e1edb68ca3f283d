"""What the engine cannot answer is refused, by the name of what stands in the way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.errors import (
    AttributionError,
    InvalidArgument,
    ModelError,
    NotDifferentiable,
    NotFound,
    Overloaded,
)
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import (
    Array,
    AttributionRequest,
    Target,
)
from tests.server.engine.test_engine import IMAGE, digits, parsed, relu_layers

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


def test_sizes_of_one_name_must_be_equal() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> n (float[N,T] x, float[N,T] m) => (float[N,T] y) { y = Mul(x, m) }'
    with Engine(provider="cpu") as engine:
        engine.add("net", onnx.parser.parse_model(text))
        with pytest.raises(InvalidArgument, match="size 7 along 'T', input 'x' has 6"):
            engine.predict("net", {"x": np.ones((1, 6)), "m": np.ones((1, 7))})


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("target/weight", "gradient"),
        ("target/weight", "neuron_ig"),
        ("baseline/x", "deeplift_rescale"),
        ("target/value", "gradient"),
        ("path/row_sample", "neuron_ig"),
        ("sample/x", "neuron_ig"),
    ],
)
def test_a_name_that_a_program_needs_is_refused_and_nothing_is_printed(
    name: str, method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    net = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> n (float[N,3] x) => (float[N,3] y) { h = Tanh(x) y = Mul(h, h) }'
    )
    net.graph.node[0].output[0] = net.graph.node[1].input[0] = net.graph.node[1].input[1] = name
    of_rows: dict[str, Any] = {"sums_only": True, "quadrature": "trapezoid"}  # a program that holds its rows
    with Engine(provider="cpu") as engine:
        engine.add("net", net)
        with pytest.raises(ModelError, match=f"a tensor called '{name}'"):
            engine.attribute(
                AttributionRequest(
                    "net",
                    {"x": np.ones((2, 3))},
                    method,
                    target=Target(index=1),
                    **of_rows if name.startswith(("path/", "sample/")) else {},
                )
            )
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("source", [None, 3, bytearray(b"x"), memoryview(b"x")])
def test_what_is_no_model_is_refused_where_it_is_added(source: Any) -> None:
    with (
        Engine(provider="cpu") as engine,
        pytest.raises(InvalidArgument, match="a path, bytes or a ModelProto, not"),
    ):
        engine.add("net", source)
