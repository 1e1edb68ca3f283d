"""Whether the target falls when what maps name is removed: positions of the input, neurons of a layer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from onnx_attribution.client.audit.ablation import BASELINE, RANDOM, ablation
from onnx_attribution.client.audit.arrays import from_json
from onnx_attribution.client.audit.curves import Curve, Kind, Range, curve
from onnx_attribution.client.audit.metrics.interval import interval
from onnx_attribution.client.audit.metrics.metric import Metric
from onnx_attribution.client.audit.metrics.removal import DELETION, INSERTION
from onnx_attribution.client.audit.questions import TOGETHER
from onnx_attribution.client.audit.ranks import apart, are_ranked, by_axes, random_ranks, ranks_of
from onnx_attribution.client.audit.records import plain as number
from onnx_attribution.client.audit.run import Audit, Step
from onnx_attribution.client.audit.trials.places import (
    baseline_in_words,
    baseline_of,
    positions_of,
    scores_at,
    sources_of,
    unit_of,
)
from onnx_attribution.client.audit.verdict import Finding, findings
from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.values import Array

POINTS, DRAWS = 16, 3
"""Steps of a curve, and random rankings of each sample."""
LAYERS, SAMPLES = 2, 32
"""Hidden layers whose neurons are removed, and samples of which."""
KINDS: tuple[tuple[Kind, Metric], ...] = (("deletion", DELETION), ("insertion", INSERTION))


class Removal:
    """DELETION and INSERTION of positions of the sources, of several ranked together, and the ablation experiment on
    hidden layers. What is removed is at the baseline, as are neurons where one is named; else 0."""

    name = "ablation"

    def planned(self, audit: Audit) -> int:
        return len(audit.data) + LAYERS

    def seconds(self, audit: Audit) -> float:
        rankings = len(audit.settings.methods) + DRAWS
        positions = len(KINDS) * len(audit.data) * rankings
        neurons = min(len(audit.data), SAMPLES) * len(self._layers(audit)) * (rankings + 2)
        return audit.seconds_of_runs(positions + neurons / TOGETHER, (POINTS + 1) * (positions + neurons))

    def steps(self, audit: Audit) -> Iterator[Step]:
        sources = sources_of(audit)
        for k, item in enumerate(audit.data.items):
            yield Step(
                f"removed-{k:06d}", f"removal from {item.id}", partial(self._positions, audit, k, sources)
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

    def _positions(
        self, audit: Audit, k: int, sources: Sequence[str]
    ) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        inputs, target, seed = audit.data.items[k].inputs, audit.target(k), audit.settings.seed
        try:
            units = {name: unit_of(audit, k, name) for name in sources}
        except InvalidArgument:
            return {}, {}
        axes = {name: positions_of(unit, is_input=name in inputs) for name, unit in units.items()}
        groups = apart({name: by_axes(unit, axes[name]) for name, unit in units.items()})
        to = {name: baseline_of(audit, k, name, unit) for name, unit in units.items()}
        orders = {RANDOM: [random_ranks(1, units, groups, seed=seed + k * DRAWS + n) for n in range(DRAWS)]}
        for name in audit.answered(k):
            scores = scores_at(audit.maps(k, name), units, axes)
            if scores is None:
                continue
            own = {source: each[None] for source, each in scores.items()}
            if are_ranked(own, groups)[0]:  # a constant map names nothing
                orders[name] = [ranks_of(own, groups, ties=seed + k)]
        drawn: dict[str, dict[Kind, list[Curve]]] = {
            name: {
                kind: [
                    curve(
                        audit.asked, audit.name, inputs, order, kind=kind, to=to, points=POINTS, target=target
                    )
                    for order in each
                ]
                for kind, _ in KINDS
            }
            for name, each in orders.items()
        }
        span = Range.of(one for kinds in drawn.values() for curves in kinds.values() for one in curves)
        told = {
            name: {
                kind: {
                    "shares": curves[0].shares.tolist(),
                    "values": [number(one) for one in np.mean([span.values(c)[0] for c in curves], axis=0)],
                    "area": number(float(np.mean([span.area(c)[0] for c in curves]))),
                }
                for kind, curves in kinds.items()
            }
            for name, kinds in drawn.items()
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
        sums = {}
        for name in reversed(audit.flow_methods):  # of two of one kind the first counts, as above
            kept = [one for k in numbers if (one := audit.hidden(k, name, layer).get("sums")) is not None]
            if len(kept) == len(numbers):
                sums[audit.settings.methods[name].name] = {layer: np.stack(kept).astype(np.float64)}
        ways: list[Literal["baseline"] | float] = [BASELINE, 0.0] if audit.settings.baselines else [0.0]
        for to in ways:
            try:
                found = ablation(
                    audit.asked, audit.name, inputs, layer, methods=unique, points=POINTS, draws=DRAWS, to=to,
                    target=audit.target_at(indices),
                    baselines=audit.settings.baselines, seed=audit.settings.seed, sums=sums,
                )  # fmt: skip
                break
            except AttributionError as error:  # some inputs have no baseline: neurons go to 0, which is told
                reason = error.message
        else:
            return {"reason": reason}, {}
        span = found.range
        told = {
            name: {
                "shares": one.shares.tolist(),
                "values": [[number(v) for v in row] for row in span.values(one)],
                "areas": [number(v) for v in span.area(one)],
            }
            for name, one in found.curves.items()
        }
        about = {"layer": layer, "groups": found.groups, "to": found.to, "failed": dict(found.failed)}
        return {**about, "methods": told}, {}

    def findings(self, audit: Audit) -> list[Finding]:
        items = self._items(audit)
        found: list[Finding] = []
        if not items:
            return found
        for kind, metric in KINDS:
            areas = {
                name: from_json([one[name][kind]["area"] if name in one else None for one in items])
                for name in (*audit.everywhere, RANDOM)
            }
            chance = areas.pop(RANDOM)
            values = {name: each for name, each in areas.items() if np.isfinite(each).any()}
            if values:
                found += findings(metric, values, dict.fromkeys(values, chance), seed=audit.settings.seed)
        return found

    def found(self, audit: Audit) -> dict[str, Any] | None:
        items = self._items(audit)
        if not items:
            return None
        curves = []
        for kind, metric in KINDS:
            known = {
                name: [one[name][kind] for one in items if name in one]
                for name in (*audit.settings.methods, RANDOM)
            }
            known = {name: each for name, each in known.items() if each}
            words = (
                "removed, the strongest first" if kind == "deletion" else "given back, the strongest first"
            )
            curves.append(
                {
                    "title": f"{kind} of positions of {_listed(sources_of(audit))}",
                    "words": f"The target as positions are {words}; removed they are {baseline_in_words(audit)}. "
                    + ("Low is good." if kind == "deletion" else "High is good."),
                    "x": f"share of positions {'removed' if kind == 'deletion' else 'given back'}",
                    "y": "target, of its range on these curves",
                    "direction": metric.direction,
                    "fractions": known[RANDOM][0]["shares"] if known else [],
                    "methods": {
                        name: _band(
                            [_at(one["values"], one["shares"], known[RANDOM][0]["shares"]) for one in each],
                            [one["area"] for one in each],
                            audit.settings.seed,
                        )
                        for name, each in known.items()
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
                    "words": f"The target as channels of {layer} go ({told['groups']} in all, each {told['to']}), "
                    "those first of which a method says that they contribute most. Low is good.",
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


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _at(
    values: Sequence[float | None], shares: Sequence[float], wanted: Sequence[float]
) -> list[float | None]:
    """A curve at other shares: samples of fewer positions have fewer points."""
    if len(shares) == len(wanted):
        return list(values)
    return [number(one) for one in np.interp(wanted, shares, from_json(values))]


def _band(rows: Sequence[Sequence[float | None]], areas: Sequence[float | None], seed: int) -> dict[str, Any]:
    """The mean curve and the interval of each point, and the mean area."""
    table = np.array([[math.nan if v is None else v for v in row] for row in rows], np.float64)
    each = [interval(column, seed=seed, draws=200) for column in table.T]
    return {
        "mean": [number(one.value) for one in each],
        "low": [number(one.low) for one in each],
        "high": [number(one.high) for one in each],
        "area": number(interval(from_json(areas), seed=seed).value),
    }


def _file(layer: str) -> str:
    """A name of a step for a layer of any name."""
    plain = "".join(c if c.isalnum() else f"_{ord(c):x}_" for c in layer)
    return plain if len(plain) <= 100 else f"{plain[:100]}-{hashlib.sha256(layer.encode()).hexdigest()[:16]}"
