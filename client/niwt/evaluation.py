"""How well seen and unseen classes are told apart: generalised zero-shot accuracies (arXiv 1808.02861, section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.niwt.minimise import Floats

Labels = NDArray[np.integer]


@dataclass(frozen=True)
class Scores:
    """Accuracies, each the mean over classes of the share of their images: of seen and of unseen classes among all
    classes, their harmonic mean, and of unseen classes among unseen ones only."""

    seen: float
    unseen: float
    harmonic: float
    unseen_only: float


def scores(logits: Floats, labels: Labels, seen: int) -> Scores:
    """The scores of logits `[images, classes]` whose first `seen` columns belong to seen classes."""
    right = logits.argmax(axis=1) == labels
    among = logits[:, seen:].argmax(axis=1) + seen == labels
    of_seen = _mean_of_classes(right, labels, range(seen))
    new = range(seen, logits.shape[1])
    of_new = _mean_of_classes(right, labels, new)
    return Scores(of_seen, of_new, harmonic(of_seen, of_new), _mean_of_classes(among, labels, new))


def harmonic(one: float, other: float) -> float:
    """The harmonic mean; 0 where one of both is 0."""
    return 2 * one * other / (one + other) if one * other > 0 else 0.0


def margins(known: Floats, new: Floats) -> Floats:
    """Of each image, how far the best seen class lies above the best new one: offsets below it leave the image."""
    return np.asarray(known.max(axis=1) - new.max(axis=1), np.float64)


def offset_at(share: float, known: Floats, new: Floats) -> float:
    """What to add to the logits of new classes so that this share of the images of seen classes stays with these."""
    return float(np.quantile(margins(known, new), 1 - share))


def harmonics(shares: Floats, known: Floats, new: Floats, labels: Labels) -> Floats:
    """The harmonic mean at each share of the seen classes' images that may stay with these, as `offset_at` takes it.

    `known` and `new` are logits `[images, classes]`; labels count the known classes first.
    """
    seen = known.shape[1]
    margin, old = margins(known, new), labels < seen
    offsets = np.quantile(margin[old], 1 - shares)
    stays = margin > offsets[:, None]
    right = np.where(
        old, stays & (known.argmax(axis=1) == labels), ~stays & (new.argmax(axis=1) + seen == labels)
    )
    classes = np.unique(labels)
    member = (labels[:, None] == classes) / np.array([(labels == one).sum() for one in classes])
    accuracy = right @ member
    first, second = accuracy[:, classes < seen].mean(axis=1), accuracy[:, classes >= seen].mean(axis=1)
    return np.asarray(2 * first * second / np.maximum(first + second, 1e-300), np.float64)


def ranking(known: Floats, new: Floats, labels: Labels) -> float:
    """The mean over new classes of how often an image of the class lies before one of another, by how far its logit
    lies above all others' (the area under the curve of true and false positives; 1/2 by chance).

    `known` and `new` are logits `[images, classes]`; labels count the known classes first.
    """
    seen, areas = known.shape[1], []
    best = known.max(axis=1)
    for c in range(new.shape[1]):
        others = np.delete(new, c, axis=1).max(axis=1, initial=-np.inf)
        above = new[:, c] - np.maximum(best, others)
        own = labels == seen + c
        if not own.any() or own.all():
            continue
        rest = np.sort(above[~own])
        before = [np.searchsorted(rest, above[own], side) for side in ("left", "right")]
        areas.append(float(np.mean(before)) / len(rest))
    return float(np.mean(areas)) if areas else 0.5


def _mean_of_classes(right: NDArray[np.bool_], labels: Labels, classes: range) -> float:
    found = [right[labels == one].mean() for one in classes if (labels == one).any()]
    return float(np.mean(found)) if found else float("nan")
