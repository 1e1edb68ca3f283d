"""How much of a map a reader has to take in."""

from __future__ import annotations

import numpy as np

from onnx_attribution.client.audit.arrays import Floats, Maps
from onnx_attribution.client.audit.metrics.metric import Metric, declared, flat, ratio

SPARSENESS = declared(
    Metric(
        "sparseness",
        "higher",
        "complexity",
        "the Gini index of |a|: sum_k (2 k - n - 1) |a|_(k) / (n sum |a|), |a|_(k) rising",
        "arXiv 1810.06583",
        quantus="Sparseness",
    )
)
COMPLEXITY = declared(
    Metric(
        "complexity",
        "lower",
        "complexity",
        "the entropy - sum p ln p of p = |a| / sum |a|",
        "arXiv 2005.00631",
        quantus="Complexity",
    )
)
EFFECTIVE_COMPLEXITY = declared(
    Metric(
        "effective_complexity",
        "lower",
        "complexity",
        "how many |a| / max |a| are above a threshold, 1e-5",
        "arXiv 2007.07584",
        quantus="EffectiveComplexity",
    )
)


def sparseness(maps: Maps) -> Floats:
    """SPARSENESS: 0 where all magnitudes are equal, near 1 where one is all; NaN for a map of zeros."""
    values = np.sort(np.abs(flat(maps)), axis=1)
    size = values.shape[1]
    weights = 2 * np.arange(1, size + 1) - size - 1
    return ratio(values @ weights, size * values.sum(axis=1))


def complexity(maps: Maps) -> Floats:
    """COMPLEXITY: ln n where all magnitudes are equal, 0 where one is all; NaN for a map of zeros."""
    values = np.abs(flat(maps))
    shares = values / np.where(values.sum(axis=1) == 0, 1.0, values.sum(axis=1))[:, None]
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)
    return np.where(values.any(axis=1), entropy, np.nan)


def effective_complexity(maps: Maps, threshold: float = 1e-5) -> Floats:
    """EFFECTIVE_COMPLEXITY; 0 for a map of zeros."""
    values = np.abs(flat(maps))
    top = values.max(axis=1, initial=0.0)
    count = (values > threshold * top[:, None]).sum(axis=1)
    return np.where(top > 0, count, 0).astype(np.float64)
