"""Requirements: what was not measured is not met, and what there is not is refused."""

from __future__ import annotations

from typing import Any

import pytest

from onnx_attribution.client.audit.requirements import COLUMNS, MEASURED, parse
from onnx_attribution.errors import InvalidArgument


def told(failed: int = 0, **values: float | None) -> dict[str, Any]:
    metrics = {name: {"value": value} for name, value in values.items()}
    return {"metrics": metrics, "failed": failed, "error": None}


def met(text: str, **methods: dict[str, Any]) -> dict[str, bool]:
    return {one["method"]: one["met"] for one in parse(text, methods).met(methods)}


def test_a_method_without_a_number_does_not_meet_it() -> None:
    found = met("infidelity<1", a=told(infidelity=0.5), b=told(infidelity=None), c=told())
    assert found == {"a": True, "b": False, "c": False}
    assert met("completeness<=0.01", a=told(completeness=0.0), b=told(failed=1)) == {"a": True, "b": False}


def test_completeness_is_not_asked_of_maps_that_have_no_sum_unless_nothing_else_is_there() -> None:
    assert met("completeness<=0.01", a=told(completeness=0.0), b=told()) == {"a": True}
    assert met("completeness<=0.01", b=told()) == {"any method": False}
    assert met("b.completeness<=0.01", b=told()) == {"b": False}


@pytest.mark.parametrize(("column", "metric"), COLUMNS.items())
def test_the_heads_of_columns_are_names_too(column: str, metric: str) -> None:
    one = {"metrics": {metric: {"value": 0.5}}, "failed": 0, "error": None}
    assert met(f"a.{column.replace('_', '-')}<1", a=one) == {"a": True}


def test_a_metric_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        InvalidArgument, match=r"no metric infidelty; there are: .*infidelity.*deletion"
    ) as raised:
        parse("infidelty<1", ["a"])
    assert all(name in raised.value.message for name in MEASURED)
