"""Features: which elements of the sources are replaced together, and what each element is given for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.values import Array

MAX_GROUPS = 16384  # as many as a path may have steps
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Numbered:
    """Groups as the numbers of the elements: `ids` has the shape of one sample."""

    ids: NDArray[np.int64]

    def mask(self, groups: NDArray[np.intp]) -> Mask:
        """The elements of some groups."""
        return np.asarray(self.ids == groups[0] if len(groups) == 1 else np.isin(self.ids, groups))

    def touched(self, changed: Mask) -> set[int]:
        """The groups that hold an element which is changed."""
        return set(np.unique(self.ids[changed]).tolist())

    def spread(self, effects: Floats) -> Floats:
        """`[samples, groups]` to `[samples, *unit]`: every element has the effect of its group."""
        return effects[:, self.ids]


@dataclass(frozen=True)
class Windows:
    """Groups as windows, which may overlap; the group of `places[k]` is `first + k`."""

    unit: tuple[int, ...]
    first: int
    places: tuple[tuple[slice, ...], ...]

    def mask(self, groups: NDArray[np.intp]) -> Mask:
        """The elements of some groups."""
        found = np.zeros(self.unit, dtype=np.bool_)
        for group in groups:
            if 0 <= group - self.first < len(self.places):
                found[self.places[group - self.first]] = True
        return found

    def touched(self, changed: Mask) -> set[int]:
        """The groups that hold an element which is changed."""
        return {self.first + k for k, place in enumerate(self.places) if changed[place].any()}

    def spread(self, effects: Floats) -> Floats:
        """`[samples, groups]` to `[samples, *unit]`: the mean over the windows that cover an element."""
        total, cover = np.zeros((len(effects), *self.unit)), np.zeros(self.unit)
        for k, place in enumerate(self.places):
            effect = effects[:, self.first + k]
            total[(slice(None), *place)] += effect.reshape(-1, *[1] * len(self.unit))
            cover[place] += 1
        return total / cover


@dataclass(frozen=True)
class Features:
    """The groups of all sources, `count` in all; a group may hold elements of several sources."""

    of: Mapping[str, Numbered | Windows]
    count: int


def features_of(
    units: Mapping[str, tuple[int, ...]],
    groups: Mapping[str, Array],
    windows: Mapping[str, Sequence[int]],
    strides: Mapping[str, Sequence[int]],
) -> Features:
    """The features of sources that have these shapes for one sample.

    Raises:
        InvalidArgument: groups that are no numbers from 0 or do not broadcast, windows that do not fit, a name that
            is no source, or more than MAX_GROUPS groups.
    """
    _check_names(units, groups, windows, strides)
    given = {name: _numbers(name, groups[name], unit) for name, unit in units.items() if name in groups}
    known = np.unique(np.concatenate([ids.reshape(-1) for ids in given.values()])) if given else np.empty(0)
    found: dict[str, Numbered | Windows] = {
        n: Numbered(np.asarray(np.searchsorted(known, ids))) for n, ids in given.items()
    }
    count = len(known)
    for name, unit in units.items():
        if name in given:
            continue
        if name in windows:
            starts, sizes = _grid(name, unit, windows[name], strides.get(name))
            more = math.prod(map(len, starts))
            _check_count(count + more)
            places = tuple(
                tuple(slice(at, at + size) for at, size in zip(corner, sizes, strict=True))
                for corner in product(*starts)
            )
            found[name] = Windows(unit, count, places)
        else:
            more = math.prod(unit)
            _check_count(count + more)
            found[name] = Numbered(np.arange(count, count + more).reshape(unit))
        count += more
    _check_count(count)
    return Features(found, count)


def _check_names(units: Mapping[str, object], *fields: Mapping[str, object]) -> None:
    groups, windows, strides = fields
    for word, field in (("groups", groups), ("a window", windows), ("strides", strides)):
        for name in field:
            if name not in units:
                raise _refused(
                    name,
                    f"{name!r} has {word} but is no source; the sources are {', '.join(map(repr, units))}",
                )
    for name in groups:
        if name in windows:
            raise _refused(name, f"{name!r} has groups and a window; give one of them")
    for name in strides:
        if name not in windows:
            raise _refused(name, f"{name!r} has strides but no window; give it one in windows")


def _check_count(count: int) -> None:
    if count > MAX_GROUPS:
        raise InvalidArgument(
            f"the sources have {count} groups, each of which is evaluated; at most {MAX_GROUPS} may be: take larger "
            "ones by groups or windows, or fewer sources",
            reason=Reason.REQUEST_TOO_LARGE, limit=MAX_GROUPS, actual=count,
        )  # fmt: skip


def _numbers(name: str, groups: Array, unit: tuple[int, ...]) -> NDArray[np.int64]:
    """The numbers of a source's groups in the shape of one sample."""
    array = np.asarray(groups)
    if array.dtype.kind not in "iu":
        raise _refused(name, f"the groups of {name!r} have type {array.dtype.name}; they are integers from 0")
    if array.size and array.min() < 0:
        raise _refused(name, f"the groups of {name!r} hold {array.min()}; they are integers from 0")
    if array.ndim == len(unit) + 1 and len(array) == 1:  # with a batch axis, as Captum's masks have it
        array = array[0]
    try:
        return np.broadcast_to(array, unit).astype(np.int64)
    except ValueError:
        raise _refused(
            name,
            f"the groups of {name!r} have shape {list(array.shape)}; they must broadcast to {list(unit)}",
        ) from None


def _grid(
    name: str, unit: tuple[int, ...], window: Sequence[int], strides: Sequence[int] | None
) -> tuple[list[range], tuple[int, ...]]:
    """Where windows start along each axis, and their sizes. The last one ends at the edge, and may be smaller."""
    sizes = _sizes(name, "window", window)
    if len(sizes) > len(unit):
        raise _refused(
            name, f"the window of {name!r} has {len(sizes)} axes; a sample has {len(unit)}: {list(unit)}"
        )
    steps = sizes if strides is None else _sizes(name, "strides", strides)
    if len(steps) != len(sizes):
        raise _refused(name, f"the strides of {name!r} have {len(steps)} axes; its window has {len(sizes)}")
    whole = unit[: len(unit) - len(sizes)]
    sizes, steps = (*whole, *sizes), (*whole, *steps)
    if any(not 1 <= size <= n for size, n in zip(sizes, unit, strict=True)):
        raise _refused(
            name,
            f"the window of {name!r} is {list(sizes)}; sizes lie between 1 and those of a sample, {list(unit)}",
        )
    if any(not 1 <= step <= size for step, size in zip(steps, sizes, strict=True)):
        raise _refused(
            name,
            f"the strides of {name!r} are {list(steps)}; they lie between 1 and the window, {list(sizes)}",
        )
    return [
        range(0, -(-(n - size) // step) * step + 1, step)
        for n, size, step in zip(unit, sizes, steps, strict=True)
    ], sizes


def _sizes(name: str, word: str, given: Sequence[int]) -> tuple[int, ...]:
    array = np.asarray(given)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
        raise _refused(
            name, f"the {word} of {name!r} is {given!r}; it has one integer for each of the last axes"
        )
    return tuple(array.tolist())


def _refused(name: str, message: str) -> InvalidArgument:
    return InvalidArgument(message, reason=Reason.GROUPS_INVALID, name=name)
