"""Classical models: the gradient against differences of onnxruntime, DeepLIFT's sum, and refusals by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.check import check_file
from tests.programs import assert_slope, contributions

Array = NDArray[Any]
RNG = np.random.default_rng(7)


def drawn(*shape: int) -> list[float]:
    """Numbers for an attribute, the same in every run."""
    return [float(x) for x in RNG.normal(size=shape).reshape(-1)]


@dataclass(frozen=True)
class Row:
    """One operator on a normal input `[4, 3]` or of another shape; `outputs` ends with the scores."""

    operator: str
    attributes: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (4, 3)
    outputs: str = "z"
    more: tuple[Array, ...] = ()
    tolerance: float = 5e-3
    step: float = 1e-2

    def __str__(self) -> str:
        words = [f"{k}={v}" for k, v in self.attributes.items() if isinstance(v, (int, str))]
        return " ".join(
            [self.operator, *words, str(len(self.attributes.get("coefficients", ""))) + " coefficients"]
        )


def svm(kernel: str, classes: int, **more: Any) -> dict[str, Any]:
    """The attributes of a classifier with 6 support vectors."""
    pairs = classes * (classes - 1) // 2
    return {
        "kernel_type": kernel, "kernel_params": [0.4, 0.3, 3.0], "support_vectors": drawn(6, 3),
        "coefficients": drawn(classes - 1, 6), "vectors_per_class": [6 // classes] * classes,
        "classlabels_ints": list(range(classes)), "rho": drawn(pairs), **more,
    }  # fmt: skip


LABELS = {"classlabels_ints": [0, 1, 2]}
TWO = {"classlabels_ints": [0, 1]}
REGRESSION = {"support_vectors": drawn(6, 3), "coefficients": drawn(6), "n_supports": 6, "rho": [0.3],
              "kernel_params": [0.4, 0.3, 2.0]}  # fmt: skip
ROWS = [
    Row("Scaler", {"offset": [0.1, 0.2, 0.3], "scale": [2.0, 3.0, 4.0]}),
    Row("Scaler", {"offset": [0.5], "scale": [2.0]}),
    *(Row("Normalizer", {"norm": norm}, step=1e-3) for norm in ("MAX", "L1", "L2")),
    Row("Imputer", {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": float("nan")}),
    Row("FeatureVectorizer", {"inputdimensions": [3]}),
    Row("ArrayFeatureExtractor", more=(np.asarray([2, 0, 2]),)),
    Row("LinearRegressor", {"coefficients": drawn(2, 3), "intercepts": drawn(2), "targets": 2}),
    Row("LinearRegressor", {"coefficients": drawn(3)}),
    *(
        Row("LinearClassifier", {"coefficients": drawn(3, 3), "intercepts": drawn(3), "post_transform": kind, **LABELS},
            outputs="lz")
        for kind in ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")
    ),
    *(
        Row("LinearClassifier", {"coefficients": drawn(3), "intercepts": drawn(1), "post_transform": kind, **TWO},
            outputs="lz")
        for kind in ("NONE", "LOGISTIC")
    ),
    *(Row("SVMRegressor", {**REGRESSION, "kernel_type": kind}) for kind in ("LINEAR", "RBF", "POLY", "SIGMOID")),
    Row("SVMRegressor",
        {"coefficients": drawn(3), "rho": [0.2], "kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 0.0]}),
    *(Row("SVMClassifier", svm(kind, 3), outputs="lz") for kind in ("LINEAR", "RBF", "POLY", "SIGMOID")),
    Row("SVMClassifier", svm("RBF", 2), outputs="lz"),
    # the kernel stops iterating at 0.005 / classes from the solution, so the difference wants a large step
    Row("SVMClassifier", svm("RBF", 2, prob_a=[-1.5], prob_b=[0.1]), outputs="lz", tolerance=0.1, step=0.2),
    Row("SVMClassifier", svm("RBF", 3, prob_a=[-1.5, -1.2, -2.0], prob_b=[0.1, 0.0, -0.2]), outputs="lz",
        tolerance=0.1, step=0.2),
]  # fmt: skip


def model_of(row: Row) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model of one node, and its input."""
    constants = [onnx.numpy_helper.from_array(x, f"c{k}") for k, x in enumerate(row.more)]
    names = ["x", *(c.name for c in constants)]
    node = helper.make_node(row.operator, names, list(row.outputs), domain="ai.onnx.ml", **row.attributes)
    graph = helper.make_graph(
        [node], "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, row.shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)], constants,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    inputs = {"x": np.random.default_rng(5).normal(size=row.shape).astype(np.float32)}
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), inputs


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_classical_operator_has_the_gradient_of_its_own_differences(row: Row) -> None:
    model, inputs = model_of(row)
    assert_slope(model, inputs, ["x"], tolerance=row.tolerance, step=row.step)


@pytest.mark.parametrize("row", [row for row in ROWS if row.step <= 1e-2], ids=str)
def test_classical_operator_has_contributions_that_sum_to_its_change(row: Row) -> None:
    model, inputs = model_of(row)
    rng = np.random.default_rng(1)
    z = Backend("cpu").run(model, inputs, ["z"])["z"]
    reference = {"x": (inputs["x"] * 0.3).astype(np.float32)}
    total, change, size = contributions(model, inputs, reference, rng.normal(size=z.shape))
    assert abs(total - change) <= 1e-5 * max(size, 1.0)


def test_imputed_numbers_have_no_gradient() -> None:
    row = next(r for r in ROWS if r.operator == "Imputer")
    model, inputs = model_of(row)
    inputs["x"][1, 2] = np.nan
    found = assert_slope(model, inputs, ["x"])["x"]
    assert found[1, 2] == 0
    assert (found[0] != 0).all()


DIFFERENTIABLE = ["mnist-lr-sklearn", "nusvc-multi", "titanic-pipeline"]
REFUSED = {
    "coffee-tree-ensemble": "ai.onnx.ml.TreeEnsembleClassifier", "rf-iris": "ai.onnx.ml.TreeEnsembleClassifier",
    "lightgbm-pipeline-iris": "ai.onnx.ml.TreeEnsembleClassifier", "knn-multi": "TopK",
    "tree-classifier-sk": "ai.onnx.ml.TreeEnsembleClassifier",
    "tree-vectorize-pipeline": "ai.onnx.ml.TreeEnsembleRegressor",
    "mlnet-imputer-tree": "ai.onnx.ml.TreeEnsembleClassifier", "tiny-gpt2-beamsearch": "com.microsoft.BeamSearch",
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_file_of_a_classical_model_is_attributable(shared: Path, name: str) -> None:
    verdict = check_file(shared / "models" / name / "model.onnx", Backend("cpu"))
    assert verdict.attributable, verdict.refused
    if name == "titanic-pipeline":  # numbers as they are, categories where they become numbers
        assert verdict.sources == ["age", "fare", "pclassout", "sexout", "embarkedout"]


@pytest.mark.parametrize("name", REFUSED)
def test_file_without_a_derivative_is_refused_by_the_name_of_its_node(shared: Path, name: str) -> None:
    verdict = check_file(shared / "models" / name / "model.onnx", Backend("cpu"))
    assert not verdict.attributable
    assert REFUSED[name] in [r["operator"] for r in verdict.refused]
    assert all(r["node"] for r in verdict.refused)
