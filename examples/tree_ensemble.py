"""Occlusion of a tree ensemble, which has no gradient: what the prediction loses without each feature."""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor

from onnx_attribution import Engine
from onnx_attribution.values import AttributionRequest


def to_onnx(forest: RandomForestRegressor, features: int) -> ModelProto:
    """The forest as a TreeEnsembleRegressor that takes the mean over its trees."""
    trees = [(each.tree_, each.tree_.children_left < 0) for each in forest.estimators_]

    def joined(each: Callable[[Any, Any, int], Any]) -> list[Any]:
        return list(np.concatenate([each(tree, leaf, k) for k, (tree, leaf) in enumerate(trees)]).tolist())

    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1,
        nodes_treeids=joined(lambda tree, leaf, k: np.full(len(leaf), k)),
        nodes_nodeids=joined(lambda tree, leaf, k: np.arange(len(leaf))),
        nodes_modes=joined(lambda tree, leaf, k: np.where(leaf, "LEAF", "BRANCH_LEQ")),
        nodes_featureids=joined(lambda tree, leaf, k: np.maximum(tree.feature, 0)),
        nodes_values=joined(lambda tree, leaf, k: tree.threshold),
        nodes_truenodeids=joined(lambda tree, leaf, k: np.maximum(tree.children_left, 0)),
        nodes_falsenodeids=joined(lambda tree, leaf, k: np.maximum(tree.children_right, 0)),
        target_ids=joined(lambda tree, leaf, k: np.zeros(leaf.sum(), int)),
        target_treeids=joined(lambda tree, leaf, k: np.full(leaf.sum(), k)),
        target_nodeids=joined(lambda tree, leaf, k: np.flatnonzero(leaf)),
        target_weights=joined(lambda tree, leaf, k: tree.value[leaf, 0, 0] / len(trees)),
    )  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", features])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])
    graph = helper.make_graph([node], "forest", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3)], ir_version=10)


def main() -> None:
    """Prints the features of one patient by what the prediction loses when they are set to their mean."""
    data = load_diabetes()
    forest = RandomForestRegressor(20, max_depth=5, random_state=0).fit(data.data, data.target)
    patient, mean = data.data[:1].astype(np.float32), data.data.mean(axis=0).astype(np.float32)
    with Engine(provider="cpu") as engine:
        engine.add("forest", to_onnx(forest, data.data.shape[1]))
        ask = AttributionRequest("forest", {"x": patient}, "occlusion", baselines={"x": mean})
        answer = engine.attribute(ask)
    print(f"prediction {answer.target.value[0]:.2f}, sklearn says {forest.predict(data.data[:1])[0]:.2f}")
    named = zip(data.feature_names, answer.layers["x"].values[0], strict=True)
    for name, lost in sorted(named, key=lambda pair: -abs(pair[1])):
        print(f"  {name:<4}{lost:+8.2f}")


if __name__ == "__main__":
    main()
