"""What an audit is asked to meet: thresholds of metrics, of one method or of all."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from onnx_attribution.errors import InvalidArgument

FORM = re.compile(
    r"(?:(?P<method>[\w-]+)\.)?(?P<metric>[\w-]+)\s*(?P<sign><=|>=|<|>)\s*(?P<limit>[-+.\deE]+)"
)
COLUMNS: Mapping[str, str] = {
    "deletion": "deletion_area",
    "insertion": "insertion_area",
    "other_classes": "random_logit_spearman",
    "random_weights": "model_parameter_randomisation_spearman",
    "small_moves": "max_sensitivity",
    "continuity": "local_lipschitz_estimate",
}
"""Metrics by the heads of the columns of the report."""
LOCATED = (
    "pointing_game",
    "attribution_localisation",
    "relevance_mass_accuracy",
    "relevance_rank_accuracy",
    "intersection_over_union",
)
"""The metrics of samples with masks."""
MEASURED = (
    "completeness",
    "infidelity",
    "sparseness",
    "complexity",
    "convergence",
    *COLUMNS.values(),
    *LOCATED,
)
"""The metrics of an audit. Only COMPLETENESS is of some methods alone: those whose maps sum to the change."""
SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


@dataclass(frozen=True)
class Requirement:
    """`METHOD.METRIC<=NUMBER`; without a method it is asked of all."""

    text: str
    method: str | None
    metric: str
    sign: str
    limit: float

    def met(self, methods: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Of each method its number and whether that is as required. A method without a number does not meet it, and
        where there is none to be judged nothing does; completeness is not asked of methods that answered every sample
        and have none, since it is not said of their maps."""
        found = []
        for name, told in methods.items():
            if self.method not in (None, name):
                continue
            value = told["metrics"].get(self.metric, {}).get("value")
            has_none = self.metric == "completeness" and self.metric not in told["metrics"]
            if has_none and self.method is None and not told["failed"]:
                continue
            met = value is not None and SIGNS[self.sign](value, self.limit)
            found.append({"requirement": self.text, "method": name, "value": value, "met": met})
        return found or [
            {"requirement": self.text, "method": self.method or "any method", "value": None, "met": False}
        ]


def parse(text: str, methods: Collection[str]) -> Requirement:
    """Raises: InvalidArgument: it is none, or of a metric that there is not, or a method that is not audited."""
    found = FORM.fullmatch(text.strip())
    try:
        limit = float(found["limit"]) if found else 0.0
    except ValueError:
        found = None
    if found is None:
        raise InvalidArgument(
            f"--require {text!r} is not of the form [METHOD.]METRIC<=NUMBER, such as completeness<=0.01"
        )
    method = found["method"] and found["method"].replace("-", "_").lower()
    if method and method not in methods:
        raise InvalidArgument(
            f"--require {text!r}: {method} is not audited; audited are {', '.join(methods)}"
        )
    metric = found["metric"].replace("-", "_").lower()
    metric = COLUMNS.get(metric, metric)
    if metric not in MEASURED:
        raise InvalidArgument(
            f"--require {text!r}: no metric {metric}; there are: {', '.join((*MEASURED, *COLUMNS))}"
        )
    return Requirement(text, method or None, metric, found["sign"], limit)
