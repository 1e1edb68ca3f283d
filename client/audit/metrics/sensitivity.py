"""How far a map moves: little where the input moves little, and much where another class is explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.audit.arrays import Explain, Floats, Inputs, Maps
from onnx_attribution.client.audit.metrics.metric import Metric, declared, flat, ratio
from onnx_attribution.client.audit.metrics.similarity import NAMES, Channels, similarities
from onnx_attribution.errors import InvalidArgument

Move = Callable[[Inputs, np.random.Generator], Inputs]
"""From inputs to inputs close by."""

MAX_SENSITIVITY = declared(
    Metric(
        "max_sensitivity",
        "lower",
        "robustness",
        "max over x~ within the radius of ||a(x~) - a(x)|| / ||a(x)||",
        "arXiv 1901.09392; Captum's sensitivity_max",
        quantus="MaxSensitivity",
    )
)
AVG_SENSITIVITY = declared(
    Metric(
        "avg_sensitivity",
        "lower",
        "robustness",
        "the mean over x~ within the radius of ||a(x~) - a(x)|| / ||a(x)||",
        "arXiv 1901.09392",
        quantus="AvgSensitivity",
    )
)
LOCAL_LIPSCHITZ_ESTIMATE = declared(
    Metric(
        "local_lipschitz_estimate",
        "lower",
        "robustness",
        "max over x~ with small noise of ||a(x~) - a(x)|| / ||x~ - x||",
        "arXiv 1806.08049",
        quantus="LocalLipschitzEstimate",
    )
)
RANDOM_LOGIT = declared(
    Metric(
        "random_logit",
        "lower",
        "randomisation",
        "the similarity of the maps of the explained class and of another one: the next, a random or the least likely",
        "arXiv 1912.09818",
        chance="goal",
        quantus="RandomLogit",
    )
)


def within(sources: tuple[str, ...], radius: float) -> Move:
    """Each element up to `radius` away, all distances equally likely."""
    return _moving(sources, lambda rng, shape: rng.uniform(-radius, radius, shape))


def near(sources: tuple[str, ...], deviation: float) -> Move:
    """Normal noise."""
    return _moving(sources, lambda rng, shape: rng.normal(0.0, deviation, shape))


def max_sensitivity(
    explain: Explain, inputs: Inputs, move: Move, *, count: int = 10, seed: int = 0
) -> Floats:
    """MAX_SENSITIVITY of `count` moves; where a(x) is 0 nothing is divided."""
    return np.asarray(np.max(_sensitivities(explain, inputs, move, count, seed), axis=0))


def avg_sensitivity(
    explain: Explain, inputs: Inputs, move: Move, *, count: int = 10, seed: int = 0
) -> Floats:
    """AVG_SENSITIVITY of `count` moves; where a(x) is 0 nothing is divided."""
    return np.asarray(np.mean(_sensitivities(explain, inputs, move, count, seed), axis=0))


def local_lipschitz_estimate(
    explain: Explain, inputs: Inputs, move: Move, *, count: int = 10, seed: int = 0
) -> Floats:
    """LOCAL_LIPSCHITZ_ESTIMATE of `count` moves; a move that ends where it began does not count."""
    before, places = flat(explain(inputs)), _places(inputs)
    found = [np.zeros(len(before))]
    for moved in _moves(inputs, move, count, seed):
        apart = np.linalg.norm(_places(moved) - places, axis=1)
        change = np.linalg.norm(flat(explain(moved)) - before, axis=1)
        found.append(ratio(change, apart, otherwise=0.0))
    return np.asarray(np.max(found, axis=0))


def random_logit(own: Maps, other: Maps, **options: Any) -> dict[str, Floats]:
    """RANDOM_LOGIT by the similarities of `compared`: `own` maps of the explained classes, `other` of other ones."""
    return compared(own, other, **options)


def compared(
    left: Maps,
    right: Maps,
    *,
    names: Sequence[str] = NAMES,
    channels: Channels = "sum",
    percentile: float = 100.0,
) -> dict[str, Floats]:
    """The similarities of these names, sample by sample: all sources of a sample are one map. NaN where one of the two
    is constant."""
    if left.keys() != right.keys():
        raise InvalidArgument(
            f"maps of {', '.join(left)} cannot be compared with those of {', '.join(right)}"
        )
    counts = {len(a) for each in (left, right) for a in each.values()}
    if len(counts) != 1:
        raise InvalidArgument(f"maps of {sorted(counts)} samples cannot be compared")
    found = [
        similarities(
            [a[k] for a in left.values()],
            [right[n][k] for n in left],
            names=names,
            channels=channels,
            percentile=percentile,
        )
        for k in range(*counts)
    ]
    return {name: np.array([one[name] for one in found], np.float64) for name in names}


def other_classes(scores: Floats, *, least_likely: bool = False, seed: int = 0) -> tuple[int, ...]:
    """Of each row of scores `[samples, classes]` a class that is not the largest: drawn, or the least likely."""
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise InvalidArgument(f"there is no other class in scores of shape {list(scores.shape)}")
    top = scores.argmax(axis=1)
    if least_likely:
        return tuple(int(k) for k in scores.argmin(axis=1))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(scores.shape[1] - 1, size=len(scores))
    return tuple(int(k) for k in drawn + (drawn >= top))


def _moving(
    sources: tuple[str, ...], drawn: Callable[[np.random.Generator, tuple[int, ...]], Floats]
) -> Move:
    def move(inputs: Inputs, rng: np.random.Generator) -> Inputs:
        moved = {}
        for name in sources:
            values: NDArray[Any] = np.asarray(inputs[name])
            moved[name] = (values + drawn(rng, values.shape)).astype(values.dtype)
        return {**inputs, **moved}

    return move


def _moves(inputs: Inputs, move: Move, count: int, seed: int) -> Iterator[Inputs]:
    if count < 1:
        raise InvalidArgument(f"count must be at least 1, not {count}", parameter="count")
    rng = np.random.default_rng(seed)
    return (move(inputs, rng) for _ in range(count))


def _sensitivities(explain: Explain, inputs: Inputs, move: Move, count: int, seed: int) -> list[Floats]:
    before = flat(explain(inputs))
    norms = np.linalg.norm(before, axis=1)
    norms = np.where(norms == 0, 1.0, norms)  # as Captum does
    moves = _moves(inputs, move, count, seed)
    return [np.linalg.norm(flat(explain(moved)) - before, axis=1) / norms for moved in moves]


def _places(inputs: Inputs) -> Floats:
    """The inputs of floats, which are what moves, as `[samples, elements]`."""
    found = {name: np.asarray(one) for name, one in inputs.items()}
    return flat({name: one.astype(np.float64) for name, one in found.items() if one.dtype.kind == "f"})
