"""From importance to the weights of a class that the network has never seen: the second stage of NIWT.

The logit of a class with weights w is `phi(x) . w + b`, so its importance is `M(x) w`, where `M(x)` holds the sums over
positions of the derivatives of phi by the layer, whatever w is. The loss of a class with importance t is

    mean over images of 1 - cos(t, M w)  +  pull / 2 * |w - mean|²

and its gradient is closed: with a = M w and n = a / |a|, `-M.T (t/|t| - (t/|t| . n) n) / |a| + pull (w - mean)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_attribution.client.niwt.domain_map import unit
from onnx_attribution.client.niwt.minimise import Floats, minimum

STEPS, TOLERANCE = 100, 1e-5


@dataclass(frozen=True, eq=False)
class Alignment:
    """Weights `[classes, features]`, and of each class its loss and the mean cosine that it reached."""

    weights: Floats
    loss: Floats
    cosine: Floats


def loss_of(w: Floats, importance: Floats, M: Floats, mean: Floats, pull: float) -> tuple[Floats, Floats]:
    """The loss of each class `[classes]`, and the gradient `[classes, features]`.

    `w` is `[classes, features]`, `importance` `[classes, units]`, `M` `[images, units, features]`.
    """
    t, (count, units, features) = unit(importance), M.shape
    a = (M.reshape(-1, features) @ w.T).reshape(count, units, len(w)).transpose(2, 0, 1)
    norms = np.maximum(np.linalg.norm(a, axis=2, keepdims=True), 1e-30)
    n = a / norms
    cosines = np.einsum("uk,unk->un", t, n)
    g = -(t[:, None] - cosines[..., None] * n) / (norms * count)
    moved = w - mean
    loss = 1 - cosines.mean(axis=1) + pull / 2 * (moved * moved).sum(axis=1)
    return loss, g.reshape(len(w), -1) @ M.reshape(-1, features) + pull * moved


def align(
    importance: Floats,
    M: Floats,
    mean: Floats,
    pull: float,
    *,
    start: Floats | None = None,
    size: float | None = None,
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
) -> Alignment:
    """The weights whose importance comes closest to what is wanted, pulled towards the mean weights of seen classes.

    The cosine says nothing of the norm of the weights: only the pull does, which makes them small where `mean` is.
    With `size` their norm is held at it, as seen weights have one. `start` are weights `[classes, features]` or
    `[features]`, by default those of `initial`.
    """
    begun = (
        initial(importance, M, mean)
        if start is None
        else np.broadcast_to(start, (len(importance), len(mean)))
    )
    found = np.empty(begun.shape)
    for u, target in enumerate(importance):

        def loss(w: Floats, target: Floats = target) -> tuple[float, Floats]:
            held = w if size is None else unit(w) * size
            values, slopes = loss_of(held[None], target[None], M, mean, pull)
            slope = slopes[0]
            if size is not None:
                slope = (slope - unit(w) * float(slope @ unit(w))) * size / float(np.linalg.norm(w))
            return float(values[0]), slope

        last, _ = minimum(
            loss, begun[u] if size is None else unit(begun[u]) * size, steps=steps, tolerance=tolerance
        )
        found[u] = last if size is None else unit(last) * size
    values, _ = loss_of(found, importance, M, mean, pull)
    moved = found - mean
    return Alignment(found, values, 1 - (values - pull / 2 * (moved * moved).sum(axis=1)))


def initial(importance: Floats, M: Floats, mean: Floats) -> Floats:
    """Where the search starts: the weights whose mean importance is nearest to what is wanted, of the norm of `mean`.

    A start drawn at random reaches other minima than its neighbour; this one is the same every time.
    """
    average = M.mean(axis=0)
    gram = average.T @ average
    gram += 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram))
    found = np.linalg.solve(gram, average.T @ unit(importance).T).T
    size = float(np.linalg.norm(mean)) or 1.0
    return np.asarray(unit(found) * size, np.float64)
