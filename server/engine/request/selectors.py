"""Which elements of the target are explained: indices, regions, masks and weights, for all samples or one for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.parameters import shown
from onnx_attribution.values import Index, Selection, Selector

Floats = NDArray[np.float64]


def selectors_of(index: Selection, count: int, rank: int, role: str) -> list[Selector]:
    """One selector for each sample; `rank` is that of the target within one sample.

    Raises:
        InvalidArgument: a number of entries that is not that of the samples.
    """
    if isinstance(index, np.ndarray):
        if index.ndim and index.dtype.kind not in "iuO":
            return _arrays(index, count, rank, role)
        index = cast("list[Any]", index.tolist())
    if not isinstance(index, list):
        return [cast("Selector", index)] * count
    chosen = [_entry(e) for e in index]
    if count == 1 and len(chosen) > 1 and all(isinstance(e, tuple) for e in chosen):
        return [chosen]  # the elements of one region
    if len(chosen) not in (1, count):
        region = ""
        if all(isinstance(e, tuple | list) for e in chosen):
            region = "; a region for all samples is a list in a list, a mask an array of truth values"
        raise refused(f"the target has {len(chosen)} entries in {role}; there are {count} samples{region}")
    return chosen * count if len(chosen) == 1 else chosen


def reads_values(selection: Selection, by_itself: bool = True) -> bool:
    """Whether the values of a target decide what is selected; `by_itself` says whether none means the largest."""
    if selection is None:
        return by_itself
    return isinstance(selection, list) and any(one is None for one in selection)


def _entry(entry: Any) -> Any:
    """An entry of a list: a row of an array is a tuple, a list of such rows or tuples a region."""
    if isinstance(entry, np.ndarray) and entry.dtype.kind in "iu":
        entry = entry.tolist()
    if not isinstance(entry, list):
        return entry
    if any(isinstance(e, tuple | list) for e in entry):
        return [tuple(e) if isinstance(e, list) else e for e in entry]
    return tuple(entry)


def _arrays(array: NDArray[Any], count: int, rank: int, role: str) -> list[Selector]:
    """A mask or weights: for all samples, or one for each."""
    if array.ndim != rank + 1:
        return [array] * count
    if len(array) not in (1, count):
        raise refused(f"the target has {len(array)} entries in {role}; there are {count} samples")
    return [array[k if len(array) > 1 else 0] for k in range(count)]


def put(weights: Floats, selector: Selector, values: Floats) -> str:
    """Writes the weights of a selector for one sample, whose target has these values; returns it in words.

    Raises:
        InvalidArgument: it selects nothing, or something that is not there.
    """
    unit = weights.shape
    if isinstance(selector, np.ndarray) and selector.ndim and selector.dtype.kind != "b":
        return _put_weights(weights, selector)
    if isinstance(selector, list):
        return _put_region(weights, selector, values)
    place = _place(selector, values, unit)
    if any(isinstance(part, np.ndarray) for part in place):
        weights[_mask(place, unit)] = 1
    else:
        weights[cast("tuple[int | slice, ...]", place)] = 1
    return ",".join(_word(part) for part in place) if place else "()"


def _put_weights(weights: Floats, given: NDArray[Any]) -> str:
    if given.dtype.kind != "f" and given.dtype.name != "bfloat16":
        raise refused(f"the target's weights have type {given.dtype.name}; they are floats")
    given = given.astype(np.float64)
    if given.shape != weights.shape:
        raise refused(
            f"the target's weights have shape {list(given.shape)}; the target has shape {list(weights.shape)} for each "
            "sample"
        )
    if not np.isfinite(given).all():
        raise refused("the target's weights hold NaN or infinite numbers")
    if not given.any():
        raise refused("the target's weights are all zero")
    weights[...] = given
    return f"weights of {np.count_nonzero(given)} elements"


def _put_region(weights: Floats, region: Sequence[Any], values: Floats) -> str:
    """Elements and parts one by one, each element at most once."""
    if not region:
        raise refused("the target region is empty")
    for part in region:
        if (
            part is None
            or isinstance(part, list)
            or (isinstance(part, np.ndarray) and part.dtype.kind == "f")
        ):
            raise refused(f"a target region is made of indices, slices and masks, not of {part!r}")
        one = np.zeros_like(weights)
        put(one, part, values)
        if np.any((weights != 0) & (one != 0)):
            raise refused(f"the target region holds elements of {part!r} twice")
        weights += one
    return f"region of {np.count_nonzero(weights)} elements"


def _place(selector: Selector, values: Floats, unit: tuple[int, ...]) -> tuple[Index, ...]:
    """The selection as one index for each axis of the unit; a mask stands for as many axes as it has."""
    wide = [axis for axis, size in enumerate(unit) if size != 1]
    if selector is None:
        if len(wide) <= 1 and values.size:
            return tuple(int(k) for k in np.unravel_index(int(np.argmax(values)), unit))
        raise refused(f"the target has shape {list(unit)} for each sample; name an element or a region")
    parts = selector if isinstance(selector, tuple) else (selector,)
    masks = [part for part in parts if isinstance(part, np.ndarray) and part.ndim]
    axes = len(parts) + sum(mask.ndim - 1 for mask in masks)
    if axes == 1 < len(unit) and len(wide) <= 1 and not masks:  # [1000, 1, 1] has one index, as [1000] has
        at = wide[0] if wide else 0
        parts, axes = (*[0] * at, *parts, *[0] * (len(unit) - at - 1)), len(unit)
    if axes != len(unit):
        raise refused(
            f"the target index has {axes} part{'s' * (axes != 1)}; the target has shape {list(unit)} for each sample",
            rank=len(unit),
        )
    place: list[Index] = []
    axis = 0
    for part in parts:
        place.append(_checked(part, axis, unit))
        axis += max(np.ndim(part), 1) if isinstance(part, np.ndarray) else 1
    return tuple(place)


def _checked(part: Any, axis: int, unit: tuple[int, ...], of: str = "target") -> Index:
    """A part of an index along its axis, or along several axes if it is a mask; `of` says of what in a refusal."""
    size = unit[axis]
    if isinstance(part, np.ndarray) and part.ndim:
        if part.dtype.kind != "b":
            raise refused(
                f"a {of} index holds an array of type {part.dtype.name}; a mask is an array of truth values"
            )
        if part.shape != unit[axis : axis + part.ndim]:
            raise refused(
                f"the {of} mask has shape {list(part.shape)}; the {of} has shape {list(unit)} for each sample"
            )
        if not part.any():
            raise refused(f"the {of} mask is empty")
        return part
    if isinstance(part, slice):
        bounds = (part.start, part.stop, part.step)
        if not all(isinstance(b, (int, np.integer, type(None))) and not isinstance(b, bool) for b in bounds):
            raise refused(f"the {of} region {part} has bounds that are no integers")
        if part.step == 0:
            raise refused(f"the {of} region has step 0")
        if len(range(*part.indices(size))) == 0:
            raise refused(f"the {of} region is empty along axis {axis}")
        return part
    if not isinstance(part, (int, np.integer)) or isinstance(part, bool):
        raise refused(f"the {of} index {part!r} is no integer")
    if not -size <= part < size:
        raise refused(
            f"the {of} index {part} is out of range along axis {axis}; legal are 0 to {size - 1}",
            legal=f"0..{size - 1}",
        )
    return int(part) % size


def leading(selector: Selector, unit: tuple[int, ...], of: str) -> NDArray[np.bool_]:
    """The elements at an index of the leading axes, whatever the others are; `of` says of what in a refusal.

    Raises:
        InvalidArgument: it is no index, or of something that is not there.
    """
    parts = selector if isinstance(selector, tuple) else (selector,)
    place: list[Index] = []
    axis = 0
    for part in parts:
        wide = max(np.ndim(part), 1) if isinstance(part, np.ndarray) else 1
        if axis + wide > len(unit):
            raise refused(
                f"the {of} index {shown(selector)} has more parts than axes; the {of} has shape {list(unit)} for "
                "each sample"
            )
        place.append(_checked(part, axis, unit, of))
        axis += wide
    return _mask([*place, *[slice(None)] * (len(unit) - axis)], unit)


def _mask(place: Sequence[Index], unit: tuple[int, ...]) -> NDArray[np.bool_]:
    """The elements that every part selects along its own axes."""
    chosen = np.ones(unit, dtype=np.bool_)
    axis = 0
    for part in place:
        if isinstance(part, np.ndarray):
            own, axes = part, part.ndim
        else:
            own, axes = np.zeros(unit[axis], dtype=np.bool_), 1
            own[part] = True
        chosen &= own.reshape([1] * axis + list(own.shape) + [1] * (len(unit) - axis - axes))
        axis += axes
    return chosen


def _word(index: Index) -> str:
    if isinstance(index, np.ndarray):
        return f"mask of {np.count_nonzero(index)} of {index.size}"
    if not isinstance(index, slice):
        return str(index)
    parts = ["" if index.start is None else str(index.start), "" if index.stop is None else str(index.stop)]
    return ":".join(parts + ([str(index.step)] if index.step not in (None, 1) else []))


def refused(message: str, **details: Any) -> InvalidArgument:
    """The error of a target that cannot be used."""
    return InvalidArgument(message, reason=Reason.TARGET_INVALID, **details)
