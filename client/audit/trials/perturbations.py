"""Whether maps say what happens to the target when the input moves, and hold still when it moves little."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from onnx_attribution.client.audit.arrays import Floats, Inputs, Maps
from onnx_attribution.client.audit.metrics.complexity import COMPLEXITY, SPARSENESS, complexity, sparseness
from onnx_attribution.client.audit.metrics.faithfulness import (
    INFIDELITY,
    Factor,
    factor_of,
    infidelity,
    removed_squares,
)
from onnx_attribution.client.audit.metrics.randomisation import permuted
from onnx_attribution.client.audit.metrics.sensitivity import (
    LOCAL_LIPSCHITZ_ESTIMATE,
    MAX_SENSITIVITY,
    local_lipschitz_estimate,
    max_sensitivity,
    within,
)
from onnx_attribution.client.audit.run import Audit, Step
from onnx_attribution.client.audit.trials.likeness import column
from onnx_attribution.client.audit.trials.places import baseline_of, positions_of, scores_at, unit_of
from onnx_attribution.client.audit.verdict import Finding, findings
from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.values import Array

REMOVED, MOVED = 16, 4
"""Windows that are removed, and moves of the input, of each sample."""
WORDS = ("sparseness", "complexity", "infidelity", "random", "sensitivity", "continuity")
RADIUS = 0.02
"""How far an element moves, as a share of the spread of the input."""


class Perturbations:
    """INFIDELITY of removed windows, normalised and as a share of its size without a map; MAX_SENSITIVITY and
    LOCAL_LIPSCHITZ_ESTIMATE of the same moves; and SPARSENESS and COMPLEXITY, which need no perturbation."""

    name = "perturbations"

    def planned(self, audit: Audit) -> int:
        return len(audit.data)

    def seconds(self, audit: Audit) -> float:
        if not self._can_move(audit):
            return 0.0
        runs = audit.seconds_of_runs(REMOVED + 1, REMOVED + 1)
        return len(audit.data) * (runs + MOVED * sum(map(audit.seconds_of, audit.settings.methods)))

    def steps(self, audit: Audit) -> Iterator[Step]:
        if not self._can_move(audit):
            raise InvalidArgument("what is explained is no input of floats, which could be moved")
        for k, item in enumerate(audit.data.items):
            yield Step(f"perturbed-{k:06d}", f"moves of {item.id}", partial(self._step, audit, k))

    def _can_move(self, audit: Audit) -> bool:
        """Whether all that is explained are inputs of floats."""
        known = {one.name for one in audit.info.inputs if one.dtype.startswith(("float", "double"))}
        return set(_sources(audit)) <= known

    def _step(self, audit: Audit, k: int) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        item, seed = audit.data.items[k], audit.settings.seed + k
        if not audit.answered(k):
            return {}, {}
        units = {name: unit_of(audit, k, name) for name in _sources(audit)}
        forward = self._forward(audit, k)
        told: dict[str, Any] = {}
        for name in audit.answered(k):
            own: Maps = {layer: np.asarray(a, np.float64)[None] for layer, a in audit.maps(k, name).items()}
            told[name] = dict.fromkeys(WORDS)
            told[name]["sparseness"] = _only(sparseness(own))
            told[name]["complexity"] = _only(complexity(own))
            if any(item.inputs[source].shape != (1, *unit) for source, unit in units.items()):
                continue  # samples that have no axis for them
            factor = factor_of(audit.settings.methods[name], audit.facts.values())
            placed = self._placed(audit, k, name, units, factor)
            if forward is not None and placed is not None:
                baselines = {source: baseline_of(audit, k, source, unit) for source, unit in units.items()}
                if not units.keys() <= audit.maps(k, name).keys():
                    factor = "difference"  # of a hidden layer, which is not at its values when positions are removed
                shuffled: Factor = "none" if factor == "none" else "difference"
                move, by_chance = (
                    removed_squares(tuple(placed), baselines, factor=each) for each in (factor, shuffled)
                )
                zero = {layer: np.zeros_like(values) for layer, values in placed.items()}
                size = infidelity(forward, item.inputs, zero, move, count=REMOVED, seed=seed)[0]
                for word, maps, by in (
                    ("infidelity", placed, move),
                    ("random", permuted(placed, seed=seed), by_chance),
                ):
                    value = infidelity(
                        forward, item.inputs, maps, by, count=REMOVED, normalize=True, seed=seed
                    )[0]
                    told[name][word] = _only(np.array([value / size])) if size else None
            told[name] |= self._moved(audit, k, name)
        return told, {}

    def _placed(
        self, audit: Audit, k: int, name: str, units: Mapping[str, tuple[int, ...]], factor: Factor
    ) -> Maps | None:
        """The map at the sources; of a hidden layer, whose values it is a product with, in blocks over the positions of
        the only source: what is foretold of removed positions is the sum over them, as of contributions."""
        maps = audit.maps(k, name)
        if factor == "none" and not units.keys() <= maps.keys():
            return None
        found = scores_at(maps, units, {source: positions_of(unit) for source, unit in units.items()})
        return None if found is None else {source: values[None] for source, values in found.items()}

    def _forward(self, audit: Audit, k: int) -> Any:
        """From inputs to the target of a sample; None where that is no element of a tensor."""
        told = next(one for one in audit.item(k)["methods"].values() if "target" in one)
        tensor, prediction, target = told["target"]["tensor"], audit.item(k)["prediction"], audit.target(k)
        index = target.index
        place: tuple[Any, ...] | None
        if prediction is None and index is None:
            place = None
        elif index is None or isinstance(index, int | slice | tuple):
            place = () if index is None else index if isinstance(index, tuple) else (index,)
        else:
            return None  # a mask or weights

        kept: dict[bytes, Floats] = {}  # the same windows are removed for all methods and maps

        def forward(inputs: Inputs) -> Floats:
            if (key := _key(inputs)) not in kept:
                scores = np.asarray(audit.model.predict(dict(inputs), [tensor])[tensor], np.float64)
                kept[key] = scores.reshape(1) if place is None else scores[(0, *place)].sum().reshape(1)
            return kept[key]

        try:
            forward(audit.data.items[k].inputs)
        except (AttributionError, IndexError, ValueError):
            return None
        return forward

    def _moved(self, audit: Audit, k: int, name: str) -> dict[str, float | None]:
        """How far the map moves, of whatever layer it is, with moves of the sources."""
        inputs, target, seed = audit.data.items[k].inputs, audit.target(k), audit.settings.seed + k
        own: Maps = {
            layer: np.asarray(a, np.float64)[None] for layer, a in audit.maps_compared(k, name).items()
        }
        if not own:
            return {}
        kept: dict[bytes, Maps] = {_key(inputs): own}

        def move(given: Inputs, rng: np.random.Generator) -> Inputs:
            for source in _sources(audit):
                spread = float(np.ptp(np.asarray(inputs[source], np.float64))) or 1.0
                given = within((source,), RADIUS * spread)(given, rng)
            return given

        def explain(moved: Inputs) -> Maps:
            if (key := _key(moved)) not in kept:
                answer = audit.ask(audit.request(name, moved, target, as_checked=True))
                kept[key] = {layer: np.asarray(answer.layers[layer].values, np.float64) for layer in own}
            return kept[key]

        try:
            return {
                "sensitivity": _only(max_sensitivity(explain, inputs, move, count=MOVED, seed=seed)),
                "continuity": _only(local_lipschitz_estimate(explain, inputs, move, count=MOVED, seed=seed)),
            }
        except AttributionError:
            return {}

    def findings(self, audit: Audit) -> list[Finding]:
        if self.name in audit.skipped:
            return []
        items = [audit.state.numbers(f"perturbed-{k:06d}") for k in range(len(audit.data))]
        seed = audit.settings.seed
        found: list[Finding] = []
        for metric, word, chance in (
            (INFIDELITY, "infidelity", "random"),
            (MAX_SENSITIVITY, "sensitivity", None),
            (LOCAL_LIPSCHITZ_ESTIMATE, "continuity", None),
            (SPARSENESS, "sparseness", None),
            (COMPLEXITY, "complexity", None),
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


def _sources(audit: Audit) -> tuple[str, ...]:
    return tuple(audit.settings.source or audit.info.sources)


def _key(inputs: Inputs) -> bytes:
    """Tells inputs of the same names and shapes apart."""
    return b"".join(np.ascontiguousarray(one).tobytes() for one in inputs.values())


def _only(values: Floats) -> float | None:
    value = float(values[0])
    return value if math.isfinite(value) else None
