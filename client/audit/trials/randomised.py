"""Whether maps depend on what was learnt: the model with its parameters drawn anew, block by block from the top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from onnx_attribution.client.audit.arrays import Maps
from onnx_attribution.client.audit.metrics.interval import interval
from onnx_attribution.client.audit.metrics.metric import mean_of_known
from onnx_attribution.client.audit.metrics.randomisation import MODEL_PARAMETER_RANDOMISATION
from onnx_attribution.client.audit.metrics.similarity import NAMES
from onnx_attribution.client.audit.run import Audit, Step
from onnx_attribution.client.audit.subject import Subject
from onnx_attribution.client.audit.trials.likeness import JUDGED, alike, by_chance, column
from onnx_attribution.client.audit.verdict import Finding, findings, plain
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import Array

MOST = 6
"""Blocks that are drawn anew; neighbours of a larger model are taken together."""
SAMPLES = 50
SHOWN = 2
"""Samples that are explained at every stage, and those of which the maps are kept."""


class RandomisedWeights:
    """MODEL_PARAMETER_RANDOMISATION, cascading."""

    name = "randomisation"

    def __init__(self) -> None:
        self.draw = "he_normal"

    def planned(self, audit: Audit) -> int:
        return MOST + 1

    def seconds(self, audit: Audit) -> float:
        return MOST * len(self.numbers(audit)) * sum(map(audit.seconds_of, audit.settings.methods))

    def steps(self, audit: Audit) -> Iterator[Step]:
        subject = Subject(audit.asked, audit.name)
        yield Step("randomised-chance", "maps of chance", partial(self._chance, audit))
        options = {"order": "cascading", "seed": audit.settings.seed, "most": MOST}
        for draw in ("he_normal", "shuffle"):  # quantised weights can only be shuffled
            try:
                with subject.randomised(draw=draw, **options) as stages:
                    for number, stage in enumerate(stages):
                        self.draw = draw
                        yield Step(
                            f"randomised-{number}",
                            f"weights of {stage.block} drawn anew",
                            partial(self._step, audit, stage.name, stage.block, draw),
                        )
                return
            except InvalidArgument as error:
                if draw == "shuffle" or "shuffle" not in error.message:
                    raise

    def numbers(self, audit: Audit) -> list[int]:
        """The samples that are explained at every stage."""
        return list(range(min(len(audit.data), SAMPLES)))

    def _chance(self, audit: Audit) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        return {
            name: [by_chance(_own(audit, k, name), audit.settings.seed + k) for k in self.numbers(audit)]
            for name in audit.everywhere
        }, {}

    def _step(
        self, audit: Audit, model: str, block: str, draw: str
    ) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        numbers = self.numbers(audit)
        targets = [audit.target(k) for k in numbers]
        told: dict[str, Any] = {}
        arrays: dict[str, Array] = {}
        for name in audit.everywhere:
            maps = audit.explained(name, numbers, targets, model)
            told[name] = [alike(_own(audit, k, name), each) for k, each in zip(numbers, maps, strict=True)]
            for k, each in list(zip(numbers, maps, strict=True))[:SHOWN]:
                for layer, values in (each or {}).items():
                    arrays[f"map/{k}/{name}/{layer}"] = values[0].astype(np.float32)
        return {"block": block, "draw": draw, "methods": told}, arrays

    def findings(self, audit: Audit) -> list[Finding]:
        stages = self._stages(audit)
        if not stages:
            return []
        by_chance = audit.state.numbers("randomised-chance")
        found: list[Finding] = []
        for similarity in JUDGED:
            values = {
                name: mean_of_known(np.stack([column(one["methods"][name], similarity) for one in stages]))
                for name in audit.everywhere
            }
            chance = {name: column(by_chance[name], similarity) for name in values}
            if values:
                found += findings(
                    MODEL_PARAMETER_RANDOMISATION, values, chance, detail=similarity, seed=audit.settings.seed
                )
        return found

    def found(self, audit: Audit) -> dict[str, Any] | None:
        stages = self._stages(audit)
        if not stages:
            return None
        return {
            "draw": stages[0]["draw"],
            "order": "cascading",
            "samples": len(self.numbers(audit)),
            "shown": self.numbers(audit)[:SHOWN],
            "metric": JUDGED[0],
            "stages": [{"step": f"randomised-{k}", "block": one["block"]} for k, one in enumerate(stages)],
            "methods": {
                name: {
                    similarity: [
                        plain(
                            asdict(
                                interval(column(one["methods"][name], similarity), seed=audit.settings.seed)
                            )
                        )
                        for one in stages
                    ]
                    for similarity in NAMES
                }
                for name in audit.everywhere
            },
        }

    def _stages(self, audit: Audit) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while audit.state.has(step := f"randomised-{len(found)}"):
            found.append(audit.state.numbers(step))
        return found


def _own(audit: Audit, k: int, name: str) -> Maps:
    return {
        layer: np.asarray(array, np.float64)[None] for layer, array in audit.maps_compared(k, name).items()
    }
