"""From descriptions in words to the importance of units: the first stage of NIWT (arXiv 1808.02861).

A linear map, or one with a hidden layer, takes the attributes of a class to a vector of importance; it is fitted on
the classes that the network knows, by the cosine between what it says and the importance that was measured. Of many
images of a class the loss depends on the mean of their unit vectors only:

    mean over images of 1 - cos(alpha, a) = 1 - (mean of alpha / |alpha|) . a / |a|

so that a fit costs as much as there are classes, whichever of both is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.niwt.minimise import Floats, minimum

UNKNOWN = np.nan
RIDGE = 0.1


@dataclass(frozen=True, eq=False)
class DomainMap:
    """What a fit found: `layers` are pairs of weights and offsets, with tanh between two of them.

    `mean` holds the mean of each attribute over the classes of the fit; it stands in for what is unknown.
    """

    layers: tuple[tuple[Floats, Floats], ...]
    mean: Floats

    def __call__(self, attributes: Floats) -> Floats:
        """The importance `[classes, units]` of attributes `[classes, attributes]`; NaN is unknown."""
        return _forward(self.layers, known(attributes, self.mean) - self.mean)[-1]


def known(attributes: Floats, mean: Floats) -> Floats:
    """The attributes with the means in place of what is unknown, which is NaN or -1."""
    given = np.asarray(attributes, np.float64)
    return np.where(np.isnan(given) | (given == -1), mean, given)


def means(attributes: Floats) -> Floats:
    """Of each attribute, the mean over the classes where it is known; 0 where it is known of none."""
    given = np.asarray(attributes, np.float64)
    right = ~(np.isnan(given) | (given == -1))
    total = np.where(right, given, 0).sum(axis=0)
    return np.asarray(total / np.maximum(right.sum(axis=0), 1), np.float64)


def unit(rows: Floats) -> Floats:
    """Each row by its norm; rows of zeros stay."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1), np.float64)


def mean_of_units(alpha: NDArray[np.floating], labels: NDArray[np.integer], classes: Sequence[int]) -> Floats:
    """Of each class, the mean of the unit vectors of its images: all that the cosine loss sees of them."""
    units = unit(np.asarray(alpha, np.float64))
    return np.stack([units[labels == one].mean(axis=0) for one in classes])


def fit(
    attributes: Floats,
    importance: Floats,
    *,
    ridge: float = RIDGE,
    hidden: int = 0,
    seed: int = 0,
    weights: Floats | None = None,
) -> DomainMap:
    """The map that fits best on some classes: attributes `[classes, attributes]`, importance `[classes, units]`.

    Rows of importance are mean vectors of importance (of any norm above 1 by its unit vector) or means of unit
    vectors. The cosine leaves the norm of the map's answers free: a term holds it at 1, so that `ridge`, on the
    weights, means the same for every layer. `weights` of the classes are equal by default. `hidden` units make it a
    network with one hidden layer, which starts at seeded weights; without, the start is the ridge regression.
    """
    mean = means(attributes)
    x, n = known(attributes, mean) - mean, len(attributes)
    share = np.full(n, 1 / n) if weights is None else np.asarray(weights, np.float64) / np.sum(weights)
    norms = np.linalg.norm(importance, axis=1, keepdims=True)
    wanted = np.asarray(importance / np.maximum(norms, 1), np.float64)
    start = _ridge(x, unit(wanted), share, ridge) if not hidden else _drawn(x, wanted, hidden, seed)
    shapes = [array.shape for layer in start for array in layer]

    def loss(flat: Floats) -> tuple[float, Floats]:
        layers = _unpacked(flat, shapes)
        values = _forward(layers, x)
        value, g = _cosine_loss(values[-1], wanted, share)
        gradients: list[Floats] = []
        for k in reversed(range(len(layers))):
            w, _ = layers[k]
            value += ridge / 2 * float((w * w).sum())
            gradients = [values[k].T @ g + ridge * w, g.sum(axis=0), *gradients]
            g = (g @ w.T) * (1 - values[k] ** 2)
        return value, np.concatenate([one.ravel() for one in gradients])

    flat = np.concatenate([array.ravel() for layer in start for array in layer])
    found, _ = minimum(loss, flat, steps=100, tolerance=1e-5)
    return DomainMap(_unpacked(found, shapes), mean)


def _cosine_loss(a: Floats, wanted: Floats, share: Floats) -> tuple[float, Floats]:
    """The mean of `1 - wanted . a / |a|`, with the term that holds |a| at 1, and the gradient by `a`."""
    norms = np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
    n = a / norms
    cosines = (wanted * n).sum(axis=1, keepdims=True)
    value = float((share * (1 - cosines[:, 0] + (norms[:, 0] - 1) ** 2 / 2)).sum())
    return value, share[:, None] * (-(wanted - cosines * n) / norms + (norms - 1) * n)


def _forward(layers: Sequence[tuple[Floats, Floats]], x: Floats) -> list[Floats]:
    """What goes into each layer, and what comes out of the last."""
    values = [x]
    for k, (w, b) in enumerate(layers):
        y = values[-1] @ w + b
        values.append(y if k == len(layers) - 1 else np.tanh(y))
    return values


def _ridge(x: Floats, y: Floats, share: Floats, ridge: float) -> tuple[tuple[Floats, Floats], ...]:
    """Least squares with a free offset, in closed form."""
    at_x, at_y = share @ x, share @ y
    dx, dy = x - at_x, y - at_y
    gram = (dx * share[:, None]).T @ dx + max(ridge, 1e-10) * np.eye(x.shape[1])
    w = np.linalg.solve(gram, (dx * share[:, None]).T @ dy)
    return ((np.asarray(w, np.float64), np.asarray(at_y - at_x @ w, np.float64)),)


def _drawn(x: Floats, y: Floats, hidden: int, seed: int) -> tuple[tuple[Floats, Floats], ...]:
    random = np.random.default_rng(seed)
    first = random.normal(0, 1 / np.sqrt(x.shape[1]), (x.shape[1], hidden))
    second = random.normal(0, 1 / np.sqrt(hidden * y.shape[1]), (hidden, y.shape[1]))
    return ((first, np.zeros(hidden)), (second, np.zeros(y.shape[1])))


def _unpacked(flat: Floats, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[Floats, Floats], ...]:
    sizes = [int(np.prod(shape)) for shape in shapes]
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    return tuple(zip(arrays[::2], arrays[1::2], strict=True))
