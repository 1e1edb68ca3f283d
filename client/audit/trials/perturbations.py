"""Whether maps say what happens to the target when the input moves, and hold still when it moves little."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from onnx_attribution.client.audit.arrays import Floats, Inputs, Maps
from onnx_attribution.client.audit.metrics.complexity import SPARSENESS, sparseness
from onnx_attribution.client.audit.metrics.faithfulness import (
    INFIDELITY,
    infidelity,
    is_multiplied,
    removed_squares,
)
from onnx_attribution.client.audit.metrics.randomisation import permuted
from onnx_attribution.client.audit.metrics.sensitivity import MAX_SENSITIVITY, max_sensitivity, within
from onnx_attribution.client.audit.run import Audit, Step
from onnx_attribution.client.audit.trials.likeness import column
from onnx_attribution.client.audit.verdict import Finding, findings
from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.values import Array

REMOVED, MOVED = 16, 4
"""Windows that are removed, and moves of the input, of each sample."""
RADIUS = 0.02
"""How far an element moves, as a share of the spread of the input."""


class Perturbations:
    """INFIDELITY of removed windows, normalised and as a share of its size without a map; MAX_SENSITIVITY; and
    SPARSENESS, which needs no perturbation."""

    name = "perturbations"

    def planned(self, audit: Audit) -> int:
        return len(audit.data)

    def seconds(self, audit: Audit) -> float:
        runs = audit.seconds_of_runs(3, 3 * REMOVED) * len(audit.settings.methods)
        return len(audit.data) * (runs + MOVED * sum(map(audit.seconds_of, audit.settings.methods)))

    def steps(self, audit: Audit) -> Iterator[Step]:
        known = {one.name for one in audit.info.inputs if one.dtype.startswith(("float", "double"))}
        sources = audit.settings.source or audit.info.sources
        if not set(sources) <= known:
            raise InvalidArgument("what is explained is no input of floats, which could be moved")
        for k, item in enumerate(audit.data.items):
            yield Step(f"perturbed-{k:06d}", f"moves of {item.id}", partial(self._step, audit, k))

    def _step(self, audit: Audit, k: int) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        item, target, seed = audit.data.items[k], audit.target(k), audit.settings.seed + k
        told: dict[str, Any] = {}
        for name in audit.answered(k):
            own: Maps = {layer: np.asarray(a, np.float64)[None] for layer, a in audit.maps(k, name).items()}
            told[name] = {
                "sparseness": _only(sparseness(own)),
                "infidelity": None,
                "random": None,
                "sensitivity": None,
            }
            if not own or any(
                layer not in item.inputs or own[layer].shape != item.inputs[layer].shape for layer in own
            ):
                continue  # of a hidden layer, or of samples that have no axis for them
            given = audit.settings.baselines
            multiplied = is_multiplied(audit.settings.methods[name], audit.facts.values())
            baselines = {
                n: b for n, b in given.items() if n in own and isinstance(b, int | float | np.ndarray)
            }
            move = removed_squares(tuple(own), baselines, contributions=multiplied)
            forward = self._forward(audit, k)
            if forward is not None:
                zero = {layer: np.zeros_like(values) for layer, values in own.items()}
                size = infidelity(forward, item.inputs, zero, move, count=REMOVED, seed=seed)[0]
                for word, maps in (("infidelity", own), ("random", permuted(own, seed=seed))):
                    value = infidelity(
                        forward, item.inputs, maps, move, count=REMOVED, normalize=True, seed=seed
                    )[0]
                    told[name][word] = _only(np.array([value / size])) if size else None
            compared = audit.maps_compared(k, name)
            if compared.keys() == own.keys():
                still = {layer: np.asarray(a, np.float64)[None] for layer, a in compared.items()}
                told[name]["sensitivity"] = self._sensitivity(audit, name, item.inputs, still, target, seed)
        return told, {}

    def _forward(self, audit: Audit, k: int) -> Any:
        """From inputs to the target of a sample; None where that is no element of a tensor."""
        told = next(one for one in audit.item(k)["methods"].values() if "target" in one)
        tensor, prediction, target = told["target"]["tensor"], audit.item(k)["prediction"], audit.target(k)
        index = target.index
        if prediction is None and index is None:
            place: tuple[int, ...] | None = None
        else:
            place = (index,) if isinstance(index, int) else tuple(index) if isinstance(index, tuple) else ()

        def forward(inputs: Inputs) -> Floats:
            scores = np.asarray(audit.model.predict(dict(inputs), [tensor])[tensor], np.float64)
            return scores.reshape(1) if place is None else scores[(0, *place)].reshape(1)

        try:
            forward(audit.data.items[k].inputs)
        except (AttributionError, IndexError, ValueError):
            return None
        return forward

    def _sensitivity(
        self, audit: Audit, name: str, inputs: Inputs, own: Maps, target: Any, seed: int
    ) -> float | None:
        spread = max(float(np.ptp(np.asarray(inputs[layer], np.float64))) for layer in own)

        def explain(moved: Inputs) -> Maps:
            if moved is inputs:
                return own
            answer = audit.ask(audit.request(name, moved, target, as_checked=True))
            return {layer: np.asarray(answer.layers[layer].values, np.float64) for layer in own}

        try:
            found = max_sensitivity(
                explain, inputs, within(tuple(own), RADIUS * spread), count=MOVED, seed=seed
            )
        except AttributionError:
            return None
        return _only(found)

    def findings(self, audit: Audit) -> list[Finding]:
        if self.name in audit.skipped:
            return []
        items = [audit.state.numbers(f"perturbed-{k:06d}") for k in range(len(audit.data))]
        seed = audit.settings.seed
        found: list[Finding] = []
        for metric, word, chance in (
            (INFIDELITY, "infidelity", "random"),
            (MAX_SENSITIVITY, "sensitivity", None),
            (SPARSENESS, "sparseness", None),
        ):
            values = {name: column([one[name] for one in items], word) for name in audit.everywhere}
            values = {name: each for name, each in values.items() if np.isfinite(each).any()}
            random = chance and {name: column([one[name] for one in items], chance) for name in values}
            if values:
                found += findings(metric, values, random or None, seed=seed)
        return found

    def found(self, audit: Audit) -> dict[str, Any] | None:
        if self.name in audit.skipped:
            return None
        return {"removed": REMOVED, "moved": MOVED, "radius": RADIUS}


def _only(values: Floats) -> float | None:
    value = float(values[0])
    return value if math.isfinite(value) else None
