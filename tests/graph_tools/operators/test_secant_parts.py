"""DeepLIFT through recurrent operators and control flow: sums, and what happens where x and x' go different ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.values import AttributionRequest, Target

Array = NDArray[Any]
T, B, WIDTH, H = 5, 3, 4, 2
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def contributions(model: onnx.ModelProto, x: Array, y: Array) -> tuple[Array, float]:
    """The contributions of x, and the change of a random functional of the output z."""
    network = Network(model, "single", {"x": 0}, {"x": x})
    program = deeplift_program(network, Choice(("x",), ("x",), "z"))
    backend = Backend("cpu", 1)
    shape = backend.run(model, {"x": x}, ["z"])["z"].shape
    weight = np.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    found = backend.session(program.model).run({"x": x, "baseline/x": y, "target/weight": weight})
    change = float(
        found["target/value"].astype(np.float64).sum() - found["target/baseline"].astype(np.float64).sum()
    )
    return found["contribution/x"].astype(np.float64), change


def points(*shape: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(4)
    return rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)


def assert_sums(model: onnx.ModelProto, x: Array, y: Array) -> None:
    c, change = contributions(model, x, y)
    assert np.abs(c).sum() > 0
    assert abs(c.sum() - change) <= 1e-5 * np.abs(c).sum()


def recurrent(op: str, attributes: Mapping[str, Any], extra: Mapping[int, Array]) -> onnx.ModelProto:
    """A recurrent operator with random weights; the output is Y."""
    rng = np.random.default_rng(1)
    sides, gates = 2 if attributes.get("direction") == "bidirectional" else 1, GATES[op]
    weights = {
        "W": rng.normal(size=(sides, gates * H, WIDTH)),
        "R": rng.normal(size=(sides, gates * H, H)),
        "b": rng.normal(size=(sides, 2 * gates * H)),
    }
    kept = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()]
    kept += [numpy_helper.from_array(a, f"extra{k}") for k, a in extra.items()]
    inputs = ["x", "W", "R", "b", *(f"extra{k}" if k in extra else "" for k in range(4, 8))]
    while not inputs[-1]:
        inputs.pop()
    node = helper.make_node(op, inputs, ["z"], hidden_size=H, **attributes)
    graph = helper.make_graph(
        [node],
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [T, B, WIDTH])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [T, sides, B, H])],
        kept,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


LENGTHS = {4: np.array([5, 2, 3], np.int32)}
PEEPHOLES = {7: np.random.default_rng(9).normal(size=(1, 3 * H)).astype(np.float32)}


@pytest.mark.parametrize(
    ("op", "attributes", "extra"),
    [
        ("LSTM", {}, {}),
        ("LSTM", {"direction": "bidirectional"}, LENGTHS),
        ("LSTM", {"direction": "reverse"}, PEEPHOLES),
        ("LSTM", {"input_forget": 1}, {}),
        ("LSTM", {"clip": 0.5}, {}),
        ("LSTM", {"activations": ["HardSigmoid", "Softsign", "Relu"]}, {}),
        ("GRU", {}, {}),
        ("GRU", {"linear_before_reset": 1, "direction": "bidirectional"}, {}),
        ("GRU", {"direction": "reverse"}, LENGTHS),
        ("RNN", {}, {}),
        ("RNN", {"activations": ["Relu"], "direction": "reverse"}, LENGTHS),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "-".join(map(str, value)),
)
def test_recurrent_operators_sum_through_their_parts(
    op: str, attributes: dict[str, Any], extra: dict[int, Array]
) -> None:
    assert_sums(recurrent(op, attributes, extra), *points(T, B, WIDTH))


def parsed(body: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> small {body}')
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


BRANCHES = """(float[4] x) => (float[4] z)
    <float limit = {0}> {
        total = ReduceSum<keepdims = 0>(x) above = Greater(total, limit)
        z = If(above) <
            then_branch = then () => (float[4] a) { s = Sigmoid(x) a = Mul(s, x) },
            else_branch = other () => (float[4] b) { b = Tanh(x) }
        >
    }"""


def test_an_if_sums_where_both_points_take_the_same_branch() -> None:
    x, y = np.array([1.0, -0.5, 2, 1], np.float32), np.array([0.5, 1, 0.3, 0.2], np.float32)
    assert_sums(parsed(BRANCHES), x, y)
    assert_sums(parsed(BRANCHES), -x, -y)


def test_an_if_that_goes_two_ways_gives_no_numbers() -> None:
    x, y = np.array([1.0, -0.5, 2, 1], np.float32), np.array([-0.5, -1, 0.3, -0.2], np.float32)
    c, _ = contributions(parsed(BRANCHES), x, y)
    assert np.isnan(c).any()


def test_the_engine_refuses_an_if_that_goes_two_ways() -> None:
    x, y = np.array([1.0, -0.5, 2, 1], np.float32), np.array([-0.5, -1, 0.3, -0.2], np.float32)
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("branches", parsed(BRANCHES), batch_axes={"x": None})
        ask = AttributionRequest("branches", {"x": x}, "deeplift_rescale", target=Target(index=1))
        with pytest.raises(NotDifferentiable, match="go different ways"):
            engine.attribute(dataclasses.replace(ask, baselines={"x": y}))
        (layer,) = engine.attribute(dataclasses.replace(ask, baselines={"x": x / 2})).layers.values()
        assert np.abs(layer.residual).max() < 1e-6


REPEATED = """(float[4] x) => (float[4] z)
    <int64 trips = {3}, bool on = {1}> {
        z = Loop(trips, on, x) <
            body = step (int64 i, bool going, float[4] s) => (bool again, float[4] t) {
                again = Identity(going) p = Mul(s, x) q = Tanh(p) t = Add(q, s)
            }
        >
    }"""
STACKED = """(float[4,2] x) => (float[2] z)
    <float[2] zero = {0, 0}> {
        z = Scan<num_scan_inputs = 1, body = step (float[2] s, float[2] part) => (float[2] t) {
            e = Sigmoid(s) p = Mul(e, part) t = Add(p, s)
        }>(zero, x)
    }"""
UNTIL = """(float[4] x) => (float[4] z)
    <int64 trips = {9}, bool on = {1}, float limit = {6}> {
        z = Loop(trips, on, x) <
            body = step (int64 i, bool going, float[4] s) => (bool again, float[4] t) {
                t = Add(s, x) total = ReduceSum<keepdims = 0>(t) again = Less(total, limit)
            }
        >
    }"""


@pytest.mark.parametrize(("body", "shape"), [(REPEATED, (4,)), (STACKED, (4, 2))], ids=["Loop", "Scan"])
def test_loops_sum_turn_by_turn(body: str, shape: tuple[int, ...]) -> None:
    assert_sums(parsed(body), *points(*shape))


def test_a_loop_sums_where_both_points_turn_as_often_and_else_gives_no_numbers() -> None:
    x, y = (
        np.full(4, 0.6, np.float32),
        np.full(4, 0.55, np.float32),
    )  # three turns each: 4.8 and 4.4 after two
    assert_sums(parsed(UNTIL), x, y)
    c, _ = contributions(parsed(UNTIL), x, np.full(4, 0.2, np.float32))
    assert np.isnan(c).any()
