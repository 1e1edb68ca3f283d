"""The frozen cases: which models of the onnx package's backend tests, at which values, and which are left out and why.

The denominator is `tests/data/op_cases.json`: 614 cases of 114 operators that ONNX tags differentiable and 190 of 20
others. Six tagged operators have no usable case; `OWN` holds models for them.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from numpy.typing import NDArray
from onnx import helper, parser

from onnx_attribution.graph_tools.normalise.function_bodies import expanded
from onnx_attribution.graph_tools.normalise.pipeline import normalise
from onnx_attribution.server.engine.backend import Backend
from tests.checks import FLOAT32, FORMS, restamped

Array = NDArray[Any]

FROZEN = Path(__file__).parents[1] / "data" / "op_cases.json"
PARTS: dict[str, dict[str, list[tuple[str, int]]]] = {
    part: {operator: [(name, smooth) for name, smooth in rows] for operator, rows in table.items()}
    for part, table in json.loads(FROZEN.read_text()).items()
    if part in ("schema", "untagged")
}
TABLE: dict[str, list[tuple[str, int]]] = {}
for _table in PARTS.values():  # some operators have cases in both parts
    for _operator, _rows in _table.items():
        TABLE.setdefault(_operator, []).extend(_rows)

OFF_THE_TIE = {
    "test_dynamicquantizelinear_min_adjusted": "its maximum is there twice",
    "test_maxpool_3d_dilations": "its layers are equal, so that every maximum is a tie",
    "test_maxpool_3d_dilations_use_ref_impl": "its layers are equal, so that every maximum is a tie",
    "test_reduce_min_default_axes_keepdims_example": "three ones are the minimum",
    "test_l1normalization_axis_last": "|x| has a kink at its zeros; beside it the oracle of onnx 1.23.2, which sums "
    "without absolute values (PR 8427), no longer has the values of onnxruntime, and the next one is asked",
    "test_scatternd_min": "updates equal what they are compared with",
}
"""Cases whose own values lie on a kink; they run on values beside it."""

SATURATED = {"test_rnn_seq_length", "test_simple_rnn_bidirectional"}
"""Cases of such large values that tanh is 1 to every digit of float32; they run on a tenth of their inputs."""

CASE_FORMS: dict[str, Sequence[str]] = {
    "test_training_dropout_zero_ratio": (
        "fixed",
        "batch",
    ),  # nothing is dropped only if the ratio is known to be 0
}

NORMALISED = {"RotaryEmbedding", "test_scan_sum"}
"""Operators and cases that are normalised as a file is when it is loaded, like all expanded cases: their bodies
reshape to computed sizes, or their form is of an early opset."""

TOLERANCES = {
    "test_nllloss_NCd1d2d3d4d5_mean_weight": 1e-3,
    "test_sce_NCd1d2d3d4d5_mean_weight": 1e-3,
    "test_sce_NCd1d2d3d4d5_mean_weight_log_prob": 1e-3,
}
"""Looser where the gradient of the weights is the difference of two means of size 1 and is itself 3e-4."""

OWN = {
    "GlobalLpPool": "g (float[2,3,4,5] x) => (float[2,3,1,1] z) { z = GlobalLpPool<p = 3>(x) }",
    "MaxRoiPool": """g (float[1,2,6,7] x) => (float[2,2,2,3] z)
        <float[2,5] rois = {0, 0.3, 0.2, 5.1, 4.7, 0, 2, 1, 3, 5}>
        { z = MaxRoiPool<pooled_shape = [2, 3], spatial_scale = 0.9>(x, rois) }""",
    "SwiGLU": "g (float[2,4] x, float[2,4] y) => (float[2,4] z) { z = SwiGLU<alpha = 1.5>(x, y) }",
    "Trilu": "g (float[2,3,4] x) => (float[2,3,4] z) <int64 k = {-1}> { z = Trilu<upper = 0>(x, k) }",
    "Cast": "g (float[2,3] x) => (double[2,3] z) { z = Cast<to = 11>(x) }",
    "CastLike": "g (float[2,3] x, double[1] y) => (double[2,3] z) { z = CastLike(x, y) }",
}
"""A model for each tagged operator that the backend cases miss; SwiGLU is of opset 28."""


@dataclass(frozen=True)
class Case:
    """A model with inputs, `smooth` of which at least must agree with the oracle; 0: the derivative is zero."""

    id: str
    operator: str
    part: str
    model: onnx.ModelProto
    inputs: Mapping[str, Array]
    smooth: int
    forms: Sequence[str] = FORMS
    tolerance: float = FLOAT32


@functools.cache
def official_cases() -> dict[str, Any]:
    """The node tests of the onnx package by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some cases overflow on purpose
        return {case.name: case for case in load_model_tests(kind="node")}


def official(operator: str, name: str, smooth: int, part: str = "") -> Case:
    """An official case, ready to be differentiated."""
    case = official_cases()[name]
    forms: Sequence[str] = FORMS
    model = prepared(case.model, name.startswith("test_scan9"))
    values = dict(zip([x.name for x in model.graph.input], case.data_sets[0][0], strict=False))
    for x in [x for x in model.graph.input if isinstance(values.get(x.name), onnx.TensorProto)]:
        tensor = values.pop(x.name)  # float8, which onnxruntime takes from no array
        tensor.name = x.name
        model.graph.initializer.append(tensor)
        model.graph.input.remove(x)
    inputs = {name: np.asarray(value) for name, value in values.items()}
    if name in OFF_THE_TIE:
        rng = np.random.default_rng(0)
        inputs = {
            k: v + rng.standard_normal(v.shape).astype(v.dtype) if v.dtype.kind == "f" else v
            for k, v in inputs.items()
        }
    if name in SATURATED:
        inputs = {k: v / v.dtype.type(10) if v.dtype.kind == "f" else v for k, v in inputs.items()}
    if {operator, name} & NORMALISED or "_expanded" in name:
        model, forms = normalise(model, Backend("cpu").run, [inputs]).model, FORMS[:1]
    tolerance = TOLERANCES.get(name, FLOAT32)
    return Case(name, operator, part, model, inputs, smooth, CASE_FORMS.get(name, forms), tolerance)


def own(operator: str) -> Case:
    """The case of a tagged operator that has no official one."""
    opset = 28 if operator == "SwiGLU" else 21
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> {OWN[operator]}'
    model = prepared(parser.parse_model(text))
    rng = np.random.default_rng(3)
    held = {t.name for t in model.graph.initializer}
    inputs = {
        x.name: rng.standard_normal([d.dim_value for d in x.type.tensor_type.shape.dim]).astype(
            helper.tensor_dtype_to_np_dtype(x.type.tensor_type.elem_type)
        )
        for x in model.graph.input
        if x.name not in held
    }
    if operator == "MaxRoiPool":  # its only oracle takes wide steps: maxima must not change on the way
        inputs["x"] = rng.permutation(inputs["x"].size).reshape(inputs["x"].shape).astype(np.float32)
    smooth = 1 if operator in ("CastLike", "MaxRoiPool") else len(inputs)
    return Case(f"own_{operator}", operator, "own", model, inputs, smooth)


def prepared(model: onnx.ModelProto, convert: bool = False) -> onnx.ModelProto:
    """The model at an opset at which rules and kernels work, with bodies in place of what has no rule.

    A body written before opset 18 is converted, and so is an operator that the standard has dropped since.
    """
    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    names = {node.op_type for node in model.graph.node if node.domain == ""}
    if version < 18 and (len(model.graph.node) > 1 or names & DROPPED):
        convert = True
    if convert:
        model = onnx.version_converter.convert_version(model, 21)
    elif version <= 26:
        model = restamped(model)
    grown = restamped(expanded(model))
    for node in grown.graph.node:
        if node.op_type == "STFT" and not any(a.name == "onesided" for a in node.attribute):
            node.attribute.append(helper.make_attribute("onesided", 1))  # onnx infers shapes as if it were 0
    return grown


DROPPED = {"Scatter", "Upsample"}


def twins(name: str) -> list[str]:
    """The same case with the operator replaced by the body that the standard gives."""
    return [found for found in official_cases() if found.startswith(f"{name}_expanded")]
