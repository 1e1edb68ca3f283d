"""Whether maps tell classes apart: those of the explained class beside those of the next and of the least likely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from onnx_attribution.client.audit.arrays import Maps
from onnx_attribution.client.audit.metrics.metric import mean_of_known
from onnx_attribution.client.audit.metrics.sensitivity import RANDOM_LOGIT
from onnx_attribution.client.audit.run import Audit, Step
from onnx_attribution.client.audit.trials.likeness import JUDGED, alike, by_chance, column
from onnx_attribution.client.audit.verdict import Finding, findings
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import Array

RANKS = {"next": 1, "least": -1}


class OtherClasses:
    """RANDOM_LOGIT of the next and of the least likely class."""

    name = "classes"

    def planned(self, audit: Audit) -> int:
        return len(audit.data)

    def seconds(self, audit: Audit) -> float:
        return len(RANKS) * len(audit.data) * sum(map(audit.seconds_of, audit.settings.methods))

    def steps(self, audit: Audit) -> Iterator[Step]:
        if not any(audit.other_target(k, 1) for k in range(len(audit.data))):
            raise InvalidArgument("the target has no classes to be told apart")
        for k, item in enumerate(audit.data.items):
            yield Step(f"classes-{k:06d}", f"other classes of {item.id}", partial(self._step, audit, k))

    def _step(self, audit: Audit, k: int) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        told: dict[str, Any] = {}
        for name in audit.answered(k):
            own: Maps = {
                layer: np.asarray(a, np.float64)[None] for layer, a in audit.maps_compared(k, name).items()
            }
            told[name] = {"chance": by_chance(own, audit.settings.seed + k)}
            for word, rank in RANKS.items():
                target = audit.other_target(k, rank)
                other = None if target is None else audit.explained(name, [k], [target])[0]
                told[name][word] = alike(own, other)
        return told, {}

    def findings(self, audit: Audit) -> list[Finding]:
        items = self._items(audit)
        found: list[Finding] = []
        for similarity in JUDGED:
            values = {
                name: mean_of_known(
                    np.stack([column([one[name][word] for one in items], similarity) for word in RANKS])
                )
                for name in audit.everywhere
            }
            chance = {name: column([one[name]["chance"] for one in items], similarity) for name in values}
            if values:
                found += findings(RANDOM_LOGIT, values, chance, detail=similarity, seed=audit.settings.seed)
        return found

    def found(self, audit: Audit) -> dict[str, Any] | None:
        return {"items": self._items(audit)} if self.name not in audit.skipped else None

    def _items(self, audit: Audit) -> list[dict[str, Any]]:
        if self.name in audit.skipped:
            return []
        return [audit.state.numbers(f"classes-{k:06d}") for k in range(len(audit.data))]
