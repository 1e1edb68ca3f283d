"""What changed between two versions of a model: how the maps of the same samples and targets moved, layer by layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from onnx_attribution.client.audit.arrays import from_json
from onnx_attribution.client.audit.metrics.interval import interval
from onnx_attribution.client.audit.metrics.similarity import spearman, spearman_absolute
from onnx_attribution.client.audit.records import plain
from onnx_attribution.client.audit.run import Audit, Model, Step
from onnx_attribution.client.audit.verdict import Finding
from onnx_attribution.client.audit.verdict import plain as plain_tree
from onnx_attribution.client.render.maps import Map
from onnx_attribution.errors import AttributionError
from onnx_attribution.values import Array

NUMBERS = ("spearman", "spearman_absolute", "moved")
TOGETHER = "all inputs together"


def moved_mass(one: Map, other: Map) -> float:
    """Half the sum of the differences of two maps, each divided by the sum of its magnitudes: 0 where they are equal
    but for a factor, 1 where they share nothing; NaN for a map of zeros, which has no mass."""
    sizes = float(np.abs(one).sum()), float(np.abs(other).sum())
    if not all(sizes):
        return math.nan
    return float(np.abs(one / sizes[0] - other / sizes[1]).sum() / 2)


class Comparison:
    """The check of `--compare`: both models explain the target of the model that is audited."""

    name = "compare"

    def __init__(self, other: Model, words: str) -> None:
        self._other, self._words = other, words

    def steps(self, audit: Audit) -> Iterator[Step]:
        for k, item in enumerate(audit.data.items):
            yield Step(f"compare-{k:06d}", f"compared {item.id}", partial(self._compare, audit, k))

    def _compare(self, audit: Audit, k: int) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        item, told = audit.data.items[k], audit.item(k)
        known = {one.name for one in self._other.layers("")}
        hidden = [name for name in audit.settings.layers if name in known]
        lines: dict[str, Any] = {}
        value, target = None, audit.target(k)
        for name in audit.settings.methods:
            sources = audit.settings.source or audit.info.sources
            layers = (*sources, *hidden) if name in audit.flow_methods else ()
            request = audit.request(name, item.inputs, target, layers)
            try:
                answers = [one.attribute(request) for one in (audit.model, self._other)]
            except AttributionError as error:
                lines[name] = {"error": error.message}
                continue
            value = plain(answers[1].target.value[0] - answers[0].target.value[0])
            lines[name] = {}
            own, others = (
                {layer: np.asarray(one.values[0], np.float64) for layer, one in answer.layers.items()}
                for answer in answers
            )
            if len(sources) > 1:  # of numbers one each no input has ranks, and all together have
                for maps in (own, others):
                    if maps.keys() >= set(sources):
                        maps[TOGETHER] = np.concatenate([maps[source].ravel() for source in sources])
            for layer, mine in own.items():
                if layer not in others:
                    continue
                its = others[layer]
                if mine.shape != its.shape or not (np.isfinite(mine).all() and np.isfinite(its).all()):
                    lines[name][layer] = None
                    continue
                lines[name][layer] = {
                    "spearman": plain(spearman(its, mine)),
                    "spearman_absolute": plain(spearman_absolute(its, mine)),
                    "moved": plain(moved_mass(its, mine)),
                }
        same, prediction = None, told["prediction"]
        if prediction is not None:
            tensor = next(one["target"]["tensor"] for one in told["methods"].values() if "target" in one)
            try:
                scores = np.asarray(self._other.predict(item.inputs, [tensor])[tensor]).ravel()
                same = bool(scores.argmax() == prediction["index"])
            except AttributionError:
                same = None
        return {"methods": lines, "shift": value, "same": same}, {}

    def seconds(self, audit: Audit) -> float:
        return 2 * len(audit.data) * sum(map(audit.seconds_of, audit.settings.methods))

    def planned(self, audit: Audit) -> int:
        return len(audit.data)

    def findings(self, audit: Audit) -> list[Finding]:
        return []

    def found(self, audit: Audit) -> dict[str, Any]:
        items = [audit.state.numbers(f"compare-{k:06d}") for k in range(len(audit.data))]
        lines, errors, seed = [], [], audit.settings.seed
        for name in audit.settings.methods:
            each = [one["methods"][name] for one in items]
            told = [one for one in each if "error" not in one]
            refused = Counter(one["error"] for one in each if "error" in one)
            errors += [{"method": name, "error": why, "samples": count} for why, count in refused.items()]
            layers = dict.fromkeys(layer for one in told for layer in one)
            for layer in layers:
                unlike = sum(layer in one and one[layer] is None for one in told)
                if unlike:
                    why = f"the maps of {layer} have other shapes, or numbers that are not finite"
                    errors.append({"method": name, "error": why, "samples": unlike})
                own = [one[layer] for one in told if one.get(layer)]
                if own:
                    numbers = {word: _interval([one[word] for one in own], seed) for word in NUMBERS}
                    lines.append({"method": name, "layer": layer, **numbers})
        same = [one["same"] for one in items if one["same"] is not None]
        known = {one.name for one in self._other.layers("")}
        info = self._other.info()
        return {
            "name": self._words,
            "digest": info.digest,
            "agreement": sum(same) / len(same) if same else None,
            "shift": _interval([one["shift"] for one in items], seed)["value"],
            "lines": lines,
            "errors": errors,
            "missing": [name for name in audit.settings.layers if name not in known],
        }


def _interval(values: Sequence[float | None], seed: int) -> dict[str, Any]:
    told: dict[str, Any] = plain_tree(asdict(interval(from_json(values), seed=seed)))
    return told
