"""Whether the target falls when what maps name is removed: positions of the input, neurons of a layer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from onnx_attribution.client.audit.ablation import RANDOM, ablation
from onnx_attribution.client.audit.arrays import Floats, from_json
from onnx_attribution.client.audit.curves import Curve, Kind, curve
from onnx_attribution.client.audit.metrics.interval import interval
from onnx_attribution.client.audit.metrics.metric import Metric
from onnx_attribution.client.audit.metrics.removal import DELETION, INSERTION
from onnx_attribution.client.audit.questions import TOGETHER
from onnx_attribution.client.audit.ranks import by_axes, random_ranks, ranks_of
from onnx_attribution.client.audit.records import plain as number
from onnx_attribution.client.audit.run import Audit, Step
from onnx_attribution.client.audit.trials.places import at_positions, positions_of, source_of, unit_of
from onnx_attribution.client.audit.verdict import Finding, findings
from onnx_attribution.errors import AttributionError
from onnx_attribution.values import Array

POINTS, DRAWS = 16, 3
"""Steps of a curve, and random rankings of each sample."""
LAYERS, SAMPLES = 2, 32
"""Hidden layers whose neurons are removed, and samples of which."""
KINDS: tuple[tuple[Kind, Metric], ...] = (("deletion", DELETION), ("insertion", INSERTION))


class Removal:
    """DELETION and INSERTION of positions of the first source, and the ablation experiment on hidden layers."""

    name = "ablation"

    def planned(self, audit: Audit) -> int:
        return len(audit.data) + LAYERS

    def seconds(self, audit: Audit) -> float:
        rankings = len(audit.settings.methods) + DRAWS
        positions = len(KINDS) * len(audit.data) * rankings
        neurons = min(len(audit.data), SAMPLES) * len(self._layers(audit)) * (rankings + 2)
        return audit.seconds_of_runs(positions + neurons / TOGETHER, (POINTS + 1) * (positions + neurons))

    def steps(self, audit: Audit) -> Iterator[Step]:
        source = source_of(audit)
        for k, item in enumerate(audit.data.items):
            yield Step(
                f"removed-{k:06d}", f"removal from {item.id}", partial(self._positions, audit, k, source)
            )
        for layer in self._layers(audit):
            yield Step(
                f"ablation-{_file(layer)}",
                f"neurons of {layer} removed",
                partial(self._neurons, audit, layer),
            )

    def _layers(self, audit: Audit) -> list[str]:
        """The middle and the last of the hidden layers."""
        layers = audit.settings.layers
        return list(dict.fromkeys([layers[len(layers) // 2], layers[-1]]))[:LAYERS] if layers else []

    def _positions(self, audit: Audit, k: int, source: str) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        inputs, target = audit.data.items[k].inputs, audit.target(k)
        unit = unit_of(audit, k, source)
        axes = positions_of(unit, is_input=source in inputs)
        groups = by_axes(unit, axes)
        to = _one(audit.settings.baselines.get(source, 0.0), unit, k)
        told: dict[str, Any] = {}
        drawn: dict[str, dict[Kind, list[Curve]]] = {}
        orders = {
            RANDOM: [
                random_ranks(1, unit, groups, seed=audit.settings.seed + k * DRAWS + n) for n in range(DRAWS)
            ]
        }
        for name in audit.answered(k):
            maps = audit.maps(k, name)
            scores = at_positions(
                maps.get(source, next(iter(maps.values()))), unit, axes, exact=source in maps
            )
            if scores is not None and np.isfinite(scores).all():
                orders[name] = [ranks_of(scores[None], groups)]
        for name, each in orders.items():
            drawn[name] = {}
            for kind, _ in KINDS:
                drawn[name][kind] = [
                    curve(
                        audit.asked,
                        audit.name,
                        inputs,
                        {source: order},
                        kind=kind,
                        to=to,
                        points=POINTS,
                        target=target,
                    )
                    for order in each
                ]
        flat = [one for kinds in drawn.values() for curves in kinds.values() for one in curves]
        low, span = _range([one.values for one in flat], axis=None)
        for name, kinds in drawn.items():
            told[name] = {
                kind: {
                    "shares": curves[0].shares.tolist(),
                    "values": [
                        number(one) for one in (np.mean([c.values[0] for c in curves], axis=0) - low) / span
                    ],
                    "area": number(float((np.mean([c.area[0] for c in curves]) - low) / span)),
                }
                for kind, curves in kinds.items()
            }
        return told, {}

    def _neurons(self, audit: Audit, layer: str) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        numbers = list(range(min(len(audit.data), SAMPLES)))
        inputs = audit.joined(numbers)
        targets = [audit.target(k) for k in numbers]
        indices = [one.index for one in targets if isinstance(one.index, int)]
        if inputs is None or len(indices) < len(targets):
            return {"reason": "samples of this model cannot share a run, or have no class"}, {}
        methods = [*(method for name, method in audit.settings.methods.items() if name in audit.flow_methods)]
        named: list[Any] = [*methods, "layer_activation", "gradient_x_activation", RANDOM]
        names = [one if isinstance(one, str) else one.name for one in named]
        unique = [one for at, one in enumerate(named) if names.index(names[at]) == at]
        try:
            found = ablation(
                audit.asked, audit.name, inputs, layer, methods=unique, points=POINTS, draws=DRAWS,
                target=audit.target_at(indices),
                baselines=audit.settings.baselines, seed=audit.settings.seed,
            )  # fmt: skip
        except AttributionError as error:
            return {"reason": error.message}, {}
        low, span = _range([one.values for one in found.curves.values()], axis=1)
        told = {
            name: {
                "shares": one.shares.tolist(),
                "values": [[number(v) for v in row] for row in (one.values - low[:, None]) / span[:, None]],
                "areas": [number(v) for v in (one.area - low) / span],
            }
            for name, one in found.curves.items()
        }
        return {"layer": layer, "groups": found.groups, "methods": told, "failed": dict(found.failed)}, {}

    def findings(self, audit: Audit) -> list[Finding]:
        items = self._items(audit)
        found: list[Finding] = []
        if not items:
            return found
        for kind, metric in KINDS:
            names = [name for name in audit.everywhere if all(name in one for one in items)]
            values = {name: from_json([one[name][kind]["area"] for one in items]) for name in names}
            values = {name: each for name, each in values.items() if np.isfinite(each).any()}
            chance = from_json([one[RANDOM][kind]["area"] for one in items])
            if values:
                found += findings(metric, values, dict.fromkeys(values, chance), seed=audit.settings.seed)
        return found

    def found(self, audit: Audit) -> dict[str, Any] | None:
        items = self._items(audit)
        if not items:
            return None
        curves = []
        for kind, metric in KINDS:
            names = [name for name in (*audit.settings.methods, RANDOM) if all(name in one for one in items)]
            words = (
                "removed, the strongest first" if kind == "deletion" else "given back, the strongest first"
            )
            curves.append(
                {
                    "title": f"{kind} of positions of {source_of(audit)}",
                    "words": f"The target as positions are {words}. "
                    + ("Low is good." if kind == "deletion" else "High is good."),
                    "x": f"share of positions {'removed' if kind == 'deletion' else 'given back'}",
                    "y": "target, of its range on these curves",
                    "direction": metric.direction,
                    "fractions": items[0][names[0]][kind]["shares"] if names else [],
                    "methods": {
                        name: _band(
                            [one[name][kind]["values"] for one in items],
                            [one[name][kind]["area"] for one in items],
                            audit.settings.seed,
                        )
                        for name in names
                    },
                }
            )
        for layer in self._layers(audit):
            step = f"ablation-{_file(layer)}"
            told = audit.state.numbers(step) if audit.state.has(step) else {}
            if "methods" not in told:
                continue
            first = next(iter(told["methods"].values()))
            curves.append(
                {
                    "title": f"ablation of {layer}",
                    "words": f"The target as channels of {layer} are removed ({told['groups']} in all), those first of "
                    "which a method says that they contribute most. Low is good.",
                    "x": "share of channels removed",
                    "y": "target, of its range on these curves",
                    "direction": "lower",
                    "fractions": first["shares"],
                    "methods": {
                        name: _band(one["values"], one["areas"], audit.settings.seed)
                        for name, one in told["methods"].items()
                    },
                }
            )
        return {"curves": curves}

    def _items(self, audit: Audit) -> list[dict[str, Any]]:
        steps = [f"removed-{k:06d}" for k in range(len(audit.data))]
        return [audit.state.numbers(one) for one in steps] if all(map(audit.state.has, steps)) else []


def _range(values: Sequence[Floats], axis: int | None) -> tuple[Any, Any]:
    """The least number of all curves of a sample, and how far the largest is above it; NaN where they are all alike.

    A share of the change F(x) - F' would turn round where the target rises as all is removed, and be anything where
    it hardly changes.
    """
    low = np.min([one.min(axis=axis) for one in values], axis=0)
    span = np.max([one.max(axis=axis) for one in values], axis=0) - low
    return low, np.where(span > 0, span, np.nan)


def _one(baseline: Any, unit: Sequence[int], k: int) -> Any:
    """The baseline of one sample; 0 for one of several references."""
    if isinstance(baseline, int | float):
        return float(baseline)
    if not isinstance(baseline, np.ndarray):
        return 0.0
    rows = baseline if baseline.ndim == len(unit) + 1 else baseline[None]
    row = rows[min(k, len(rows) - 1)]
    return np.broadcast_to(row, unit) if np.ndim(row) <= len(unit) else 0.0


def _band(rows: Sequence[Sequence[float | None]], areas: Sequence[float | None], seed: int) -> dict[str, Any]:
    """The mean curve and the interval of each point, and the mean area."""
    table = np.array([[math.nan if v is None else v for v in row] for row in rows], np.float64)
    each = [interval(column, seed=seed, draws=200) for column in table.T]
    return {
        "median": [number(one.value) for one in each],
        "low": [number(one.low) for one in each],
        "high": [number(one.high) for one in each],
        "area": number(interval(from_json(areas), seed=seed).value),
    }


def _file(layer: str) -> str:
    """A name of a step for a layer of any name."""
    plain = "".join(c if c.isalnum() else f"_{ord(c):x}_" for c in layer)
    return plain if len(plain) <= 100 else f"{plain[:100]}-{hashlib.sha256(layer.encode()).hexdigest()[:16]}"
