"""Weights for classes that are only described, with all that can be chosen chosen on classes that are known.

Some known classes are held out as if they were new: the first stage, the mean weights and the images of M are those of
the others. What gives the best harmonic mean there is taken: the ridge of the first stage, the pull of the second, and
the share of the known classes' images that new classes leave to these, which sets the offset of the new classes.

The network has been trained on the classes that are held out, and tells them better apart than new ones. What it knows
of them is taken away: the features lose the directions that the weights of held classes have beside those of the
others (whose logits stay what they are), and images of held classes are left out of M. Without that the folds prefer
early layers, which find these directions again. The offset itself is not carried over, but the share. What is left of
that favour makes weak ridges look better than they are; so by default one ridge is taken, the same for all networks.

`guarded` asks whether the descriptions say more than shuffled ones, again on classes held out: by how well the logits
of these rank their images before all others, which no offset moves. Where they do not, new classes take no image from
those that are known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.niwt.domain_map import DomainMap, fit
from onnx_attribution.client.niwt.evaluation import harmonics, offset_at, ranking
from onnx_attribution.client.niwt.minimise import Floats
from onnx_attribution.client.niwt.weights import align

RIDGES, PULLS = (1.0,), (0.1, 0.3, 1.0)
SHARES = np.linspace(0.3, 1, 71)
FOLDS, MOST = 8, 24
"""At least and at most so many: the classes are dealt out again until there are; of many classes some are never held
out."""
DRAWS, LEVEL = 99, 0.05
"""Shuffles that the descriptions are compared with, unless too many do as well before; of 19, one alone would be too
many, so that half of the descriptions that say something would be refused by bad luck."""
ROUNDED = 1e-5
"""What the float32 of two logits may differ by, of the largest."""


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the n classes of a linear head, and of images of them.

    `attributes` is `[n, attributes]` (NaN or -1: unknown), `importance` `[n, units]`: the mean of their images' alphas,
    better of the unit vectors of these (`mean_of_units`). `weights` `[n, features]` and `offsets` `[n]` are the head's.
    `M` is `[images, units, features]`, the sums over positions of the derivatives of the features by the layer;
    `M_labels` are these images' classes, -1 for none of the n. `features` `[images, features]` go into the head, and
    `labels` are their classes; where nobody knows them, what the head says will do.
    """

    attributes: Floats
    importance: Floats
    weights: Floats
    offsets: Floats
    M: Floats
    M_labels: NDArray[np.integer]
    features: Floats
    labels: NDArray[np.integer]


@dataclass(frozen=True)
class Choice:
    """What the folds chose, and the mean harmonic mean that it reached on them.

    `ridge` is of the sum over classes, where that of `fit` is of the mean. `pull` is relative: the loss has
    `pull / |w|²` in front of the distance to the mean, where |w| is the norm of seen weights, so that it means the same
    for every head. `p` is the share of shuffled descriptions that do as well on classes held out, the own ones among
    them, or a bound below it where that is too large already; NaN before `guarded` has asked. `hidden` units make the
    first stage a network with one hidden layer.
    """

    ridge: float
    pull: float
    share: float
    harmonic: float
    folds: int
    seed: int
    p: float = math.nan
    hidden: int = 0

    @property
    def informative(self) -> bool:
        """Whether the descriptions say more than shuffled ones."""
        return not self.p > LEVEL


@dataclass(frozen=True, eq=False)
class Added:
    """The new classes' weights `[new, features]` and offsets `[new]`, their importance as the map says it `[new,
    units]`, the mean cosine that each reached, and by what all was chosen."""

    weights: Floats
    offsets: Floats
    importance: Floats
    cosine: Floats
    choice: Choice


def folds(classes: int, held: int, seed: int, least: int = FOLDS) -> Iterator[list[int]]:
    """Sets of classes to hold out, at least so many, each with about `held` classes; each class as often, unless
    there are more than `MOST`."""
    held = max(1, min(held, classes // 4))
    parts = max(2, round(classes / held))
    random = np.random.default_rng(seed)
    for _ in range(-(-least // parts)):
        order = random.permutation(classes)
        yield from (sorted(order[k::parts].tolist()) for k in range(min(parts, MOST)))


def choose(
    known: Known,
    new: int,
    *,
    seed: int = 0,
    ridges: Sequence[float] = RIDGES,
    pulls: Sequence[float] = PULLS,
    hidden: int = 0,
) -> Choice:
    """What to add so many new classes with, by the harmonic mean on classes held out as if they were new."""
    held = list(folds(len(known.weights), new, seed))
    settings = [(ridge, pull) for ridge in sorted(ridges) for pull in sorted(pulls)]
    tried = [Choice(ridge, pull, 1.0, 0.0, len(held), seed, hidden=hidden) for ridge, pull in settings]
    curves = np.array([_curves(known, out, tried) for out in held])  # [folds, settings, shares]
    means = curves.mean(axis=0)
    best, at = (int(one) for one in np.unravel_index(means.argmax(), means.shape))
    return replace(tried[best], share=float(SHARES[at]), harmonic=float(means[best, at]))


def guarded(known: Known, new: int, choice: Choice, *, draws: int = DRAWS) -> Choice:
    """The choice with its `p`, and a share of 1 where the descriptions say no more than shuffled ones."""
    held = list(folds(len(known.weights), new, choice.seed, 1))
    random = np.random.default_rng(choice.seed)

    def reached(attributes: Floats) -> float:
        given = replace(known, attributes=attributes)
        return float(np.mean([ranking(*next(_held_out(given, out, [choice]))) for out in held]))

    own = reached(known.attributes)
    count = len(known.attributes)
    as_well = 1
    for _ in range(draws):
        as_well += reached(known.attributes[random.permutation(count)]) >= own
        if as_well > LEVEL * (1 + draws):
            break
    p = as_well / (1 + draws)
    return replace(choice, p=p, share=choice.share if p <= LEVEL else 1.0)


def _curves(known: Known, out: Sequence[int], choices: Sequence[Choice]) -> Floats:
    """With some classes held out, the harmonic mean of each choice at each share."""
    return np.array([harmonics(SHARES, *found) for found in _held_out(known, out, choices)])


def _held_out(
    known: Known, out: Sequence[int], choices: Sequence[Choice]
) -> Iterator[tuple[Floats, Floats, NDArray[np.integer]]]:
    """With some classes held out, by each choice the logits of the others and of these, and the labels, which count the
    others first."""
    kept = [k for k in range(len(known.weights)) if k not in out]
    part = _without(known, kept, out)
    place = np.argsort([*kept, *out])[known.labels]
    logits = part.features @ part.weights.T + part.offsets
    said = dict[float, Floats]()
    for choice in choices:
        if choice.ridge not in said:
            said[choice.ridge] = _map(part, choice)(known.attributes[out])
        w, _ = _aligned(part, said[choice.ridge], choice.pull)
        yield logits, part.features @ w.T + part.offsets.mean(), place


def add(known: Known, attributes: Floats, choice: Choice) -> Added:
    """Weights and offsets for classes of these attributes `[new, attributes]`."""
    said = _map(known, choice)(attributes)
    w, cosine = _aligned(known, said, choice.pull)
    mean = known.offsets.mean()
    logits = known.features @ known.weights.T + known.offsets
    offset = mean + offset_at(choice.share, logits, known.features @ w.T + mean)
    if choice.share >= 1:  # at the nearest image both logits are equal, and rounding would decide
        offset -= ROUNDED * float(np.abs(logits).max())
    return Added(w, np.full(len(w), offset), said, cosine, choice)


def _map(known: Known, choice: Choice) -> DomainMap:
    """The first stage: the more classes there are, the less a ridge weighs."""
    ridge = choice.ridge / len(known.attributes)
    return fit(known.attributes, known.importance, ridge=ridge, hidden=choice.hidden, seed=choice.seed)


def _aligned(known: Known, said: Floats, pull: float) -> tuple[Floats, Floats]:
    """Weights of the norm of seen ones, and the cosines reached."""
    size = float(np.linalg.norm(known.weights, axis=1).mean())
    found = align(said, known.M, known.weights.mean(axis=0), pull / size**2, size=size)
    return found.weights, found.cosine


def _without(known: Known, kept: Sequence[int], out: Sequence[int]) -> Known:
    """The same as if the network had not learnt some of the classes; the labels stay."""
    images = np.isin(known.M_labels, [*kept, -1])
    if not images.any():
        images[:] = True
    learnt = _beside(known.weights[out], known.weights[kept])
    forget = np.eye(len(learnt)) - learnt @ learnt.T
    return Known(
        known.attributes[kept],
        known.importance[kept],
        known.weights[kept],
        known.offsets[kept],
        known.M[images] @ forget,
        known.M_labels[images],
        known.features @ forget,
        known.labels,
    )


def _beside(rows: Floats, others: Floats) -> Floats:
    """Orthonormal columns: the directions of the rows that those of the others do not span."""
    _, sizes, base = np.linalg.svd(others, full_matrices=False)
    base = base[sizes > 1e-6 * sizes[0]]
    left = rows - rows @ base.T @ base
    _, sizes, found = np.linalg.svd(left, full_matrices=False)
    return np.asarray(found[sizes > 1e-6 * np.linalg.norm(rows)].T, np.float64)
