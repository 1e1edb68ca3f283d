"""`kernel_shap` of small forests with the exact values of shap's TreeExplainer, which tests/peers/trees.py wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, References

FORESTS = json.loads((Path(__file__).parents[1] / "data" / "tree_shap.json").read_text())["forests"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


def model(trees: list[dict[str, list[Any]]], features: int) -> onnx.ModelProto:
    """The forest as the operator of ONNX."""
    places = [(t, n) for t, tree in enumerate(trees) for n in range(len(tree["feature"]))]
    leaves = [(t, n) for t, n in places if trees[t]["left"][n] < 0]

    def each(name: str, leaf: Any) -> list[Any]:
        return [leaf if trees[t]["left"][n] < 0 else trees[t][name][n] for t, n in places]

    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1,
        nodes_treeids=[t for t, _ in places], nodes_nodeids=[n for _, n in places],
        nodes_featureids=each("feature", 0), nodes_values=each("threshold", 0.0),
        nodes_modes=["LEAF" if trees[t]["left"][n] < 0 else "BRANCH_LEQ" for t, n in places],
        nodes_truenodeids=each("left", 0), nodes_falsenodeids=each("right", 0),
        target_treeids=[t for t, _ in leaves], target_nodeids=[n for _, n in leaves],
        target_ids=[0] * len(leaves), target_weights=[trees[t]["value"][n] for t, n in leaves],
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "forest",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize("number", range(len(FORESTS)))
def test_kernel_shap_over_references_is_tree_shap(engine: Engine, number: int) -> None:
    forest = FORESTS[number]
    points, wanted = np.asarray(forest["points"], np.float32), np.asarray(forest["values"])
    engine.add(f"forest{number}", model(forest["trees"], points.shape[1]))
    given = {"x": References(np.asarray(forest["background"], np.float32))}
    answer: Any = engine.attribute(
        AttributionRequest(f"forest{number}", {"x": points}, "kernel_shap", baselines=given, target=0)
    )
    np.testing.assert_allclose(answer.target.value, forest["predictions"], rtol=1e-5)
    np.testing.assert_allclose(answer.layers["x"].values, wanted, rtol=1e-4, atol=2e-6)
    assert np.abs(5e-4 * wanted).max() > 1e-4  # what is 0.05 % off does not pass
    np.testing.assert_allclose(answer.layers["x"].error_estimate, 0, atol=1e-5)
