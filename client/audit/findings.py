"""What an audit has found, over all samples: the numbers of its report, made of what its steps have kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.audit.arrays import from_json
from onnx_attribution.client.audit.metrics.faithfulness import COMPLETENESS
from onnx_attribution.client.audit.run import Audit
from onnx_attribution.client.audit.verdict import Finding, Verdicts, findings, verdicts

TOP, EXAMPLES = 5, 3
"""Neurons of a layer that are listed, and samples of each."""
ROUNDED = 1e-5
"""Of a sum: what float32 may take from it, where its parts do not cancel."""
Numbers = NDArray[np.float64]


def judged(audit: Audit) -> Verdicts:
    """The verdict on each method, by the checks that were done and by COMPLETENESS."""
    done = [check for check in audit.checks if check.name not in audit.skipped]
    found = [*_completeness(audit), *(one for check in done for one in check.findings(audit))]
    return verdicts(found, len(audit.data), seed=audit.settings.seed)


def _completeness(audit: Audit) -> list[Finding]:
    """COMPLETENESS of the methods whose maps sum to the change."""
    items = [audit.item(k)["methods"] for k in range(len(audit.data))]
    values = {}
    for name in audit.everywhere:
        about = audit.facts.get(audit.settings.methods[name].name)
        if about is not None and about.sums_to == "F(x) - F(x')":
            values[name] = from_json([completeness(one[name]) for one in items])
    return findings(COMPLETENESS, values, seed=audit.settings.seed) if values else []


def completeness(numbers: Mapping[str, Any]) -> float | None:
    """How far the maps of an answer sum from the change of its target, as a share of the change; None: it has no such.

    It is what the answer says of itself, and what its maps sum to beside the sums that it tells.
    """
    if "error" in numbers:
        return None
    target = numbers["target"]
    if target["value"] is None or target["baseline_value"] is None:
        return None
    change = target["value"] - target["baseline_value"]
    layers = numbers["layers"].values()
    joint = numbers["joint_residual"]
    residuals = [] if joint is None else [joint + sum(map(_untold, layers))]
    residuals += [
        one["residual"] + _untold(one) for one in layers if one["cut"] and one["residual"] is not None
    ]
    return abs(residuals[0]) / abs(change) if residuals and change else None


def _untold(layer: Mapping[str, Any]) -> float:
    """By how much the map of a layer sums to more than the answer says, beyond what rounding to float32 does."""
    if layer["sum"] is None or layer.get("measured") is None:
        return 0.0
    more = float(layer["measured"] - layer["sum"])
    return more if abs(more) > ROUNDED * max(abs(layer["sum"]), abs(layer["measured"])) else 0.0


def flow(audit: Audit) -> dict[str, Any] | None:
    """Of the first method that has one: by layer the mean share of the change, and whether all of it must pass."""
    for method in audit.flow_methods:
        shares: dict[str, list[float]] = {}
        cuts: dict[str, bool] = {}
        sets: list[list[str]] = []
        for k in range(len(audit.data)):
            told = audit.item(k)["methods"][method]
            if "error" in told or told["flow"] is None:
                continue
            sets = told["flow"]["cut_sets"]
            for layer, share in told["flow"]["shares"].items():
                cuts[layer] = told["layers"][layer]["cut"]
                shares.setdefault(layer, [])
                if share is not None:
                    shares[layer].append(share)
        if shares:
            return {
                "method": method,
                "layers": {
                    name: {"share": float(np.median(each)) if each else None, "cut": cuts[name]}
                    for name, each in shares.items()
                },
                "cut_sets": sets,
            }
    return None


def neurons(audit: Audit) -> dict[str, Any] | None:
    """Of the first method with hidden layers: by layer the channels of the largest mean magnitude, each with the
    samples that drive it."""
    for method in audit.flow_methods:
        found: dict[str, list[dict[str, Any]]] = {}
        for layer in audit.settings.layers:
            kept = {k: audit.hidden(k, method, layer) for k in range(len(audit.data))}
            each = {k: one["sums"].astype(np.float64) for k, one in kept.items() if one}
            if not each or len({len(one) for one in each.values()}) != 1:
                continue
            names = audit.settings.names.of(layer)
            table = np.stack(list(each.values()))
            strength = np.abs(table).mean(axis=0)
            whole = strength.sum()
            top = np.argsort(-strength, kind="stable")[:TOP]
            found[layer] = [
                {
                    "channel": int(channel),
                    **({"name": names[int(channel)]} if int(channel) in names else {}),
                    "share": float(strength[channel] / whole) if whole else None,
                    "mean": float(table[:, channel].mean()),
                    "examples": [
                        {"item": list(each)[at], "value": float(table[at, channel])}
                        for at in np.argsort(-np.abs(table[:, channel]), kind="stable")[:EXAMPLES]
                    ],
                }
                for channel in top
                if strength[channel] > 0
            ]
        if found:
            return {"method": method, "layers": found}
    return None
