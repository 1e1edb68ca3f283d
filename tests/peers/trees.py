"""Exact Shapley values of small forests by shap's TreeExplainer: `python -m tests.peers.trees` writes what
`tests/methods/test_tree_shap.py` compares `kernel_shap` with.

Each forest is written out as its nodes, so that the test needs neither scikit-learn nor shap. The values are
interventional: the mean over the background of the values with one point of it as the baseline.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import shap
import sklearn
from sklearn.ensemble import RandomForestRegressor

FILE = Path(__file__).parents[1] / "data" / "tree_shap.json"
KINDS = ((4, 3, 3), (6, 5, 4), (9, 4, 5))
"""Features, trees and depth."""


def forest(features: int, trees: int, depth: int) -> dict[str, Any]:
    """A forest as lists of nodes, with points, a background and the Shapley values."""
    rng = np.random.default_rng(features)
    # Quarters have exact splits in float32, at eighths.
    x = np.round(4 * rng.normal(size=(200, features))) / 4
    y = x[:, 0] * (x[:, 1] > 0) + np.abs(x[:, 2]) - x[:, -1] * x[:, 0]
    made = RandomForestRegressor(trees, max_depth=depth, random_state=0).fit(x, y)
    background, points = x[:8], x[8:12]
    explainer = shap.TreeExplainer(made, data=background, feature_perturbation="interventional")
    nodes = [
        {
            "feature": tree.tree_.feature.tolist(),
            "threshold": tree.tree_.threshold.tolist(),
            "left": tree.tree_.children_left.tolist(),
            "right": tree.tree_.children_right.tolist(),
            "value": (tree.tree_.value[:, 0, 0] / trees).tolist(),
        }
        for tree in made.estimators_
    ]
    return {
        "trees": nodes,
        "points": points.tolist(),
        "background": background.tolist(),
        "values": np.asarray(explainer.shap_values(points, check_additivity=True)).tolist(),
        "predictions": made.predict(points).tolist(),
    }


def main() -> None:
    found = {
        "source": f"shap {shap.__version__}, TreeExplainer, interventional; scikit-learn {sklearn.__version__}",
        "forests": [forest(*kind) for kind in KINDS],
    }
    FILE.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
