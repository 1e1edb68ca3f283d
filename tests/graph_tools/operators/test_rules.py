"""Every rule against finite differences: a table of small models, the official backend cases, and large sizes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.operators import VJP
from tests.checks import FORMS, assert_gradient, gradient_model
from tests.conformance.cases import OWN, PARTS, TABLE, official, own
from tests.conformance.run import agreement, outcome

Array = NDArray[Any]

# --- The table ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One operator on inputs of the given shapes, drawn from a normal distribution plus `shift`, `away` from zero.

    An array among the inputs is a constant, None an absent input. `outputs` says which outputs have a name.
    """

    operator: str
    inputs: Sequence[tuple[int, ...] | Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 21
    outputs: str = "z"
    shift: float = 0.0
    away: float = 0.0
    domain: str = ""
    dtype: Any = np.float32
    forms: Sequence[str] = FORMS

    def __str__(self) -> str:
        words = [
            f"{k}={v.name if isinstance(v, onnx.TensorProto) else v}" for k, v in self.attributes.items()
        ]
        shapes = [str(tuple(x.shape) if isinstance(x, np.ndarray) else x) for x in self.inputs]
        return " ".join([f"{self.operator}-{self.opset}", *shapes, *words]).replace(", ", ",")


def ints(*values: int) -> Array:
    return np.asarray(values, dtype=np.int64)


def floats(*values: float) -> Array:
    return np.asarray(values, dtype=np.float32)


def true(*values: bool) -> Array:
    return np.asarray(values, dtype=np.bool_)


REGIONS = np.asarray([[0, 0.3, 0.2, 6.1, 4.7], [1, 1.1, 2.2, 3.3, 7.9], [1, 2, 1, 20, 3]], np.float32)
"""Of two images: the image, the left upper corner, the right lower corner; the last one leaves its image."""

ROWS = [
    # movement
    Row("Reshape", [(2, 6), ints(0, -1, 2)]),
    Row("Reshape", [(2, 6), ints(-1)], opset=13, forms=["fixed"]),
    Row("Flatten", [(2, 3, 4)], {"axis": -1}),
    Row("Squeeze", [(2, 1, 3, 1), ints(-1)]),
    Row("Squeeze", [(2, 1, 3)], forms=["fixed"]),
    Row("Unsqueeze", [(2, 3), ints(0, -1)]),
    Row("Identity", [(2, 3)]),
    Row("Transpose", [(2, 3, 4)]),
    Row("Transpose", [()]),
    Row("Transpose", [(2, 3, 4)], {"perm": [2, 0, 1]}),
    Row("Concat", [(2, 3), (2, 1), (2, 0)], {"axis": -1}),
    Row("Concat", [(2, 3)], {"axis": 0}),
    Row("Split", [(2, 6), ints(1, 2, 3)], {"axis": -1}, outputs="abc"),
    Row("Split", [(2, 7)], {"axis": 1, "num_outputs": 3}, outputs="abc", forms=["fixed", "batch"]),
    Row("Split", [(6, 2)], opset=13, outputs="ab", forms=["fixed"]),
    Row("Slice", [(4, 5), ints(1, -3), ints(2**62, -1)]),
    Row("Slice", [(4, 5), ints(-9), ints(-1), ints(1)]),
    Row("Slice", [(4, 5), ints(7), ints(9), ints(0)], forms=["fixed"]),
    Row("Slice", [(4, 5), ints(-1, 3), ints(-(2**62), 0), ints(0, 1), ints(-2, -1)]),
    Row("Slice", [(4, 5), ints(1), ints(3), ints(1)], opset=13, forms=["fixed", "batch"]),
    Row("Pad", [(2, 3), ints(1, 0, -1, 2), floats(2.0).reshape(())]),
    Row("Pad", [(2, 3), ints(1, 1), (), ints(-1)]),
    Row("Pad", [(4, 5), ints(2, 1, 1, 3)], {"mode": "reflect"}),
    Row("Pad", [(4, 5), ints(2, 1, 1, 3)], {"mode": "edge"}),
    Row("Pad", [(4, 5), ints(2, 1, 1, 3)], {"mode": "wrap"}),
    Row("Expand", [(3, 1), ints(2, 1, 4)]),
    Row("Tile", [(2, 3), ints(2, 3)]),
    Row("Where", [true(True, False, True), (2, 3), (2, 1)]),
    Row("Cast", [(2, 3)], {"to": onnx.TensorProto.DOUBLE}),
    Row("CastLike", [(2, 3), floats(0.0)]),
    Row("Dropout", [(2, 3)]),
    Row("Dropout", [(2, 3), floats(0.5).reshape(()), true(False).reshape(())]),
    Row("Dropout", [(2, 3), floats(0.0).reshape(()), true(True).reshape(())], outputs="zm"),
    Row("DepthToSpace", [(2, 8, 2, 3)], {"blocksize": 2, "mode": "DCR"}),
    Row("DepthToSpace", [(2, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    Row("SpaceToDepth", [(2, 2, 4, 6)], {"blocksize": 2}),
    Row("CenterCropPad", [(3, 6), ints(5, 4)]),
    Row("Trilu", [(2, 3, 4)]),
    Row("Trilu", [(3, 4), ints(-1).reshape(())], {"upper": 0}),
    Row("ReverseSequence", [(4, 3), ints(1, 4, 2)]),
    Row("CumSum", [(2, 4), ints(-1).reshape(())], {"exclusive": 1}),
    Row("CumProd", [(2, 4), ints(1).reshape(())], opset=26),
    Row("OneHot", [ints(0, 2, -1), ints(3).reshape(()), (2,)], {"axis": 0}),
    Row("Compress", [(3, 4), true(False, True, True)], {"axis": 1}),
    Row("TensorScatter", [(2, 5, 3), (2, 2, 3), ints(1, 3)], {"mode": "linear"}, opset=24),
    Row("Col2Im", [(2, 12, 6), ints(3, 4), ints(2, 2)]),
    Row("AffineGrid", [(2, 2, 3), ints(2, 3, 4, 5)], opset=20),
    # indexing
    Row("Gather", [(5, 4), ints(3, -1, 3, 0)]),
    Row("Gather", [(5, 4), ints(-2).reshape(())], {"axis": 1}),
    Row("Gather", [(5, 4), ints(1, 2)], {"axis": 0}),
    Row("Gather", [(5, 4), ints(-2, -1)], {"axis": 0}),
    Row("Gather", [(5, 4), ints(0, 2, 2, 1).reshape(2, 2)], {"axis": -1}),
    Row("Gather", [(5, 4), ints(1, 1)], dtype=np.float16),
    Row("GatherElements", [(3, 4), ints(0, -1, 1, 1).reshape(2, 2)], {"axis": -1}),
    Row("GatherND", [(2, 3, 4), ints(1, -1, 0).reshape(3, 1, 1)[:2]], {"batch_dims": 1}),
    Row("ScatterElements", [(3, 4), ints(0, 2).reshape(1, 2), (1, 2)], {"axis": 1}),
    *(
        Row("ScatterElements", [(3, 4), ints(1, 1, 2, 1).reshape(2, 2), (2, 2)], {"reduction": kind})
        for kind in ("add", "mul", "max", "min")
    ),
    Row("ScatterND", [(3, 4), ints(2, 0).reshape(2, 1), (2, 4)]),
    *(
        Row("ScatterND", [(3, 4), ints(1, 1, 1, 1, 2, -1).reshape(3, 2), (3,)], {"reduction": kind})
        for kind in ("add", "mul", "max", "min")
    ),
    # resize
    *(
        Row("Resize", [(2, 1, 3, 4), None, floats(1, 1, 2, 3)],
            {"coordinate_transformation_mode": coordinate, "nearest_mode": rounding})
        for coordinate, rounding in (("asymmetric", "floor"), ("half_pixel", "round_prefer_ceil"),
                                     ("asymmetric", "ceil"), ("align_corners", "round_prefer_floor"))
    ),
    Row("Resize", [(2, 1, 3, 4), None, None, ints(2, 1, 6, 8)],
        {"coordinate_transformation_mode": "pytorch_half_pixel"}),
    Row("Resize", [(2, 1, 3, 4), floats(), floats(1, 1, 2, 2)],
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, opset=13, forms=["fixed"]),
    Row("Resize", [(2, 1, 4, 5), None, floats(1, 1, 1.2, 2)], {"mode": "linear"}),
    Row("Resize", [(2, 1, 4, 5), None, None, ints(2, 1, 7, 3)], {"mode": "cubic"}),
    Row("Resize", [(2, 1, 4, 5), floats(0.2, 0, 0.8, 1.2), None, ints(6, 6)], {
        "mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "axes": [2, 3],
        "extrapolation_value": 3.0}),
    Row("Resize", [(1, 2, 3, 4, 3), None, floats(1, 1, 2, 2, 2)], {"mode": "linear"}),
    Row("Resize", [(4, 5), None, None, ints(7, 3)], {"mode": "linear"}),
    # reductions; the axes are an attribute before opset 18 (ReduceSum: 13)
    *(
        Row(name, [(2, 3, 4), axes], attributes, shift=shift)
        for name, shift in (
            ("ReduceSum", 0), ("ReduceMean", 0), ("ReduceMax", 0), ("ReduceMin", 0), ("ReduceProd", 0), ("ReduceL1", 0),
            ("ReduceL2", 0), ("ReduceLogSum", 5), ("ReduceLogSumExp", 0), ("ReduceSumSquare", 0))
        for axes, attributes in (
            (ints(-2), {"keepdims": 0}), (ints(0, 2), {}), (None, {"keepdims": 0}), (ints(), {"keepdims": 0}))
    ),
    *(
        Row(name, [(2, 3, 4)], {"axes": [1, -1], "keepdims": keepdims}, opset=13, forms=["fixed", "batch"])
        for name in ("ReduceMean", "ReduceMax", "ReduceProd", "ReduceL2", "ReduceLogSumExp")
        for keepdims in (0, 1)
    ),
    *(
        Row(f"Reduce{name}", [(2, 3)], {"noop_with_empty_axes": 1}, shift=5 if name == "LogSum" else 0)
        for name in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
    ),
    Row("TopK", [(3, 5), ints(2)], outputs="zi"),
    Row("TopK", [(3, 5), ints(2)], {"axis": 0, "largest": 0, "sorted": 0}, outputs="zi"),
    # pooling
    Row("MaxPool", [(2, 3, 7)], {"kernel_shape": [3], "strides": [2], "pads": [1, 1], "ceil_mode": 1}),
    Row("MaxPool", [(2, 3, 6, 7)], {"kernel_shape": [3, 2], "dilations": [2, 1]}, outputs="zi"),
    Row("MaxPool", [(2, 3, 6, 7)],
        {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "storage_order": 1}, outputs="zi"),
    Row("MaxPool", [(1, 2, 4, 5, 4)], {"kernel_shape": [2, 2, 2], "strides": [2, 1, 2]}),
    Row("AveragePool", [(2, 3, 8, 9)], {"kernel_shape": [2, 3], "strides": [2, 3]}),
    Row("AveragePool", [(2, 3, 7, 9)], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Row("AveragePool", [(2, 3, 7, 8)],
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    Row("AveragePool", [(2, 3, 7)], {"kernel_shape": [3], "pads": [1, 0], "count_include_pad": 1, "ceil_mode": 1,
                                     "strides": [2]}),
    Row("AveragePool", [(2, 3, 7)], {"kernel_shape": [4], "auto_pad": "SAME_UPPER", "count_include_pad": 1}),
    Row("GlobalAveragePool", [(2, 3, 4, 5)]),
    Row("GlobalMaxPool", [(2, 3, 4, 5)]),
    *(Row("LpPool", [(2, 3, 6, 7)], {"kernel_shape": [3, 2], "strides": [2, 2], "p": p}, away=0.2) for p in (1, 2, 3)),
    *(Row("GlobalLpPool", [(2, 3, 4, 5)], {"p": p}, away=0.2) for p in (1, 2, 3)),
    Row("MaxUnpool", [(1, 1, 2, 2), ints(0, 3, 9, 15).reshape(1, 1, 2, 2)],
        {"kernel_shape": [2, 2], "strides": [2, 2]}),
    # products, transforms, determinants
    Row("Einsum", [(2, 3, 4), (4, 5), (5,)], {"equation": "...ij, jk, k -> ...i"}),
    Row("Einsum", [(2, 3, 4), (1, 4, 5)], {"equation": "...ij,...jk"}),
    Row("Einsum", [(3, 3), (3,)], {"equation": "ii,i->"}),
    Row("Einsum", [(3, 3, 2)], {"equation": "iij->j"}),
    Row("Einsum", [(3, 4), (2,)], {"equation": "ij,k->ik"}),
    *(Row("Det", [shape]) for shape in ((2, 4, 4), (8, 8), (1, 1))),
    Row("DFT", [(2, 7, 1)], {"onesided": 1}),
    Row("DFT", [(2, 8, 3, 2), ints(6).reshape(()), ints(1).reshape(())]),
    Row("DFT", [(2, 5, 3, 2), ints(8).reshape(()), ints(1).reshape(())], {"inverse": 1}),
    Row("DFT", [(2, 5, 3, 2), ints(9).reshape(()), ints(1).reshape(())], {"inverse": 1, "onesided": 1}),
    Row("DFT", [(2, 5, 1), ints(8).reshape(())], {"onesided": 1, "axis": 1}, opset=17),
    Row("STFT", [(2, 20, 1), ints(3).reshape(()), (8,)], {"onesided": 1}),
    Row("STFT", [(2, 20, 1), ints(3).reshape(()), None, ints(7).reshape(())], {"onesided": 1}),
    Row("STFT", [(2, 20, 2), ints(3).reshape(()), (8,)], {"onesided": 0}),
    Row("STFT", [(1, 32), ints(4).reshape(()), None, ints(8).reshape(())], {"onesided": 1}),
    Row("STFT", [(2, 20), ints(3).reshape(()), (8,), ints(8).reshape(())], {"onesided": 1}),
    Row("STFT", [(2, 20), ints(3).reshape(()), (7,)], {"onesided": 0}),
    Row("STFT", [(2, 20), ints(3).reshape(()), (8,)], {"onesided": 1}, opset=17),
    Row("DFT", [(7, 1), None, ints(0).reshape(())]),
    Row("DFT", [(7, 2), ints(5).reshape(())], {"axis": 0, "inverse": 1}, opset=17),
    # interpolation
    *(
        Row("GridSample", [(2, 2, 4, 5), (2, 3, 4, 2)], {"mode": mode, "padding_mode": edge, "align_corners": aligned})
        for mode in ("linear", "cubic", "nearest") for edge in ("zeros", "border", "reflection") for aligned in (0, 1)
    ),
    *(
        Row("GridSample", [(2, 2, 4, 5, 3), (2, 2, 3, 4, 3)], {"mode": mode, "padding_mode": "reflection"})
        for mode in ("linear", "nearest")
    ),
    Row("GridSample", [(2, 2, 4, 5), (2, 3, 4, 2)], {"mode": "bicubic"}, opset=16),
    Row("DeformConv", [(2, 4, 6, 5), (6, 2, 3, 2), (2, 24, 3, 3), (6,), (2, 12, 3, 3)],
        {"group": 2, "offset_group": 2, "pads": [1, 0, 1, 1], "strides": [2, 2]}),
    *(
        Row("RoiAlign", [(2, 3, 8, 9), REGIONS[:, 1:], ints(0, 1, 1)],
            {"output_height": 2, "output_width": 3, "spatial_scale": 0.8, **attributes}, opset=opset)
        for opset, attributes in (
            (21, {"sampling_ratio": 2}), (21, {"coordinate_transformation_mode": "output_half_pixel"}), (21, {}),
            (13, {}))
    ),
    Row("MaxRoiPool", [(2, 3, 8, 9), REGIONS], {"pooled_shape": [2, 3], "spatial_scale": 0.8}),
    Row("MaxRoiPool", [(2, 3, 8, 9), REGIONS], {"pooled_shape": [1, 2], "spatial_scale": 0.5}),
    Row("Unique", [(6,)], outputs="zijk"),
    Row("Unique", [(4, 3)], {"axis": -1, "sorted": 0}),
    # in other families, what no official case reaches
    Row("SimplifiedLayerNormalization", [(2, 3, 4), (4,)]),
    Row("Gelu", [(2, 3)], opset=20, domain="com.microsoft"),
    Row("QuickGelu", [(2, 3)], domain="com.microsoft"),
]  # fmt: skip


def model_of(row: Row) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The row as a model and values for its inputs."""
    rng = np.random.default_rng(7)
    names: list[str] = []
    declared, held, values = [], [], {}
    number = helper.np_dtype_to_tensor_dtype(np.dtype(row.dtype))
    for position, x in enumerate(row.inputs):
        name = "" if x is None else f"x{position}"
        names.append(name)
        if isinstance(x, tuple):
            declared.append(helper.make_tensor_value_info(name, number, x))
            drawn = rng.standard_normal(x) + row.shift
            values[name] = (drawn + row.away * np.sign(drawn)).astype(row.dtype)
        elif x is not None:
            held.append(onnx.numpy_helper.from_array(np.asarray(x), name))
    made = ["" if letter == "-" else letter for letter in row.outputs]
    node = helper.make_node(row.operator, names, made, domain=row.domain or None, **row.attributes)
    infos = [helper.make_empty_tensor_value_info(name) for name in made if name]
    graph = helper.make_graph([node], "row", declared, infos, held)
    opsets = [helper.make_opsetid("", row.opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for info in inferred.graph.output:
        if not info.type.WhichOneof(
            "value"
        ):  # onnx knows nothing of the operator: it has the shape of its input
            info.CopyFrom(helper.make_tensor_value_info(info.name, number, [None] * len(values["x0"].shape)))
    return inferred, values


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row_agrees_with_finite_differences(row: Row) -> None:
    model, values = model_of(row)
    assert_gradient(model, values, forms=row.forms)


def test_batch_size_stays_free_in_the_gradient() -> None:
    """One gradient model with a symbolic batch serves batches of 1, 2 and 5."""
    model, _ = model_of(Row("Resize", [(2, 1, 3, 4), None, floats(1, 1, 2, 2)], {"mode": "linear"}))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    for size in (1, 2, 5):
        values = {"x0": np.random.default_rng(size).standard_normal((size, 1, 3, 4)).astype(np.float32)}
        assert_gradient(model, values, forms=["declared"])


@pytest.mark.parametrize("zeros", [[], [1], [1, 2], [0, 3]])
@pytest.mark.parametrize("operator", ["ReduceProd", "CumProd"])
def test_product_is_differentiable_at_zero(operator: str, zeros: list[int]) -> None:
    inputs: list[Any] = [(2, 5)] if operator == "ReduceProd" else [(2, 5), ints(1).reshape(())]
    model, values = model_of(Row(operator, inputs, {"axes": [1]} if operator == "ReduceProd" else {}, opset=13
                                 if operator == "ReduceProd" else 26))  # fmt: skip
    values["x0"][1, zeros] = 0
    assert_gradient(model, values, forms=["fixed", "batch"])


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_product_at_zero_holds_in_both_directions(exclusive: int, reverse: int) -> None:
    row = Row(
        "CumProd", [(2, 5), ints(1).reshape(())], {"exclusive": exclusive, "reverse": reverse}, opset=26
    )
    model, values = model_of(row)
    values["x0"][0, 2] = values["x0"][1, [1, 3]] = 0
    assert_gradient(model, values)


@pytest.mark.parametrize("zeros", [[1], [1, 2]])
def test_scattered_product_is_differentiable_at_zero(zeros: list[int]) -> None:
    model, values = model_of(Row("ScatterElements", [(6,), ints(1, 1, 2, 1), (4,)], {"reduction": "mul"}))
    values["x2"][zeros] = 0
    assert_gradient(model, values)


def test_dropout_in_training_without_a_mask_is_refused_by_name() -> None:
    row = Row("Dropout", [(2, 3), floats(0.5).reshape(()), true(True).reshape(())])
    with pytest.raises(NotDifferentiable, match=r"Dropout .* drops elements at random"):
        gradient_model(model_of(row)[0], ["x0"])


def test_scattering_below_opset_16_is_refused_by_name() -> None:
    with pytest.raises(NotDifferentiable, match="opset 13 lacks"):
        gradient_model(model_of(Row("Gather", [(5, 4), ints(3, 0)], opset=13))[0], ["x0"])


# --- The official cases ------------------------------------------------------------------------------------------

QUANTISED = {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QuantizeLinear"}
ELSEWHERE = {("", operator) for operator in {"If", *QUANTISED}}
"""Operators without official cases that have a test file of their own."""


@pytest.mark.parametrize(
    ("operator", "name", "smooth"),
    [
        pytest.param(operator, name, smooth, id=f"{operator}-{name}")
        for operator, rows in TABLE.items()
        for name, smooth in rows
    ],
)
def test_official_case_agrees_with_finite_differences(operator: str, name: str, smooth: int) -> None:
    agreeing, wrong = agreement(official(operator, name, smooth), (0, 1, 2))
    assert not wrong, "\n".join(wrong)
    assert agreeing >= max(smooth, 1)


@pytest.mark.parametrize("operator", OWN)
def test_own_case_agrees_with_finite_differences(operator: str) -> None:
    found = outcome(own(operator), (0, 1, 2))
    assert found.verdict == "pass", found.detail


def test_every_rule_is_covered() -> None:
    covered = {("", operator) for operator in TABLE} | {(row.domain, row.operator) for row in ROWS}
    standard = {(domain, operator) for domain, operator in VJP if domain == ""}
    assert standard <= covered | ELSEWHERE  # those of other domains have test files of their own


def test_frozen_cases_are_those_of_the_shared_folder(shared: Path) -> None:
    theirs = json.loads((shared / "op_cases.json").read_text())
    for part in ("schema", "untagged"):
        assert {operator: [list(row) for row in rows] for operator, rows in PARTS[part].items()} == {
            operator: [
                [
                    row["case"] if row["direct"] else row["expanded"][0],
                    row["smooth_inputs"] if row["kind"] == "smooth" else 0,
                ]
                for row in rows
            ]
            for operator, rows in theirs[part].items()
        }
