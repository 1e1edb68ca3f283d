"""The page of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnx_attribution.client.audit.metrics.interval import interval

TARGETS = {"composites": 0.75, "fashion": 0.65}
SHUFFLED, LEVEL = 0.15, 0.01
TITLES = {
    "composites": "Composites: 54 of 72 classes seen, 18 described",
    "fashion": "Fashion-MNIST: eight of ten classes seen, two described",
}


def page(data: str, found: Sequence[dict[str, Any]]) -> str:
    """Markdown: what was to be reached, the table of methods, the experiments one by one, and the names."""
    lines = [f"# {TITLES[data]}", "", f"<!-- Written by `python -m benchmarks.niwt {data}`. -->", ""]
    lines += [*_targets(data, found), ""]
    lines += [
        f"Means over {len(found)} networks with their bootstrap intervals of 95 %, and medians of H.", "",
        "| method | seen | unseen | H | median H | unseen only |", "|---|---|---|---|---:|---|",
    ]  # fmt: skip
    for name in found[0]["scores"]:
        cells = [_cell(found, name, key) for key in ("seen", "unseen", "harmonic", "unseen_only")]
        lines.append(
            f"| {name} | {cells[0]} | {cells[1]} | {cells[2]} | {_median(found, name):.3f} | {cells[3]} |"
        )
    lines += [
        "", "What NIWT chose on seen classes:", "",
        "| unseen | layer | ridge | pull | share | H on seen classes held out | H |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for one in found:
        choice = one["choice"]
        lines.append(
            f"| {one['unseen']} (seed {one['seed']}) | {one['layer']} | {choice['ridge']} | {choice['pull']} | "
            f"{choice['share']:.2f} | {choice['harmonic']:.3f} | {one['scores']['NIWT']['harmonic']:.3f} |"
        )
    return "\n".join([*lines, "", *_names(found), ""])


def _targets(data: str, found: Sequence[dict[str, Any]]) -> list[str]:
    niwt, rival = _median(found, "NIWT"), _median(found, "description -> weights")
    calibrated = _median(found, "description -> weights, offset chosen")
    mixed, p = _median(found, "shuffled descriptions"), _pooled(found)
    rows = [
        ("median H of NIWT", f"at least {TARGETS[data]}", f"{niwt:.3f}", niwt >= TARGETS[data]),
        ("median H of shuffled descriptions", f"at most {SHUFFLED}", f"{mixed:.3f}", mixed <= SHUFFLED),
        ("median H of NIWT", f"description -> weights: {rival:.3f}", f"{niwt:.3f}", niwt >= rival),
        (
            "median H of NIWT",
            f"the same with an offset chosen: {calibrated:.3f}",
            f"{niwt:.3f}",
            niwt >= calibrated,
        ),
        ("names against their null, over all networks", f"p below {LEVEL}", f"{p:.4f}", p < LEVEL),
    ]
    return [
        "| | to reach | found | |", "|---|---|---:|---|",
        *(f"| {what} | {wanted} | {value} | {'reached' if met else 'missed'} |" for what, wanted, value, met in rows),
    ]  # fmt: skip


def _pooled(found: Sequence[dict[str, Any]]) -> float:
    """How often the mean over all networks is reached by one of the shuffled descriptions."""
    own = np.mean([one["names"]["mean"] for one in found])
    draws = np.mean([one["names"]["draws"] for one in found], axis=0)
    return float((1 + (draws >= own).sum()) / (1 + len(draws)))


def _values(found: Sequence[dict[str, Any]], name: str, key: str) -> list[float]:
    return [one["scores"][name][key] for one in found]


def _median(found: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.median(_values(found, name, "harmonic")))


def _cell(found: Sequence[dict[str, Any]], name: str, key: str) -> str:
    one = interval(np.array(_values(found, name, key)))
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


def _names(found: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "Names: the mean average precision of attributes of classes held out, by importance at the chosen layer, and",
        "the mean over 200 shuffles of the descriptions among classes.", "",
        "| seed | mean average precision | shuffled | p |", "|---:|---:|---:|---:|",
    ]  # fmt: skip
    for one in found:
        names = one["names"]
        lines.append(f"| {one['seed']} | {names['mean']:.3f} | {names['null']:.3f} | {names['p']:.4f} |")
    attributes = sorted({name for one in found for name in one["names"]["attributes"]})
    lines += ["", "| attribute | mean average precision | seeds with p < .01 |", "|---|---:|---:|"]
    for name in attributes:
        pairs = np.array(
            [one["names"]["attributes"][name] for one in found if name in one["names"]["attributes"]]
        )
        lines.append(f"| {name} | {pairs[:, 0].mean():.3f} | {(pairs[:, 1] < LEVEL).sum()} of {len(pairs)} |")
    return lines
