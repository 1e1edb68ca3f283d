"""onnxruntime's quantised LSTM beside a float LSTM of the weights that its integers stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.values import AttributionRequest, Target
from tests.programs import contributions, gradients, slope

Array = NDArray[Any]
T, B, WIDTH, H = 5, 2, 4, 3
ROUNDED = 1e-2
"""Of states below 1: eight bits for x, between -3 and 3, and for each hidden state."""


def model_of(
    *,
    quantised: bool,
    direction: str = "forward",
    by_column: bool = False,
    kind: Any = np.uint8,
    lengths: list[int] | None = None,
    peepholes: bool = False,
    initial: bool = False,
    zero: bool = True,
) -> onnx.ModelProto:
    """An LSTM with quantised weights, or the float LSTM of the same weights."""
    rng = np.random.default_rng(0)
    sides, low, high = 2 if direction == "bidirectional" else 1, np.iinfo(kind).min, np.iinfo(kind).max
    shape = (sides, 4 * H) if by_column else (sides,)
    held: dict[str, Array] = {"b": rng.normal(size=(sides, 8 * H)).astype(np.float32) * 0.3}
    for name, rows in (("w", WIDTH), ("r", H)):
        integers = rng.integers(low, high + 1, size=(sides, rows, 4 * H)).astype(kind)
        scale = rng.uniform(0.004, 0.01, size=shape).astype(np.float32)
        middle = np.full(shape, (low + high + 1) // 2 if zero else 0).astype(kind)
        if quantised:
            held |= {name: integers, f"{name}_scale": scale, f"{name}_zero": middle}
        else:
            wide, offset = (v[:, None] if by_column else v[:, None, None] for v in (scale, middle))
            held[name] = ((integers.astype(np.float32) - offset) * wide).transpose(0, 2, 1)
    if lengths is not None:
        held["lengths"] = np.asarray(lengths, np.int32)
    if initial:
        held |= {n: rng.normal(size=(sides, B, H)).astype(np.float32) * 0.5 for n in ("h0", "c0")}
    if peepholes:
        held["p"] = rng.normal(size=(sides, 3 * H)).astype(np.float32) * 0.3
    names = ["x", "w", "r", "b", *(n if n in held else "" for n in ("lengths", "h0", "c0", "p"))]
    if quantised:
        names += ["w_scale", "w_zero", "r_scale", "r_zero"]
    while not names[-1]:
        names.pop()
    operator = "DynamicQuantizeLSTM" if quantised else "LSTM"
    node = helper.make_node(operator, names, ["z", "h", "c"], "lstm", hidden_size=H, direction=direction)
    node.domain = "com.microsoft" if quantised else ""
    graph = helper.make_graph(
        [node],
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [T, B, WIDTH])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("z", "h", "c")],
        [numpy_helper.from_array(a, n) for n, a in held.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


X = np.random.default_rng(5).normal(size=(T, B, WIDTH)).astype(np.float32)
FORMS: list[dict[str, Any]] = [
    {},
    {"direction": "reverse"},
    {"direction": "bidirectional", "initial": True},
    {"by_column": True},
    {"kind": np.int8},
    {"kind": np.int8, "zero": False},
    {"lengths": [3, 5]},
    {"peepholes": True},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_kernel_is_a_float_lstm_but_for_rounding(form: dict[str, Any]) -> None:
    """What the rule takes for granted of the layout of the weights, seen in onnxruntime's own outputs."""
    run = Backend("cpu", 1).run
    ours, whole = (run(model_of(quantised=q, **form), {"x": X}, ["z", "h", "c"]) for q in (True, False))
    for name in ours:
        value: Array = ours[name]
        expected: Array = whole[name]
        np.testing.assert_allclose(value, expected, atol=ROUNDED)


@pytest.mark.parametrize("target", ["z", "h", "c"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_its_gradient_is_that_of_the_float_lstm(form: dict[str, Any], target: str) -> None:
    whole = model_of(quantised=False, **form)
    shape = Backend("cpu", 1).run(whole, {"x": X}, [target])[target].shape
    v, direction = (np.random.default_rng(k).normal(size=s) for k, s in ((0, shape), (1, X.shape)))
    found = gradients(model_of(quantised=True, **form), {"x": X}, ["x"], v, target)["x"]
    expected = slope(whole, {"x": X}, {"x": direction}, v, target, 1e-2)
    np.testing.assert_allclose((found * direction).sum(), expected, rtol=2e-3, atol=1e-3)  # float32 over 1e-2


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_its_contributions_sum_to_the_change_of_the_kernel(form: dict[str, Any]) -> None:
    model = model_of(quantised=True, **form)
    shape = Backend("cpu", 1).run(model, {"x": X}, ["z"])["z"].shape
    total, change, size = contributions(
        model, {"x": X}, {"x": X[::-1] / 2}, np.random.default_rng(0).normal(size=shape)
    )
    assert abs(total - change) <= 1e-5 * size


def test_the_engine_says_that_it_rounds() -> None:
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("lstm", model_of(quantised=True), batch_axes={"x": 1})
        ask = AttributionRequest("lstm", {"x": X}, "gradient", target=Target(tensor="h", index=(0, 1)))
        result = engine.attribute(ask)
    assert any("DynamicQuantizeLSTM" in words for words in result.warnings)
