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
        """Of each method that has the metric, its number and whether that is as required. A method that is named and
        has no such number does not meet it."""
        found = []
        for name, told in methods.items():
            if self.method not in (None, name):
                continue
            value = told["metrics"].get(self.metric, {}).get("value")
            if value is None and self.method is None and told["error"] is None:
                continue
            met = value is not None and SIGNS[self.sign](value, self.limit)
            found.append({"requirement": self.text, "method": name, "value": value, "met": met})
        return found


def parse(text: str, methods: Collection[str]) -> Requirement:
    """Raises: InvalidArgument: it is none, or of a method that is not audited."""
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
    return Requirement(text, method or None, found["metric"].replace("-", "_"), found["sign"], limit)
