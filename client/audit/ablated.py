"""What an ablation experiment has found: a curve for each method, and the table that is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnx_attribution.client.audit.arrays import Floats
from onnx_attribution.client.audit.curves import Curve, Kind, Range
from onnx_attribution.client.audit.metrics import removal
from onnx_attribution.client.audit.verdict import Finding, findings

RANDOM = "random"


@dataclass(frozen=True)
class Row:
    """One method of an experiment, over its samples: mean and standard error of the area under the curve, of that area
    less the one of random rankings, sample by sample, and how often and at which count (median) the decision turned."""

    method: str
    area: float
    area_error: float
    gain: float
    gain_error: float
    turned: float
    turned_share: float


@dataclass(frozen=True, eq=False)
class Ablation:
    """The experiment on a layer, or on several together: a curve for each method, that of "random" the mean over
    `draws` rankings.

    `failed` are methods that refuse this model, layer or target, with the reason.
    """

    model: str
    layer: str
    kind: Kind
    to: str
    samples: int
    groups: int
    draws: int
    curves: Mapping[str, Curve]
    failed: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def range(self) -> Range:
        """Of each sample the range of the target on all curves."""
        return Range.of(self.curves.values())

    def rows(self) -> list[Row]:
        """The methods, the best first: a small area under deletion, a large one under insertion."""
        control = self.curves.get(RANDOM)
        sign = 1 if self.kind == "deletion" else -1
        found = []
        for name, one in self.curves.items():
            area, area_error = _mean(one.area)
            gain, gain_error = (math.nan, math.nan)
            if control is not None and name != RANDOM:
                gain, gain_error = _mean(sign * (control.area - one.area))
            turned = one.turned[np.isfinite(one.turned)]
            found.append(
                Row(
                    name, area, area_error, gain, gain_error, float(np.median(turned)) if turned.size else math.nan,
                    turned.size / self.samples if self.samples else math.nan,
                )
            )  # fmt: skip
        return sorted(found, key=lambda row: sign * row.area)

    def findings(self, *, seed: int = 0) -> list[Finding]:
        """What the experiment says of each method, beside random rankings of the same samples: findings of DELETION or
        INSERTION, for `verdicts`."""
        spans = self.range
        areas = {name: spans.area(one) for name, one in self.curves.items() if name != RANDOM}
        control = self.curves.get(RANDOM)
        chance = None if control is None else dict.fromkeys(areas, spans.area(control))
        metric = removal.DELETION if self.kind == "deletion" else removal.INSERTION
        return findings(metric, areas, chance, detail=self.layer, seed=seed) if areas else []

    def table(self) -> str:
        """The rows as text."""
        lines = [
            f"{self.kind} of {self.groups} groups of {self.layer}, each {self.to}; {self.samples} samples",
            f"{'method':24}{'area':>12}{'+-':>10}{'gain on random':>16}{'+-':>10}{'turned at':>11}{'share':>8}",
        ]
        for one in self.rows():
            numbers = (one.area, one.area_error, one.gain, one.gain_error, one.turned, one.turned_share)
            words = ["-" if math.isnan(number) else f"{number:.4g}" for number in numbers]
            widths = (12, 10, 16, 10, 11, 8)
            lines.append(
                f"{one.method:24}" + "".join(f"{w:>{n}}" for w, n in zip(words, widths, strict=True))
            )
        lines += [f"{name}: {reason}" for name, reason in self.failed.items()]
        return "\n".join(lines)

    def json(self) -> dict[str, object]:
        """The same for programs: of each curve the means over the samples. `relative_area` is that of the share of the
        range."""
        spans = self.range
        counts = next((one.counts for one in self.curves.values()), np.empty(0, np.int64))
        return {
            "model": self.model,
            "layer": self.layer,
            "kind": self.kind,
            "to": self.to,
            "samples": self.samples,
            "groups": self.groups,
            "draws": self.draws,
            "counts": counts.tolist(),
            "methods": {
                row.method: {
                    **{name: value for name, value in vars(row).items() if name != "method"},
                    "relative_area": _mean(spans.area(self.curves[row.method]))[0],
                    "values": self.curves[row.method].values.mean(axis=0).tolist(),
                }
                for row in self.rows()
            },
            "failed": dict(self.failed),
            "warnings": list(self.warnings),
        }


def _mean(values: Floats) -> tuple[float, float]:
    """The mean of the numbers among these, and its standard error."""
    kept = values[np.isfinite(values)]
    if not kept.size:
        return math.nan, math.nan
    error = float(kept.std(ddof=1) / math.sqrt(kept.size)) if kept.size > 1 else math.nan
    return float(kept.mean()), error
