"""Why maps forget their class: relevance that began as two random vectors at the scores, and becomes the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from onnx_attribution.client.audit.arrays import Floats, from_json
from onnx_attribution.client.audit.metrics.convergence import CONVERGENCE, convergence
from onnx_attribution.client.audit.metrics.interval import interval
from onnx_attribution.client.audit.questions import TOGETHER
from onnx_attribution.client.audit.records import plain as number
from onnx_attribution.client.audit.run import Audit, Step
from onnx_attribution.client.audit.subject import Subject
from onnx_attribution.client.audit.verdict import Finding, findings, plain
from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.values import Array

PAIRS, SAMPLES = 2, 16
"""Pairs of random vectors, and samples for which they are carried back: together, where these can share a run."""


class Convergence:
    """CONVERGENCE at each hidden layer and at the source, of the methods that carry relevance back once."""

    name = "convergence"

    def planned(self, audit: Audit) -> int:
        return len(self._groups(audit))

    def seconds(self, audit: Audit) -> float:
        return 2 * PAIRS * min(len(audit.data), SAMPLES) * sum(map(audit.seconds_of, self._methods(audit)))

    def steps(self, audit: Audit) -> Iterator[Step]:
        if not any(audit.other_target(k, 1) for k in range(len(audit.data))):
            raise InvalidArgument("the target is one number, from which every relevance begins alike")
        if not self._methods(audit):
            raise InvalidArgument("no method carries relevance back in one pass")
        for at, numbers in enumerate(self._groups(audit)):
            words = f"random relevance carried back, {at + 1} of {len(self._groups(audit))}"
            yield Step(f"convergence-{at:06d}", words, partial(self._step, audit, numbers))

    def _methods(self, audit: Audit) -> list[str]:
        """Those that carry relevance back to the source, once: no sums over a path, and no maps of hidden layers."""
        about = {name: audit.facts.get(method.name) for name, method in audit.settings.methods.items()}
        return [
            name
            for name in audit.everywhere
            if (one := about[name]) is not None
            and one.needs_derivatives
            and not one.error_estimate
            and all(map(audit.maps_of(name).__contains__, self._sources(audit)))
        ]

    def _groups(self, audit: Audit) -> list[list[int]]:
        """The samples of each step."""
        numbers = list(range(min(len(audit.data), SAMPLES)))
        if audit.joined(numbers) is None:
            return [[k] for k in numbers]
        return [numbers[first : first + TOGETHER] for first in range(0, len(numbers), TOGETHER)]

    def _step(self, audit: Audit, numbers: Sequence[int]) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        told = audit.item(numbers[0])["methods"]
        tensor = next(one["target"]["tensor"] for one in told.values() if "target" in one)
        inputs = audit.joined(numbers) or audit.data.items[numbers[0]].inputs
        found: dict[str, Any] = {}
        for name in self._methods(audit):
            about = audit.facts[audit.settings.methods[name].name]
            subject = Subject(
                audit.asked, audit.name, target=tensor, source=audit.settings.source,
                baselines=audit.settings.baselines if about.needs_reference else {},
            )  # fmt: skip
            try:
                own = self._carried(audit, subject, name, inputs)
            except AttributionError as error:
                found[name] = {"error": error.message}
                continue
            found[name] = {layer: [number(value) for value in each] for layer, each in own.items()}
        return {"methods": found}, {}

    def _carried(
        self, audit: Audit, subject: Subject, name: str, inputs: Mapping[str, Array]
    ) -> dict[str, Floats]:
        """By layer; of a method that has no hidden layers, or not these, where its map is."""
        method, seed = audit.settings.methods[name], audit.settings.seed
        sources = tuple(audit.settings.source or audit.info.sources)
        tries: list[tuple[str, ...]] = [(*sources, *audit.settings.layers)] if audit.settings.layers else []
        for layers in (*tries, ()):
            try:
                return convergence(subject, method, inputs, layers=layers, pairs=PAIRS, seed=seed)
            except AttributionError:
                if not layers:
                    raise
        raise AssertionError("the last try returns or raises")

    def findings(self, audit: Audit) -> list[Finding]:
        values = {
            name: np.mean([from_json(one[source]) for source in self._sources(audit)], axis=0)
            for name, one in self._values(audit).items()
            if all(source in one for source in self._sources(audit))
        }
        values = {name: each for name, each in values.items() if np.isfinite(each).any()}
        return findings(CONVERGENCE, values, seed=audit.settings.seed) if values else []

    def found(self, audit: Audit) -> dict[str, Any] | None:
        values = self._values(audit)
        if not values:
            return None
        known = {layer for one in values.values() for layer in one}
        layers = [one for one in (*reversed(audit.settings.layers), *self._sources(audit)) if one in known]
        return {
            "pairs": PAIRS,
            "samples": len(next(iter(next(iter(values.values())).values()))),
            "layers": layers,
            "methods": {
                name: {
                    layer: plain(asdict(interval(from_json(one[layer]), seed=audit.settings.seed)))
                    for layer in layers
                    if layer in one
                }
                for name, one in values.items()
            },
        }

    def _sources(self, audit: Audit) -> tuple[str, ...]:
        return tuple(audit.settings.source or audit.info.sources)

    def _values(self, audit: Audit) -> dict[str, dict[str, list[float | None]]]:
        """By method and layer a number for each sample, of the methods that have some for all of them."""
        steps = [audit.state.numbers(f"convergence-{at:06d}") for at in range(len(self._groups(audit)))]
        found: dict[str, dict[str, list[float | None]]] = {}
        for name in self._methods(audit):
            told = [one["methods"][name] for one in steps]
            if any("error" in one for one in told):
                continue
            shared = [layer for layer in told[0] if all(layer in one for one in told)]
            found[name] = {layer: [value for one in told for value in one[layer]] for layer in shared}
        return found
