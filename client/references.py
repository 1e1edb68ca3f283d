"""References made from data: a mean, a blurred copy, shuffled sequences. Zeros and constants need no help: pass 0.0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument

Scalar = TypeVar("Scalar", bound=np.generic)


def mean_of(data: NDArray[Scalar]) -> NDArray[Scalar]:
    """The mean of samples along the first axis, of their type."""
    if not data.shape or not len(data):
        raise InvalidArgument(f"there is no mean of no samples: the data has shape {list(data.shape)}")
    return np.asarray(data.mean(axis=0, dtype=np.float64)).astype(data.dtype)


def blurred(images: NDArray[Scalar], sigma: float, *, axes: Sequence[int] = (-2, -1)) -> NDArray[Scalar]:
    """The images under a Gaussian of `sigma` pixels along `axes`; edges are continued.

    Needs scipy: `pip install onnx-attribution[references]`.
    """
    try:
        from scipy.ndimage import gaussian_filter
    except ImportError:
        raise InvalidArgument("blurring needs scipy: pip install 'onnx-attribution[references]'") from None
    if not sigma > 0:
        raise InvalidArgument(f"sigma must be positive, not {sigma}", parameter="sigma")
    found = gaussian_filter(images.astype(np.float64), sigma, axes=tuple(axes), mode="nearest")
    return np.asarray(found).astype(images.dtype)


def dinucleotide_shuffles(
    sequence: NDArray[Scalar], count: int, *, axis: int = -1, seed: int = 0
) -> NDArray[Scalar]:
    """Random copies `[count, *sequence.shape]` of one sequence, each with the same pairs of neighbours.

    `sequence` has two axes; `axis` is that of the letters (one-hot, or any columns: equal ones are one letter), the
    other that of the positions. Every order with these pairs, between the same first and last letter, is as likely as
    any other: a random Eulerian path (Altschul and Erickson, Mol. Biol. Evol. 2, 1985).
    """
    if sequence.ndim != 2:
        raise InvalidArgument(
            f"a sequence has two axes, positions and letters, not {sequence.ndim}", parameter="sequence"
        )
    if not sequence.size:
        raise InvalidArgument(
            f"the sequence is empty: it has shape {list(sequence.shape)}", parameter="sequence"
        )
    if count < 1:
        raise InvalidArgument(f"count must be at least 1, not {count}", parameter="count")
    columns = np.moveaxis(sequence, axis, -1)
    letters, tokens = np.unique(columns, axis=0, return_inverse=True)
    rng = np.random.default_rng(seed)
    found = [letters[_shuffled(tokens.reshape(-1), rng)] for _ in range(count)]
    return np.ascontiguousarray(np.moveaxis(np.stack(found), -1, axis % 2 + 1))


def _shuffled(tokens: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """A random order with the same pairs of neighbours.

    The last way out of each letter is drawn first, until every letter reaches the end by last ways alone; any order of
    the other ways out then makes a path that uses all of them.
    """
    end = tokens[-1]
    following = {k: tokens[1:][tokens[:-1] == k] for k in np.unique(tokens[:-1])}
    while True:
        last = {k: int(rng.integers(len(ways))) for k, ways in following.items() if k != end}
        if all(_reaches(k, end, following, last) for k in last):
            break
    order: dict[Any, list[Any]] = {}
    for k, ways in following.items():
        rest = np.delete(ways, last[k]) if k in last else ways
        order[k] = [*([ways[last[k]]] if k in last else []), *rng.permutation(rest)]  # taken from the back
    path = [tokens[0]]
    while order.get(path[-1]):
        path.append(order[path[-1]].pop())
    return np.array(path)


def _reaches(start: Any, end: Any, following: dict[Any, NDArray[np.intp]], last: dict[Any, int]) -> bool:
    """Whether the last ways lead from a letter to the end."""
    seen = set()
    while start != end:
        if start in seen:
            return False
        seen.add(start)
        start = following[start][last[start]]
    return True
