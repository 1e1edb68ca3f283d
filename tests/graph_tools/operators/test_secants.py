"""Every operator's secant sums to the change of its output: a table, one row an operator and form.

In float64 with the ONNX reference evaluator: sum of contributions against <v, z(x) - z(x')> for random x, x' and v; no
contribution where x = x'; the negative where x and x' are swapped. The sum is over all inputs that move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from onnx_attribution.methods import NearZero
from onnx_attribution.server.engine.backend import Backend
from tests.conformance.float64 import run_double
from tests.method_names import NEAR_ZERO

Array = NDArray[Any]
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Row:
    """One node: shapes of the inputs that move, constants after them, attributes; `low` keeps inputs above it.

    `single`: in float32 by onnxruntime, where the reference evaluator lacks the operator in float64 or has it wrong.
    """

    op: str
    shapes: tuple[tuple[int, ...], ...]
    constants: Mapping[int, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    low: float | None = None
    outputs: int = 1
    single: bool = False

    def __str__(self) -> str:
        return f"{self.op}{list(map(list, self.shapes))}{dict(self.attributes) or ''}"


S = (2, 3, 4)
IMAGE = (2, 4, 5, 5)
NORM = {1: np.array([0.5, -1.0, 2.0, 1.5]), 2: np.array([0.1, 0.2, -0.3, 0.4])}
ROWS = [
    *(Row(op, (S,)) for op in (
        "Abs", "Atan", "Ceil", "Cos", "Erf", "Exp", "Floor", "Neg", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sinh",
        "Softplus", "Softsign", "Tanh", "Identity", "HardSwish", "Mish", "Gelu", "Elu", "Selu", "Celu", "LeakyRelu",
        "HardSigmoid", "ThresholdedRelu", "Shrink",
    )),
    *(Row(op, (S,), low=0.2) for op in ("Log", "Reciprocal", "Sqrt")),
    *(Row(op, (S, S)) for op in ("Add", "Max", "Min", "Mul", "PRelu", "Sub")),
    *(Row(op, (S, (4,)), low=0.3) for op in ("Div", "Pow", "Mul", "Max")),
    Row("Max", (S, S, S)), Row("Min", (S, (4,), S)), Row("Sum", (S, S, S)), Row("Mean", (S, S)),
    Row("Pow", (S,), {1: np.array(2.0)}), Row("Pow", (S,), {1: np.array(3.0)}),
    Row("Pow", (S,), {1: np.array(-0.5)}, low=0.2),
    Row("Clip", (S,), {1: np.array(-0.5), 2: np.array(0.7)}), Row("Clip", (S, (), ())),
    Row("Mod", (S,), {1: np.array(0.7)}, {"fmod": 1}),
    *(Row("Softmax", (S,), attributes={"axis": a}) for a in (-1, 1)),
    *(Row("LogSoftmax", (S,), attributes={"axis": a}) for a in (-1, 0)),
    Row("LayerNormalization", (S,), NORM), Row("LayerNormalization", (S, (4,), (4,))),
    Row("LayerNormalization", (S,), {1: np.ones((3, 4)), 2: np.zeros((3, 4))}, {"axis": 1}),
    Row("InstanceNormalization", (IMAGE,), NORM), Row("GroupNormalization", (IMAGE,), NORM, {"num_groups": 2}),
    Row("MeanVarianceNormalization", (IMAGE,), single=True),
    Row("LpNormalization", (S,), attributes={"p": 2, "axis": 1}),
    Row("RMSNormalization", (S,), {1: NORM[1]}, single=True),
    Row("LpNormalization", (S,), attributes={"p": 1, "axis": -1}, low=0.1),
    Row("LRN", (IMAGE,), attributes={"size": 3, "alpha": 0.5}, single=True),
    Row("BatchNormalization", (IMAGE,),
        {**NORM, 3: np.array([0.1, 0.0, -0.2, 0.3]), 4: np.array([1.0, 2.0, 0.5, 1.5])}),
    Row("BatchNormalization", (IMAGE, (4,), (4,), (4,), (4,)), low=0.3),
    Row("BatchNormalization", ((5, 4), (4,)), {2: NORM[2], 3: NORM[2], 4: NORM[1] ** 2}),
    Row("BatchNormalization", (IMAGE,), {**NORM, 3: np.array([0.1, 0.0, -0.2, 0.3]), 4: np.array([1.0, 2.0, 0.5, 1.5])},
        {"training_mode": 1}, outputs=3),
    Row("InstanceNormalization", (IMAGE, (4,), (4,))),
    Row("GroupNormalization", (IMAGE, (4,), (4,)), attributes={"num_groups": 2}),
    *(Row(op, (S,), {1: np.array([1])}, {"keepdims": k}) for k in (0, 1) for op in (
        "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
        "ReduceSumSquare",
    )),
    Row("ReduceMax", (S,), attributes={"keepdims": 0}), Row("ReduceLogSum", (S,), {1: np.array([2])}, low=0.1),
    Row("ReduceProd", (S,), {1: np.array([0, 2])}, {"keepdims": 0}),
    Row("ReduceProd", (S,), attributes={"keepdims": 0}),
    Row("TopK", (S,), {1: np.array([1])}, {"axis": 1}, outputs=2),
    Row("TopK", (S,), {1: np.array([1])}, {"axis": 2, "largest": 0}, outputs=2),
    Row("TopK", (S,), {1: np.array([3])}, outputs=2),
    Row("TopK", ((7, 2),), {1: np.array([4])}, {"axis": 0}, outputs=2),
    Row("TopK", (S,), {1: np.array([2])}, {"axis": 1, "largest": 0}, outputs=2),
    *(Row("CumProd", (S,), {1: np.array(1)}, {"exclusive": e, "reverse": r}) for e in (0, 1) for r in (0, 1)),
    *(Row("LpPool", (IMAGE,), attributes={"kernel_shape": [3, 2], "strides": [1, 2], "pads": [1, 0, 0, 1], "p": p})
      for p in (1, 2, 3)),
    Row("MaxRoiPool", (IMAGE,), {1: np.array([[0, 0, 0, 3, 4], [1, 1, 1, 4, 4.0]])}, {"pooled_shape": [2, 2]},
        single=True),
    *(Row("GridSample", (IMAGE, (2, 3, 2, 2)),
          attributes={"mode": m, "padding_mode": p, "align_corners": a}, single=True)
      for m, a in (("linear", 0), ("nearest", 1)) for p in ("zeros", "border", "reflection")),
    *(Row("Det", (shape,)) for shape in ((2, 3, 3), (4, 4), (1, 1))),
    Row("MaxPool", (IMAGE,), attributes={"kernel_shape": [3, 3], "strides": [1, 1]}),
    Row("MaxPool", (IMAGE,), attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    Row("GlobalMaxPool", (IMAGE,)), Row("GlobalAveragePool", (IMAGE,)),
    Row("AveragePool", (IMAGE,), attributes={"kernel_shape": [2, 2]}),
    Row("MatMul", ((2, 3), (3, 4))), Row("MatMul", ((2, 3, 4), (2, 4, 5))), Row("Gemm", ((2, 3), (3, 4), (4,))),
    Row("Einsum", ((2, 3), (3, 4)), attributes={"equation": "ij,jk->ik"}),
    Row("Einsum", ((2, 3), (3, 4), (4, 2)), attributes={"equation": "ij,jk,ki->i"}),
    Row("Einsum", ((5, 2, 3), (3, 3), (5, 1), (2,)), attributes={"equation": "...ij,jk,...l,i->...k"}),
    Row("Conv", (IMAGE, (3, 4, 2, 2))), Row("Where", (S, S), {2: np.array(0.5)}),
    Row("CumSum", (S,), {1: np.array(1)}), Row("Transpose", (S,)), Row("Concat", (S, S), attributes={"axis": 1}),
]  # fmt: skip


def node_of(row: Row) -> tuple[onnx.ModelProto, list[str], list[str]]:
    """The model of a row, with the names of what moves. Where reads its condition from its first input."""
    moving = [f"x{k}" for k in range(len(row.shapes))]
    nodes: list[onnx.NodeProto] = []
    names = list(moving)
    if row.op == "Where":
        nodes.append(helper.make_node("Greater", ["x0", "limit"], ["c"]))
        names = ["c", "x0", "x1"]
    constants = {
        f"c{k}": np.asarray(v) for k, v in row.constants.items() if not (row.op == "Where" and k == 2)
    }
    slots = {**dict(enumerate(names)), **{k: f"c{k}" for k in row.constants if f"c{k}" in constants}}
    inputs = [slots.get(k, "") for k in range(max(slots) + 1)]
    outputs = ["z", "rest", "more"][: row.outputs]
    nodes.append(helper.make_node(row.op, inputs, outputs, **row.attributes))
    kind = TensorProto.FLOAT if row.single else TensorProto.DOUBLE
    if row.single:
        constants = {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in constants.items()}
    kept = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    kept.append(numpy_helper.from_array(np.array(0.1, np.float32 if row.single else np.float64), "limit"))
    graph = helper.make_graph(
        nodes,
        "row",
        [helper.make_tensor_value_info(n, kind, s) for n, s in zip(moving, row.shapes, strict=True)],
        [helper.make_tensor_value_info("z", kind, row.shapes[0] if "Normalization" in row.op else None)],
        kept,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", {"RMSNormalization": 23, "CumProd": 26}.get(row.op, 21))],
        ir_version=10,
    )
    return onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True), moving, outputs


def lifted(
    row: Row,
    x: Mapping[str, Array],
    y: Mapping[str, Array],
    seed: int = 0,
    *,
    near_zero: NearZero = "midpoint",
    multiply: bool = True,
) -> tuple[list[Array], float]:
    """The contributions (or multipliers) of each input, and the change of a random functional of the output."""
    model, moving, _ = node_of(row)
    network = Network(model, "single", dict.fromkeys(moving), dict(x))
    choice = Choice(tuple(moving), tuple(moving), "z")
    program = deeplift_program(network, choice, near_zero=near_zero, multiply=multiply)
    run = run_single if row.single else run_double
    at_x = run(model, dict(x))["z"]
    weight = np.random.default_rng(seed).normal(size=np.shape(at_x))
    found = run(
        program.model,
        {**x, **{f"baseline/{n}": a for n, a in y.items()}, "target/weight": np.asarray(weight)},
    )
    change = float(found["target/value"].sum() - found["target/baseline"].sum())
    return [found[f"contribution/{n}"] for n in moving], change


def run_single(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a model in float32."""
    session = Backend("cpu", 1).session(model)
    return dict(session.run({n: a.astype(np.float32) for n, a in inputs.items()}))


def points(row: Row) -> tuple[dict[str, Array], dict[str, Array]]:
    rng = np.random.default_rng(5)
    ends = []
    for _ in range(2):
        values = [np.asarray(1.3 * rng.normal(size=s)) for s in row.shapes]
        if row.low is not None:
            values = [np.asarray(row.low + np.abs(v)) for v in values]
        if row.op == "Clip" and len(values) == 3:
            values[1:] = [np.asarray(-0.6 + 0.1 * values[1]), np.asarray(0.5 + 0.1 * values[2])]
        ends.append({f"x{k}": v for k, v in enumerate(values)})
    return ends[0], ends[1]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_secant_sums_to_the_change(row: Row) -> None:
    x, y = points(row)
    parts, change = lifted(row, x, y)
    total, size = sum(float(p.sum()) for p in parts), sum(float(np.abs(p).sum()) for p in parts)
    assert abs(total - change) <= (1e-5 if row.single else TOLERANCE) * size
    assert size > 0


@pytest.mark.parametrize("row", [row for row in ROWS if not row.single], ids=str)
def test_the_secant_sums_in_float32_as_onnxruntime_runs_it(row: Row) -> None:
    test_the_secant_sums_to_the_change(replace(row, single=True))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_secant_is_zero_at_the_reference_and_turns_with_the_points(row: Row) -> None:
    x, y = points(row)
    tolerance = 1e-5 if row.single else 1e-8
    for part in lifted(row, x, x)[0]:
        np.testing.assert_array_equal(part, np.zeros_like(part))
    for forth, back in zip(lifted(row, x, y)[0], lifted(row, y, x)[0], strict=True):
        np.testing.assert_allclose(forth, -back, rtol=tolerance, atol=tolerance * float(np.abs(forth).max()))


@pytest.mark.parametrize("shift", [0.0, 40.0, -300.0])
def test_softmax_does_not_depend_on_shifts_of_its_argument(shift: float) -> None:
    row = Row("Softmax", ((2, 5),))
    x, y = points(row)
    moved = {n: a + shift for n, a in x.items()}
    multipliers = []
    for point in (x, moved):
        (c,), _ = lifted(row, point, y)
        multipliers.append(c / (point["x0"] - y["x0"]))
    np.testing.assert_allclose(multipliers[0], multipliers[1], rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(multipliers[0].sum(axis=1), 0, atol=1e-10)


@pytest.mark.parametrize(("near_zero", "slope"), [("midpoint", 0.25), ("input", 1.0), ("reference", 0.0)])
def test_too_near_for_a_quotient_the_gradient_is_that_of_the_chosen_point(
    near_zero: NearZero, slope: float
) -> None:
    """Relu from -3e-16 to 1e-16: its own quotient is exact; a rounded one of a sigmoid would not be."""
    x, y = {"x0": np.array([[1e-16]])}, {"x0": np.array([[-3e-16]])}
    (c,), _ = lifted(Row("Relu", ((1, 1),)), x, y, near_zero=near_zero)
    (whole,), _ = lifted(Row("Identity", ((1, 1),)), x, y)
    np.testing.assert_allclose(c / whole, slope, rtol=1e-9)


@pytest.mark.parametrize("near_zero", NEAR_ZERO)
@pytest.mark.parametrize("operator", ["Relu", "Tanh", "Sigmoid", "Gelu", "LeakyRelu"])
def test_the_secant_sums_wherever_the_gradient_near_zero_is_taken(operator: str, near_zero: NearZero) -> None:
    row = Row(operator, (S,))
    x, y = points(row)
    (c,), change = lifted(row, x, y, near_zero=near_zero)
    assert abs(float(c.sum()) - change) <= TOLERANCE * float(np.abs(c).sum())


def test_cross_max_has_captums_numbers() -> None:
    """LinearMaxPoolLinear of Captum's tests: windows of four."""
    for x, y, expected in (
        ([1.0, 1, 1, 1], [1.0, 2, 3, 9], [0, 0, 0, -8]),
        ([1.0, 1, 1, 1], [4.0, 8, 6, 7], [0, -7, 0, 0]),
        ([5.0, 1], [0.0, 3], [2, 0]),
        ([1.0, 2], [4.0, 0], [-2, 0]),
    ):
        row = Row("ReduceMax", ((1, len(x)),), {1: np.array([1])})
        (c,), change = lifted(row, {"x0": np.array([x])}, {"x0": np.array([y])})
        np.testing.assert_allclose(c * (max(x) - max(y)) / change, [expected], atol=1e-12)


def test_elements_that_cross_a_place_of_the_ranking_share_its_change() -> None:
    """By hand: the first place falls from 5 to 3, by the second element; the next rises from 1 to 2, by the others."""
    row = Row("TopK", ((1, 3),), {1: np.array([2])}, outputs=2)
    model, _, _ = node_of(row)
    program = deeplift_program(Network(model, "single", {"x0": None}, {}), Choice(("x0",), ("x0",), "z"))
    ends = {"x0": np.array([[3.0, 1, 2]]), "baseline/x0": np.array([[0.0, 5, 1]])}
    found = run_double(program.model, {**ends, "target/weight": np.ones((1, 2))})
    np.testing.assert_allclose(found["contribution/x0"], [[0.5, -2, 0.5]], atol=1e-12)


KINKED = [
    *(Row(op, (S,)) for op in ("Abs", "LeakyRelu", "Relu", "Shrink", "ThresholdedRelu")),
    *(Row(op, (S, S)) for op in ("Max", "Min", "PRelu")),
    *(Row(op, (S, (4,), S)) for op in ("Max", "Min")),
    *(Row(op, (S,), {1: np.array([1])}) for op in ("ReduceMax", "ReduceMin")),
    Row("GlobalMaxPool", (IMAGE,)),
    Row("MaxPool", (IMAGE,), attributes={"kernel_shape": [3, 3], "strides": [1, 1]}),
]


@pytest.mark.parametrize("row", [row for row in [*ROWS, *KINKED] if row.op != "GridSample"], ids=str)
def test_the_multiplier_where_nothing_changes_is_the_gradient(row: Row) -> None:
    """Against central differences along a random direction for each input; x lies away from the kinks."""
    model, moving, _ = node_of(row)
    x, direction = points(row)
    run = run_single if row.single else run_double
    # the reference evaluator's Gelu is rounded to float32, as what runs in float32 is
    step, tolerance = (3e-4, 3e-3) if row.single or row.op == "Gelu" else (1e-6, 1e-6)
    weight = np.random.default_rng(0).normal(size=run(model, x)["z"].shape)
    found = dict(zip(moving, lifted(row, x, x, multiply=False)[0], strict=True))
    for name in moving:
        ends = [{**x, name: x[name] + e * direction[name]} for e in (step, -step)]
        up, down = (run(model, end)["z"].astype(np.float64) for end in ends)
        slope = float(((up - down) * weight).sum()) / (2 * step)
        terms = found[name].astype(np.float64) * direction[name]
        size = max(abs(slope), float(np.linalg.norm(terms)), 1e-3)
        assert abs(float(terms.sum()) - slope) <= tolerance * size


def test_an_input_of_max_that_stays_has_the_mean_gradient_over_the_others_ends() -> None:
    """By hand: max(1, y) for y from 0 to 2 grows with the first in the first half only."""
    model, moving, _ = node_of(Row("Max", ((1,), (1,))))
    program = deeplift_program(
        Network(model, "single", dict.fromkeys(moving), {}),
        Choice(("x0", "x1"), ("x0", "x1"), "z"),
        multiply=False,
    )
    ends = {"x0": [1.0], "x1": [2.0], "baseline/x0": [1.0], "baseline/x1": [0.0], "target/weight": [1.0]}
    found = run_double(program.model, {n: np.array(a) for n, a in ends.items()})
    np.testing.assert_allclose([found["contribution/x0"][0], found["contribution/x1"][0]], [0.5, 0.5])


@pytest.mark.parametrize("operator", ["Max", "Min"])
def test_the_extreme_of_three_in_half_precision_is_found(operator: str) -> None:
    """The runtime computes in float32 between rounded tensors, so that no input equals the rounded output."""
    rng = np.random.default_rng(2)
    x, y = (rng.normal(size=(3, 4)).astype(np.float16) for _ in range(2))
    text = f"""<ir_version: 10, opset_import: ["": 21]> g (float16[3,4] x) => (float16[3,4] z)
        {{ a = Sigmoid(x) b = Tanh(x) c = Sin(x) z = {operator}(a, b, c) }}"""
    model = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    program = deeplift_program(Network(model, "single", {"x": None}, {"x": x}), Choice(("x",), ("x",), "z"))
    given = {"x": x, "baseline/x": y, "target/weight": np.ones((3, 4), np.float16)}
    found: dict[str, Array] = Backend("cpu", 1).session(program.model).run(given)
    ends = [
        getattr(np, operator.lower() + "imum").reduce([1 / (1 + np.exp(-v)), np.tanh(v), np.sin(v)])
        for v in (x.astype(np.float64), y.astype(np.float64))
    ]
    # outputs near 1 are rounded to 5e-4
    np.testing.assert_allclose(found["contribution/x"], ends[0] - ends[1], atol=2e-3)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (Row("TopK", (S,), {1: np.array([2])}, {"sorted": 0}, outputs=2), "TopK without an order"),
    ],
    ids=lambda value: str(value),
)
def test_what_has_no_exact_split_is_refused_by_name(row: Row, words: str) -> None:
    x, y = points(row)
    with pytest.raises((NotDifferentiable, onnx.shape_inference.InferenceError), match=words):
        lifted(row, x, y)
