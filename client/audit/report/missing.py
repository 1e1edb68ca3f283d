"""What has no number in a report, and why: samples as a whole, answers of a method, samples of a metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnx_attribution.client.audit.report.summary import title
from onnx_attribution.client.audit.requirements import LOCATED


def left_out(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What has no number, in sentences: samples as a whole, answers of a method, and samples of a metric."""
    lines = [{"what": f"sample {name}", "why": reason} for name, reason in found["data"]["left_out"].items()]
    for name, one in found["methods"].items():
        if one["error"]:
            continue  # it stands in the table with its words
        missing: dict[str, list[str]] = {}
        for item in found["items"]:
            if error := item["methods"][name].get("error"):
                missing.setdefault(error, []).append(item["id"])
        lines += [
            {"what": f"{name}: no answer for {_listed(ids)}", "why": why} for why, ids in missing.items()
        ]
        if missing:
            continue  # and so it is not compared with others
        whole = len(found["items"])
        lines += [
            {
                "what": f"{name}: {title(key)} of {whole - metric['count']} of {whole} samples",
                "why": _why_unknown(found, name, key),
            }
            for key, metric in one["metrics"].items()
            if metric["count"] < whole and not _is_of_some(found, key)
        ]
    return lines


def _is_of_some(found: Mapping[str, Any], metric: str) -> bool:
    """Whether a metric is taken on some samples only, by its nature."""
    return metric.startswith(("model_parameter_randomisation", "convergence")) or metric in LOCATED


def _why_unknown(found: Mapping[str, Any], method: str, metric: str) -> str:
    """Why a sample has no number of a metric."""
    return {
        "completeness": "the target is what it is at the baseline, so that there is no change to sum to",
        "infidelity": "the target does not change when windows are removed, or is no single number",
        "deletion_area": "the target is the same on the whole curve",
        "insertion_area": "the target is the same on the whole curve",
        "max_sensitivity": "the map is 0, or a moved input cannot be explained",
    }.get(metric, "its map is constant, or not of the layers that are compared")


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} others" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
