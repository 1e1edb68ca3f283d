"""A verdict on each method: its place among the methods and beside random maps, on this model, with intervals.

A verdict is never a threshold alone. With a metric whose goal is chance (randomisation, other classes) a method

- passes if it is not surely more alike than random maps are, or if its place is surely in the better half;
- fails if it is surely more alike than random maps, its place is surely in the worse half, and it is surely nearer to
  the method that is most alike than to random maps;
- is doubtful else.

With a metric whose floor is chance (faithfulness, localisation) it passes if it is surely better than random maps,
fails if it is not and its place is surely in the worse half, and is doubtful else. Surely: by the interval of a
bootstrap over inputs, of the difference between the two numbers of each input, and the same inputs for all methods.
Where random maps mean nothing there is a place and no verdict. Of fewer than FEWEST samples with both numbers nothing
is sure, and all are doubtful.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onnx_attribution.client.audit.arrays import Floats
from onnx_attribution.client.audit.metrics.interval import (
    DRAWS,
    FEWEST,
    LEVEL,
    Interval,
    Rank,
    interval,
    ranks,
)
from onnx_attribution.client.audit.metrics.metric import METRICS, Metric
from onnx_attribution.errors import InvalidArgument

SCHEMA = "onnx-attribution/verdicts"
SCHEMA_VERSION = 1

Word = Literal["passes", "doubtful", "fails", "ranked", "unknown"]
"""`ranked`: there is a place and no verdict; `unknown`: no sample has a number."""


@dataclass(frozen=True)
class Finding:
    """What one metric says of one method. `detail` tells variants of a metric apart, such as a similarity; `margin` is
    the number of each sample less that of its random map."""

    metric: str
    detail: str
    method: str
    interval: Interval
    random: Interval | None
    margin: Interval | None
    rank: Rank
    word: Word
    reason: str


@dataclass(frozen=True)
class MethodVerdict:
    """The findings on a method taken together. It fails where one that decides fails, and passes where none of them is
    doubtful."""

    method: str
    word: Word
    reason: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on all methods, the best first. What is written is `to_json`."""

    methods: tuple[MethodVerdict, ...]
    metrics: tuple[Metric, ...]
    samples: int
    seed: int
    draws: int = DRAWS
    level: float = LEVEL
    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION

    def method(self, name: str) -> MethodVerdict:
        """The verdict on one method."""
        return next(one for one in self.methods if one.method == name)


def findings(
    metric: Metric | str,
    by_method: Mapping[str, Floats],
    random: Mapping[str, Floats] | None = None,
    *,
    detail: str = "",
    seed: int = 0,
) -> list[Finding]:
    """One finding a method, from a number for each of the same samples; `random` has those of random maps.

    Raises:
        InvalidArgument: the methods have numbers for different samples, or the metric is not known.
    """
    if isinstance(metric, str):
        if metric not in METRICS:
            raise InvalidArgument(f"no metric {metric!r}; there are: {', '.join(METRICS)}", metric=metric)
        metric = METRICS[metric]
    lengths = {len(values) for values in by_method.values()}
    if len(lengths) > 1:
        raise InvalidArgument(f"methods have numbers for {sorted(lengths)} samples; they take the same ones")
    sizes = [interval(np.abs(values), seed=seed, draws=1).value for values in (random or {}).values()]
    scale = max(filter(math.isfinite, sizes), default=0.0)
    places = ranks(by_method, metric.direction, scale=scale, seed=seed)
    known = [name for name in by_method if random is not None and name in random]
    margins = {name: interval(by_method[name] - (random or {})[name], seed=seed) for name in known}
    worst = max((abs(one.value) for one in margins.values() if one.count), default=0.0)
    found = []
    for name, values in by_method.items():
        own, margin = interval(values, seed=seed), margins.get(name)
        chance = None if random is None or margin is None else interval(random[name], seed=seed)
        word, reason = _judged(metric, own, chance, margin, places[name], worst)
        if own.count and (missing := len(values) - own.count):
            reason += f"; {missing} of {len(values)} samples have no number"
        found.append(Finding(metric.name, detail, name, own, chance, margin, places[name], word, reason))
    return found


def verdicts(
    found: Sequence[Finding],
    samples: int,
    *,
    seed: int = 0,
    decides: Callable[[Finding], bool] = lambda one: True,
) -> Verdicts:
    """All findings, method by method; those that fail last, and within a word by their mean place.

    `decides`: whether a finding counts in the word of its method; the others are only told.
    """
    names = dict.fromkeys(one.method for one in found)
    judged = [_together(name, tuple(one for one in found if one.method == name), decides) for name in names]
    order = ("passes", "doubtful", "ranked", "unknown", "fails")
    judged.sort(key=lambda one: (order.index(one.word), _mean_place(one)))
    used = dict.fromkeys(one.metric for one in found)
    return Verdicts(tuple(judged), tuple(METRICS[name] for name in used), samples, seed)


def to_json(tree: Any, **options: Any) -> str:
    """A tree of dataclasses as JSON: what is not finite becomes null, arrays become lists."""
    return json.dumps(plain(tree), allow_nan=False, **options)


def plain(tree: Any) -> Any:
    """The same as dicts, lists, strings and finite numbers."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return {one.name: plain(getattr(tree, one.name)) for one in dataclasses.fields(tree)}
    if isinstance(tree, Mapping):
        return {str(key): plain(value) for key, value in tree.items()}
    if isinstance(tree, np.ndarray | np.generic):
        return plain(tree.tolist())
    if isinstance(tree, list | tuple):
        return [plain(one) for one in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{type(tree).__name__} has no form in JSON")


# --- One finding, and several


def _judged(
    metric: Metric, own: Interval, chance: Interval | None, margin: Interval | None, rank: Rank, worst: float
) -> tuple[Word, str]:
    """`worst`: how far the method is from chance that is furthest from it."""
    if not own.count:
        return "unknown", "no sample has a number"
    place = f"place {rank.place:g} of {rank.of} ({rank.low:g} to {rank.high:g})"
    if chance is None or margin is None or not margin.count or metric.chance == "none":
        return "ranked", f"{_shown(own)}, {place}"
    middle = (rank.of + 1) / 2
    better, worse = rank.high < middle, rank.low > middle
    shown = f"{_shown(own)} beside {_shown(chance)} of random maps, {place}"
    if margin.count < FEWEST:
        return "doubtful", f"{shown}: {margin.count} of the {FEWEST} samples that a verdict takes"
    if metric.chance == "goal":
        more = margin.low > 0 if metric.direction == "lower" else margin.high < 0
        if not more:
            return "passes", f"{shown}: no more than chance"
        if better:
            return "passes", f"{shown}: more than chance, and surely in the better half"
        if worse and min(abs(margin.low), abs(margin.high)) > worst / 2:
            return "fails", f"{shown}: more than chance, surely in the worse half and near the worst"
        return (
            "doubtful",
            f"{shown}: more than chance, {'but far from the worst' if worse else 'as other methods are'}",
        )
    if margin.high < 0 if metric.direction == "lower" else margin.low > 0:
        return "passes", f"{shown}: surely better than chance"
    if worse:
        return "fails", f"{shown}: not surely better than chance, and surely in the worse half"
    return "doubtful", f"{shown}: not surely better than chance"


def _shown(one: Interval) -> str:
    return f"{one.value:.3g} ({one.low:.3g} to {one.high:.3g})"


def _together(name: str, found: tuple[Finding, ...], decides: Callable[[Finding], bool]) -> MethodVerdict:
    by_word: dict[Word, list[Finding]] = {}
    for one in filter(decides, found):
        by_word.setdefault(one.word, []).append(one)
    words: tuple[Word, ...] = ("fails", "doubtful", "passes", "ranked", "unknown")
    word: Word = next((one for one in words if one in by_word), "unknown")
    decisive = by_word.get(word, [])
    reason = "; ".join(
        f"{one.metric}{f' ({one.detail})' if one.detail else ''}: {one.reason}" for one in decisive[:3]
    )
    return MethodVerdict(name, word, reason, found)


def _mean_place(one: MethodVerdict) -> float:
    places = [found.rank.place for found in one.findings if math.isfinite(found.rank.place)]
    return float(np.mean(places)) if places else math.inf
