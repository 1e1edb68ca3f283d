"""Groups of the elements of a layer, and their ranks by importances: who goes first in a curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnx_attribution.channels import axis_of_sample
from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.values import LayerInfo

Whole = NDArray[np.int64]
Scores = Mapping[str, ArrayLike]
Ranks = dict[str, Whole]
"""By layer, `[samples, *unit]`."""


def by_axes(unit: Sequence[int], axes: int | Sequence[int] | None = None) -> Whole:
    """The number of the group of each element of one sample: groups are told apart by these axes, `0` the channels of
    `[channels, height, width]` and `(1, 2)` its positions; None: by all, so that each element is one.

    Raises:
        InvalidArgument: there is no such axis.
    """
    shape = tuple(unit)
    chosen = range(len(shape)) if axes is None else [axes] if isinstance(axes, int) else list(axes)
    wrong = [axis for axis in chosen if not -len(shape) <= axis < len(shape)]
    if wrong:
        raise InvalidArgument(f"one sample of the layer has shape {list(shape)}; there is no axis {wrong[0]}")
    kept = {axis % len(shape) for axis in chosen}
    sizes = [size if axis in kept else 1 for axis, size in enumerate(shape)]
    numbers = np.arange(math.prod(sizes), dtype=np.int64).reshape(sizes)
    return np.broadcast_to(numbers, shape)


def channels_axis(unit: Sequence[int], layer: LayerInfo | None = None) -> int:
    """The axis of one sample that tells channels apart, by what is known of the layer."""
    return axis_of_sample(unit) if layer is None else axis_of_sample(unit, layer.shape, layer.channel_axis)


def patches(unit: Sequence[int], sizes: Sequence[int]) -> Whole:
    """The same for patches of these sizes along the last axes, from all of the axes before them; those at the far edges
    may be smaller.

    Raises:
        InvalidArgument: more sizes than axes, or one below 1.
    """
    shape = tuple(unit)
    if len(sizes) > len(shape) or any(size < 1 for size in sizes):
        raise InvalidArgument(
            f"one sample of the layer has shape {list(shape)}; patches cannot be {list(sizes)}"
        )
    found = np.zeros(shape, np.int64)
    for axis, size in zip(range(len(shape) - len(sizes), len(shape)), sizes, strict=True):
        place = (np.arange(shape[axis]) // size).reshape([-1 if k == axis else 1 for k in range(len(shape))])
        found = found * (-(-shape[axis] // size)) + place
    return found


@overload
def ranks_of(
    scores: Scores,
    groups: Mapping[str, ArrayLike] | None = None,
    *,
    absolute: bool = False,
    ties: int | None = None,
) -> Ranks: ...
@overload
def ranks_of(
    scores: ArrayLike, groups: ArrayLike | None = None, *, absolute: bool = False, ties: int | None = None
) -> Whole: ...
def ranks_of(scores: Any, groups: Any = None, *, absolute: bool = False, ties: int | None = None) -> Any:
    """The rank of the group of each element, `[samples, *unit]`, from scores of that shape: 0 has the highest sum.

    `groups` are numbers from 0 that broadcast to one sample (default: each element is a group). Groups of equal sums
    keep the order of their numbers, or with `ties` have an order drawn by this seed, the same for equal sums of all
    scores. With `absolute` the magnitude of the sum counts. Of several layers, by name, the ranks are joint; their
    groups, by name too, hold elements of several of them where they have one number.

    Raises:
        InvalidArgument: scores are NaN, or groups of another shape.
    """
    if not isinstance(scores, Mapping):
        given = None if groups is None else {"": groups}
        return ranks_of({"": scores}, given, absolute=absolute, ties=ties)[""]
    sums, ids = _sums(scores, groups)
    keys = -np.abs(sums) if absolute else -sums
    count = sums.shape[1]
    last = np.arange(count) if ties is None else np.random.default_rng(ties).permutation(count)
    order = np.stack([np.lexsort((last, row)) for row in keys])
    return _placed(order, ids)


def are_ranked(scores: Scores, groups: Mapping[str, ArrayLike] | None = None) -> NDArray[np.bool_]:
    """Of each sample whether its groups have sums that differ; where they have not, any order is as good."""
    sums, _ = _sums(scores, groups)
    return np.asarray(sums.max(axis=1, initial=-np.inf) > sums.min(axis=1, initial=np.inf))


def _sums(
    scores: Scores, groups: Mapping[str, ArrayLike] | None
) -> tuple[NDArray[np.float64], dict[str, Whole]]:
    """By sample the sums of groups, and by layer the number of the group of each element."""
    values = {name: np.asarray(each, np.float64) for name, each in scores.items()}
    if not values or any(not each.ndim for each in values.values()):
        raise InvalidArgument("scores are [samples, ...]")
    if len({len(each) for each in values.values()}) > 1:
        raise InvalidArgument("the scores of the layers are of different numbers of samples")
    if any(np.isnan(each).any() for each in values.values()):
        raise InvalidArgument("scores hold NaN, which has no rank")
    ids, count = _ids(groups, {name: each.shape[1:] for name, each in values.items()})
    samples = len(next(iter(values.values())))
    sums = np.zeros((samples, count))
    for name, each in values.items():
        for k, row in enumerate(each):
            sums[k] += np.bincount(ids[name].reshape(-1), row.reshape(-1), count)
    return sums, ids


@overload
def random_ranks(
    samples: int,
    unit: Mapping[str, Sequence[int]],
    groups: Mapping[str, ArrayLike] | None = None,
    *,
    seed: int = 0,
) -> Ranks: ...
@overload
def random_ranks(
    samples: int, unit: Sequence[int], groups: ArrayLike | None = None, *, seed: int = 0
) -> Whole: ...
def random_ranks(samples: int, unit: Any, groups: Any = None, *, seed: int = 0) -> Any:
    """Ranks that are drawn for each sample: the control of every experiment. The same seed gives the same."""
    if not isinstance(unit, Mapping):
        given = None if groups is None else {"": groups}
        return random_ranks(samples, {"": tuple(unit)}, given, seed=seed)[""]
    ids, count = _ids(groups, {name: tuple(each) for name, each in unit.items()})
    rng = np.random.default_rng(seed)
    return _placed(np.stack([rng.permutation(count) for _ in range(samples)]), ids)


def _ids(
    groups: Mapping[str, ArrayLike] | None, units: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Whole], int]:
    """By layer the numbers of the groups of its elements, without gaps, and how many groups there are."""
    if groups is None:
        groups = apart({name: by_axes(unit) for name, unit in units.items()})
    if groups.keys() != units.keys():
        raise _no_groups(f"there are groups of {', '.join(groups)}, and scores of {', '.join(units)}")
    wide: dict[str, Whole] = {}
    for name, unit in units.items():
        ids = np.asarray(groups[name])
        if ids.dtype.kind not in "iu" or (ids.size and ids.min() < 0):
            raise _no_groups("the numbers of groups are integers from 0")
        try:
            wide[name] = np.broadcast_to(ids, unit).astype(np.int64)
        except ValueError:
            raise _no_groups(
                f"the groups have shape {list(ids.shape)}; one sample has shape {list(unit)}"
            ) from None
    known = np.unique(np.concatenate([ids.reshape(-1) for ids in wide.values()]))
    return {name: np.searchsorted(known, ids) for name, ids in wide.items()}, len(known)


def apart(groups: Mapping[str, Whole]) -> dict[str, Whole]:
    """The groups of several layers with numbers of their own."""
    found: dict[str, Whole] = {}
    first = 0
    for name, ids in groups.items():
        found[name] = ids + first
        first += int(ids.max(initial=-1)) + 1
    return found


def _no_groups(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason=Reason.GROUPS_INVALID)


def _placed(order: Whole, ids: Mapping[str, Whole]) -> dict[str, Whole]:
    """The ranks of elements from the groups in their order."""
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
    return {name: ranks[:, each] for name, each in ids.items()}
