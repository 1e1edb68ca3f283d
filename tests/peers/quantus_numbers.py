"""What Quantus says of seeded maps, as JSON: `python -m tests.peers.quantus_numbers > tests/data/audit/quantus.json`.

Needs `pip install quantus` (0.6 was used) in an environment of its own; tests/client/audit/test_quantus.py compares.
The explained model of the two robustness metrics is a(x) = x^2 times fixed numbers, in numpy; that of infidelity and
random_logit has the scores `Scores`, of which each input has its class.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import numpy as np
import quantus
from quantus.functions import similarity_func

SHAPE = (6, 1, 12, 12)
CLASSES, PATCH = 4, 4


def maps() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps, others of the same shape, and masks."""
    rng = np.random.default_rng(0)
    return rng.normal(size=SHAPE), rng.normal(size=SHAPE), rng.random(SHAPE) < 0.2


class Scores:
    """F_c(x) = w_c . x + (v_c . x)^2, and its gradient."""

    def __init__(self) -> None:
        self.w, self.v = np.random.default_rng(2).normal(0, 0.1, (2, CLASSES, int(np.prod(SHAPE[1:]))))

    def shape_input(self, x: np.ndarray, *_: Any, **__: Any) -> np.ndarray:
        return x

    def predict(self, x: np.ndarray) -> np.ndarray:
        rows = x.reshape(len(x), -1)
        return np.asarray(rows @ self.w.T + (rows @ self.v.T) ** 2)

    def gradients(self, x: np.ndarray, classes: np.ndarray) -> np.ndarray:
        rows = x.reshape(len(x), -1)
        inner = (rows * self.v[classes]).sum(axis=1, keepdims=True)
        return np.asarray((self.w[classes] + 2 * inner * self.v[classes]).reshape(x.shape))


def main() -> None:
    """Prints the numbers."""
    a, b, masks = maps()
    found: dict[str, Any] = {"quantus": version("quantus")}

    def ask(metric: Any, values: np.ndarray, **options: Any) -> list[float]:
        score = metric.evaluate_batch(x_batch=a.copy(), a_batch=values.copy(), **options)
        return [float(one) for one in np.asarray(score)]

    magnitudes = np.abs(a)
    found["sparseness"] = ask(quantus.Sparseness(disable_warnings=True), magnitudes)
    found["complexity"] = ask(quantus.Complexity(disable_warnings=True), magnitudes)
    top = magnitudes.reshape(len(a), -1).max(axis=1).reshape(-1, 1, 1, 1)
    found["effective_complexity"] = ask(
        quantus.EffectiveComplexity(eps=0.1, disable_warnings=True), magnitudes / top
    )
    for name, metric, values in (
        ("pointing_game", quantus.PointingGame, magnitudes),
        ("attribution_localisation", quantus.AttributionLocalisation, a),
        ("relevance_mass_accuracy", quantus.RelevanceMassAccuracy, magnitudes),
        ("relevance_rank_accuracy", quantus.RelevanceRankAccuracy, magnitudes),
    ):
        only = {"positive_attributions": True} if name == "attribution_localisation" else {}
        made = metric(disable_warnings=True, **only)
        found[name] = ask(made, values, s_batch=masks.astype(float))
    found["spearman"] = [
        similarity_func.correlation_spearman(x.ravel(), y.ravel()) for x, y in zip(a, b, strict=True)
    ]

    def explain(model: Any, inputs: np.ndarray, targets: Any) -> np.ndarray:
        return np.asarray(inputs**2 * b.reshape(inputs.shape))

    steps = iter(np.random.default_rng(1).normal(0, 0.1, (16, *SHAPE)))

    def moved(arr: np.ndarray, **_: Any) -> np.ndarray:
        return np.asarray(arr + next(steps).reshape(arr.shape))

    options = {
        "nr_samples": 8, "perturb_func": moved, "perturb_func_kwargs": {}, "abs": False, "normalise": False,
        "disable_warnings": True, "return_nan_when_prediction_changes": False,
    }  # fmt: skip
    own = explain(None, a, None)
    for name, kind in (
        ("max_sensitivity", quantus.MaxSensitivity),
        ("local_lipschitz_estimate", quantus.LocalLipschitzEstimate),
    ):
        more = {"norm_numerator": similarity_func.distance_euclidean} if name.startswith("local") else {}
        metric = kind(**{**options, **more})
        metric.explain_batch = explain
        score = metric.evaluate_batch(
            model=None, x_batch=a, y_batch=np.zeros(len(a), int), a_batch=own.copy()
        )
        found[name] = np.asarray(score).tolist()
    scores, classes = Scores(), np.arange(len(a)) % CLASSES
    own = scores.gradients(a, classes)
    noise = iter(np.random.default_rng(3).normal(0, 0.2, ((SHAPE[-1] // PATCH) ** 2, *SHAPE)))

    def removed(arr: np.ndarray, indices: Any, **_: Any) -> np.ndarray:
        return np.asarray((a - next(noise)).reshape(arr.shape))

    infidelity = quantus.Infidelity(
        perturb_patch_sizes=[PATCH], n_perturb_samples=1, perturb_func=removed, disable_warnings=True
    )
    found["infidelity"] = np.asarray(
        infidelity.evaluate_batch(model=scores, x_batch=a, y_batch=classes, a_batch=own)
    ).tolist()
    asked: list[np.ndarray] = []

    def explained(model: Scores, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        asked.append(targets)
        return model.gradients(inputs, targets)

    logit = quantus.RandomLogit(
        similarity_func=similarity_func.correlation_spearman, num_classes=CLASSES, disable_warnings=True
    )
    logit.explain_batch = explained
    found["random_logit"] = np.asarray(
        logit.evaluate_batch(model=scores, x_batch=a, y_batch=classes, a_batch=own)
    ).tolist()
    found["random_logit_classes"] = [int(one) for one in asked[0]]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
