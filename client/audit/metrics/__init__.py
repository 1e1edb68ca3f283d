"""Numbers that say whether explanations of a model mean anything, one file an axis.

`METRICS` lists what there is, each with its direction, category, formula and source. Metrics are functions of maps, or
of what makes them (`Explain`, `Forward`); `onnx_attribution.client.audit.subject.Subject` makes those of a model behind
an `Engine` or a `Client`. They give a number for each sample.
"""

from onnx_attribution.client.audit.metrics import (
    complexity,
    convergence,
    faithfulness,
    localisation,
    randomisation,
    removal,
    sensitivity,
    similarity,
)
from onnx_attribution.client.audit.metrics.metric import METRICS, Metric

__all__ = [
    "METRICS",
    "Metric",
    "complexity",
    "convergence",
    "faithfulness",
    "localisation",
    "randomisation",
    "removal",
    "sensitivity",
    "similarity",
]
