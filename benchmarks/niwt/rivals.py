"""What else makes classifiers of descriptions: from features and attributes to logits of seen and of new classes.

Each is fitted on the features of seen classes that the network has; strengths are chosen on classes held out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_attribution.client.niwt.choose import SHARES, Known, _without, folds
from onnx_attribution.client.niwt.domain_map import unit
from onnx_attribution.client.niwt.evaluation import harmonic, harmonics, offset_at, scores
from onnx_attribution.client.niwt.minimise import Floats, minimum

Logits = Callable[[Floats], tuple[Floats, Floats]]
"""From features to the logits of seen and of new classes."""
Fit = Callable[[Known, Floats, float], Logits]
"""From what is known, new attributes and a strength."""

MARGIN = 0.1


def eszsl(known: Known, new: Floats, strength: float) -> Logits:
    """Embarrassingly simple zero-shot learning (Romera-Paredes and Torr, 2015), in closed form."""
    x, s = known.features, known.attributes
    y = np.where(known.labels[:, None] == np.arange(len(s)), 1.0, -1.0)
    left = x.T @ x + strength * len(x) / x.shape[1] * np.trace(x.T @ x) / len(x) * np.eye(x.shape[1])
    v = np.linalg.solve(left, x.T @ y @ s) @ np.linalg.inv(s.T @ s + 0.1 * np.eye(s.shape[1]))
    return lambda given: (given @ v @ s.T, given @ v @ new.T)


def devise(known: Known, new: Floats, strength: float) -> Logits:
    """A linear map from features to unit vectors of attributes by a ranking loss (as Frome et al., 2013): the product
    with the own class is to lie above that with each other by a margin, whose shortfall counts squared."""
    size = known.features.std() or 1.0
    x, s = known.features / size, unit(known.attributes)
    own = np.arange(len(x)), known.labels

    def loss(v: Floats) -> tuple[float, Floats]:
        z = x @ v @ s.T
        short = np.maximum(MARGIN - z[own][:, None] + z, 0)
        short[own] = 0
        g = 2 * short / len(x)
        g[own] = -g.sum(axis=1)
        return float((short**2).sum() / len(x) + strength * (v * v).sum()), x.T @ g @ s + 2 * strength * v

    v, _ = minimum(loss, np.zeros((x.shape[1], s.shape[1])), steps=60, tolerance=1e-4)
    return lambda given: (given / size @ v @ s.T, given / size @ v @ unit(new).T)


def to_weights(known: Known, new: Floats, strength: float) -> Logits:
    """A ridge regression from descriptions to the weights and offsets of the head."""
    s, w = known.attributes, np.concatenate([known.weights, known.offsets[:, None]], axis=1)
    at, middle = s.mean(axis=0), w.mean(axis=0)
    gram = (s - at).T @ (s - at) / len(s) + strength * np.eye(s.shape[1])
    said = (new - at) @ np.linalg.solve(gram, (s - at).T @ (w - middle) / len(s)) + middle
    return lambda given: (
        given @ known.weights.T + known.offsets,
        given @ said[:, :-1].T + said[:, -1],
    )


@dataclass(frozen=True)
class Rival:
    """A method, and the strengths of which one is chosen."""

    name: str
    fit: Fit
    strengths: Sequence[float]


RIVALS = (
    Rival("ESZSL", eszsl, (1e-4, 1e-3, 1e-2, 1e-1)),
    Rival("DeViSE-like", devise, (1e-4, 1e-3, 1e-2)),
    Rival("description -> weights", to_weights, (1e-3, 1e-2, 1e-1, 1.0)),
)


def logits_of(rival: Rival, known: Known, new: Floats, test: Floats, seed: int) -> dict[str, Floats]:
    """The logits of all classes as they are, and with the offset that is chosen as that of NIWT is."""
    held = list(folds(len(known.weights), len(new), seed))
    plain, curves = np.zeros(len(rival.strengths)), np.zeros((len(rival.strengths), len(SHARES)))
    for out in held:
        kept = [k for k in range(len(known.weights)) if k not in out]
        part = _without(known, kept, out)
        place = np.argsort([*kept, *out])[known.labels]
        rows = place < len(kept)
        seen = Known(
            part.attributes, part.importance, part.weights, part.offsets, part.M, part.M_labels,
            part.features[rows], place[rows],
        )  # fmt: skip
        for k, strength in enumerate(rival.strengths):
            old, fresh = rival.fit(seen, known.attributes[out], strength)(part.features)
            found = scores(np.concatenate([old, fresh], axis=1), place, len(kept))
            plain[k] += harmonic(found.seen, found.unseen) / len(held)
            curves[k] += harmonics(SHARES, old, fresh, place) / len(held)
    old, fresh = rival.fit(known, new, rival.strengths[int(plain.argmax())])(test)
    best, share = (int(one) for one in np.unravel_index(curves.argmax(), curves.shape))
    chosen = rival.fit(known, new, rival.strengths[best])
    offset = offset_at(float(SHARES[share]), *chosen(known.features))
    other, newer = chosen(test)
    return {
        rival.name: np.concatenate([old, fresh], axis=1),
        f"{rival.name}, offset chosen": np.concatenate([other, newer + offset], axis=1),
    }
