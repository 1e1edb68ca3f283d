"""Names for units: the inverse of the first stage, from importance to attributes (arXiv 1808.02861, section 3.4).

A ridge regression takes the unit vectors of importance to the attributes of their classes. The importance of unit k
alone is the vector e_k, so that the coefficients of unit k are what the map says of it; each attribute's are centred,
lest the most frequent attribute names every unit. The null is the same with the classes' attributes shuffled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.niwt.domain_map import known, means, unit
from onnx_attribution.client.niwt.minimise import Floats

RIDGE, PERMUTATIONS, LEVEL = 0.1, 200, 0.95


@dataclass(frozen=True, eq=False)
class InverseMap:
    """From importance to attributes: `coefficients` `[units, attributes]`, centred for each attribute; `importance`
    `[units]` and `attributes` `[attributes]` are the means of the fit."""

    coefficients: Floats
    importance: Floats
    attributes: Floats

    def __call__(self, importance: Floats) -> Floats:
        """By how much each attribute lies above its mean, as the importance `[images, units]` says."""
        return np.asarray((unit(importance) - self.importance) @ self.coefficients, np.float64)


@dataclass(frozen=True, eq=False)
class Names:
    """Of each unit the attribute that names it, as an index, its score, and the scores' point of the null (95 %).

    A unit whose score does not lie above `null` has a name by chance. So have about 5 % of those above it: `chance`
    units are above it in all but 5 % of the shuffles.
    """

    name: NDArray[np.int64]
    score: Floats
    null: Floats
    chance: int

    @property
    def certain(self) -> NDArray[np.bool_]:
        return self.score > self.null


def inverse(attributes: Floats, importance: Floats, *, ridge: float = RIDGE) -> InverseMap:
    """The map of classes: attributes `[classes, attributes]` (NaN or -1: unknown), importance `[classes, units]`."""
    return InverseMap(*_fitted(_centred(attributes)[0], importance, ridge), means(attributes))


def named(
    attributes: Floats,
    importance: Floats,
    *,
    ridge: float = RIDGE,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Names:
    """The name of each unit, and what it would score if descriptions were dealt out to classes by chance.

    Scores are in standard deviations of the attribute's coefficients over the units, so that attributes compare.
    """
    y, _ = _centred(attributes)
    solve, _ = _solver(importance, ridge)
    found = _scored(solve @ y)
    random = np.random.default_rng(seed)
    drawn = np.stack(
        [_scored(solve @ y[random.permutation(len(y))]).max(axis=1) for _ in range(permutations)]
    )
    null = np.quantile(drawn, LEVEL, axis=0)
    chance = int(np.quantile((drawn > null).sum(axis=1), LEVEL, method="higher"))
    return Names(found.argmax(axis=1), found.max(axis=1), null, chance)


def explained(inverse: InverseMap, importance: Floats, names: Sequence[str], most: int = 3) -> list[str]:
    """In words why, for the importance of each prediction `[images, units]`: the attributes it speaks for most."""
    return [
        ", ".join(f"{names[m]} ({row[m]:+.2f})" for m in np.argsort(-row)[:most] if row[m] > 0)
        or "no attribute in particular"
        for row in inverse(importance)
    ]


@dataclass(frozen=True, eq=False)
class Precision:
    """How well importance tells the attributes of classes that the map has not seen.

    `each` is the average precision of each attribute, NaN where all or none of the classes have it, and `null`
    `[permutations, attributes]` the same under shuffled descriptions.
    """

    each: Floats
    null: Floats

    @property
    def mean(self) -> float:
        """The mean average precision."""
        return float(np.nanmean(self.each))

    @property
    def p(self) -> float:
        """How often the null's mean reaches that of the descriptions, which count as one of its draws."""
        return float((1 + (np.nanmean(self.null, axis=1) >= self.mean).sum()) / (1 + len(self.null)))

    @property
    def p_of_each(self) -> Floats:
        """The same of each attribute."""
        return np.where(
            np.isnan(self.each), np.nan, (1 + (self.null >= self.each).sum(axis=0)) / (1 + len(self.null))
        )


def precision(
    attributes: Floats,
    alpha: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    parts: int = 8,
    ridge: float = RIDGE,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Precision:
    """The average precision over images `alpha` `[images, units]` whose classes were held out, in so many parts.

    An image has an attribute if its class has at least half of it. The null shuffles whole descriptions among classes.
    """
    random = np.random.default_rng(seed)
    held = list(_parts(len(attributes), parts, random))
    units = unit(np.asarray(alpha, np.float64))
    mean = np.stack([units[labels == k].mean(axis=0) for k in range(len(attributes))])
    maps = []
    for out in held:
        kept = [k for k in range(len(attributes)) if k not in out]
        solve, middle = _solver(mean[kept], ridge)
        rows = np.isin(labels, out)
        maps.append((kept, rows, (units[rows] - middle) @ solve))

    def measured(given: Floats) -> Floats:
        said = np.empty((len(labels), given.shape[1]))
        for kept, rows, take in maps:
            y, middle = _centred(given[kept])
            said[rows] = take @ y + middle
        return average_precision(said, known(given, means(given))[labels] >= 0.5)

    each = measured(attributes)
    null = np.stack([measured(attributes[random.permutation(len(attributes))]) for _ in range(permutations)])
    return Precision(each, null)


def average_precision(scores: Floats, truth: NDArray[np.bool_]) -> Floats:
    """Of each column: the mean, over what is true, of the share of truth among what scores as high or higher."""
    order = np.argsort(-scores, axis=0, kind="stable")
    sorted_truth = np.take_along_axis(truth, order, axis=0)
    share = sorted_truth.cumsum(axis=0) / np.arange(1, len(scores) + 1)[:, None]
    count = truth.sum(axis=0)
    found = (share * sorted_truth).sum(axis=0) / np.maximum(count, 1)
    return np.where((count > 0) & (count < len(truth)), found, np.nan)


def _centred(attributes: Floats) -> tuple[Floats, Floats]:
    middle = means(attributes)
    return np.asarray(known(attributes, middle) - middle, np.float64), middle


def _solver(importance: Floats, ridge: float) -> tuple[Floats, Floats]:
    """What takes centred attributes to coefficients, `[units, classes]`, and the mean importance."""
    x = unit(importance)
    middle = x.mean(axis=0)
    x = x - middle
    gram = x @ x.T
    gram += ridge * (np.trace(gram) / len(gram) or 1.0) * np.eye(len(gram))
    return np.asarray(np.linalg.solve(gram, x).T, np.float64), middle


def _fitted(y: Floats, importance: Floats, ridge: float) -> tuple[Floats, Floats]:
    solve, middle = _solver(importance, ridge)
    found = solve @ y
    return found - found.mean(axis=0), middle


def _scored(coefficients: Floats) -> Floats:
    centred = coefficients - coefficients.mean(axis=0)
    spread = centred.std(axis=0)
    return np.asarray(centred / np.where(spread > 0, spread, 1), np.float64)


def _parts(classes: int, parts: int, random: np.random.Generator) -> Iterator[list[int]]:
    order, parts = random.permutation(classes), min(parts, classes)
    yield from (order[k::parts].tolist() for k in range(parts))
