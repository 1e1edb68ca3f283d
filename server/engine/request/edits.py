"""The edits of a request in arrays: which elements of a layer each of them changes, and to what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.interventions import Edit, Patch, Ranked
from onnx_attribution.parameters import shown
from onnx_attribution.server.engine.request.selectors import leading
from onnx_attribution.values import Array

Mask = NDArray[np.bool_]
KEPT = 64
"""Masks that are kept: rows lie intervention by intervention, so that one of them is used again at once."""


@dataclass(frozen=True)
class Layer:
    """A layer that is edited: the type of its elements, and its values at the samples and at the donors, each
    `[*unit]`; `whole` says whether a sample has an axis of size 1 in front that the units here have not."""

    name: str
    kind: np.dtype[Any]
    units: Sequence[Array]
    donors: Sequence[Array]
    whole: bool = False

    def mean(self) -> Array:
        """The mean over the donors, in the layer's type. Raises: InvalidArgument: there is none."""
        if self.kind.kind not in "fV":
            raise _refused(
                f"its elements are of {_words(self.kind)}, which have no mean; set a value instead"
            )
        if len({one.shape for one in self.donors}) > 1:
            raise _refused("its shape differs between the samples, so that there is no mean")
        total = np.zeros(self.donors[0].shape, np.float64)
        for one in self.donors:
            total += one.astype(np.float64)
        return np.asarray(total / len(self.donors)).astype(self.kind)


@dataclass(frozen=True)
class Change:
    """One edit: by sample its mask, and what the elements become, or by what they are multiplied."""

    layer: str
    mask: Callable[[int], Mask]
    value: Callable[[int], Array] | None
    scale: float = 1.0


def changes_of(interventions: Sequence[Sequence[Edit]], layers: Mapping[str, Layer]) -> list[list[Change]]:
    """The changes of each intervention, checked; `layers` are by the names that the edits have.

    Raises:
        InvalidArgument: an edit selects something that is not there, or what it puts there does not fit.
    """
    means: dict[str, Array] = {}

    def mean(layer: Layer) -> Array:
        if layer.name not in means:
            means[layer.name] = layer.mean()
        return means[layer.name]

    found: list[list[Change]] = []
    for number, edits in enumerate(interventions):
        changes: list[Change] = []
        for edit in edits:
            layer = layers[edit.layer]
            with _named(number, layer.name):
                change = _change(edit, layer, mean)
                for sample in _unlike(layer.units):
                    change.mask(sample)
                    if change.value is not None:
                        change.value(sample)
            changes.append(change)
        found.append(changes)
    return found


def _unlike(units: Sequence[Array]) -> Iterator[int]:
    """One sample of each shape."""
    seen: set[tuple[int, ...]] = set()
    for number, unit in enumerate(units):
        if unit.shape not in seen:
            seen.add(unit.shape)
            yield number


def _change(edit: Edit, layer: Layer, mean: Callable[[Layer], Array]) -> Change:
    mask = _masks(edit, layer)
    if edit.scale is not None:
        if layer.kind.kind not in "fV":
            raise _refused(f"its elements are of {_words(layer.kind)}; only floats are scaled")
        return Change(layer.name, mask, None, float(edit.scale))
    return Change(layer.name, mask, _values(edit, layer, mean))


# --- which elements


def _masks(edit: Edit, layer: Layer) -> Callable[[int], Mask]:
    at, count = edit.at, len(layer.units)
    if isinstance(at, Ranked):
        return _ranked(at, layer)
    if isinstance(at, np.ndarray) and at.dtype.kind == "b" and at.ndim:
        array = _without_front(at, layer)
        rank = layer.units[0].ndim
        if array.ndim == rank + 1:
            _check_count("the mask", len(array), count)
            return lambda k: _broadcast("the mask", array[k if len(array) > 1 else 0], layer.units[k].shape)
    if isinstance(at, np.ndarray) and at.dtype.kind not in "iub":
        raise _refused(f"the mask has type {at.dtype.name}; it is an array of truth values")
    selectors = _listed(at)

    @lru_cache(KEPT)
    def of(unit: tuple[int, ...]) -> Mask:
        if selectors is None:
            return np.ones(unit, np.bool_)
        found = np.zeros(unit, np.bool_)
        for one in selectors:
            found |= leading(one, unit, "layer")
        return found

    return lambda k: of(layer.units[k].shape)


def _listed(at: Any) -> list[Any] | None:
    """The selectors of which each selects something; None: everything is selected."""
    if at is None:
        return None
    if isinstance(at, np.ndarray) and at.dtype.kind in "iu":
        at = at.tolist()
    if not isinstance(at, list):
        return [at]
    return [tuple(one) if isinstance(one, list) else one for one in at]


def _ranked(at: Ranked, layer: Layer) -> Callable[[int], Mask]:
    numbers: NDArray[Any] = np.asarray(at.numbers)
    if numbers.dtype.kind not in "iu":
        raise _refused(f"the numbers have type {numbers.dtype.name}; they are integers")
    numbers = _without_front(numbers, layer)
    each = numbers.ndim == layer.units[0].ndim + 1
    if each:
        _check_count("the numbers", len(numbers), len(layer.units))

    @lru_cache(1)
    def mask(k: int) -> Mask:
        own = numbers[k if len(numbers) > 1 else 0] if each else numbers
        chosen: Mask = own >= at.start if at.stop is None else (own >= at.start) & (own < at.stop)
        return np.asarray(_broadcast("the numbers", chosen, layer.units[k].shape))

    return mask


def _without_front(array: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """An array of all samples without the axis of size 1 that attributions of samples run one by one have."""
    if layer.whole and array.ndim == layer.units[0].ndim + 2 and array.shape[1] == 1:
        return array[:, 0]
    return array


# --- what they become


def _values(edit: Edit, layer: Layer, mean: Callable[[Layer], Array]) -> Callable[[int], Array]:
    to, units = edit.to, layer.units
    if isinstance(to, Patch):
        rows = _rows(to, len(units), len(layer.donors))
        patched = [layer.donors[row] for row in rows]
        return lambda k: _broadcast("the patch", patched[k], units[k].shape)
    if isinstance(to, str):
        found = mean(layer)
        return lambda k: _broadcast("the mean", found, units[k].shape)
    array = _typed(to, layer.kind)
    array = _without_front(array, layer)
    if array.ndim == units[0].ndim + 1:
        _check_count("the values", len(array), len(units))
        return lambda k: _broadcast("the values", array[k if len(array) > 1 else 0], units[k].shape)
    return lambda k: _broadcast("the values", array, units[k].shape)


def _rows(patch: Patch, samples: int, donors: int) -> list[int]:
    """The donor of each sample."""
    if patch.rows is None:
        if donors not in (1, samples):
            raise _refused(
                f"there are {donors} donors for {samples} samples; say in rows of Patch who gives to whom"
            )
        return list(range(samples)) if donors == samples else [0] * samples
    rows = np.asarray(patch.rows)
    if rows.dtype.kind not in "iu" or rows.ndim > 1:
        raise _refused(f"rows of Patch are integers, one or one for each sample, not {shown(patch.rows)}")
    if rows.ndim:
        _check_count("rows of Patch", len(rows), samples)
    for row in rows.reshape(-1):
        if not -donors <= row < donors:
            raise _refused(f"there is no donor {row}; legal are 0 to {donors - 1}")
    return [int(row) % donors for row in np.broadcast_to(rows, samples)]


def _typed(to: object, kind: np.dtype[Any]) -> Array:
    """What elements become, in their type, if it has such elements."""
    try:
        array = np.asarray(to)
    except ValueError:
        raise _refused("the values are ragged: their rows differ in length") from None
    if kind.kind == "O":
        if array.dtype.kind in "biuf" and not array.any():  # what removes numbers
            return np.full(array.shape, "", object)
        if array.dtype.kind not in "OUST":
            raise _refused(f"the values have type {array.dtype.name}; its elements are text")
        return array.astype(object)
    if array.dtype.kind not in "fiubV":
        raise _refused(f"the values have type {array.dtype.name}; its elements are of {kind.name}")
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is refused
        cast = array.astype(kind)
    if kind.kind in "iub":
        fits = np.array_equal(cast, array)
    else:
        finite = np.isfinite(array.astype(np.float64))
        fits = bool((np.isfinite(cast.astype(np.float64)) == finite).all())
    if not fits:
        raise _refused(f"the values are numbers outside {kind.name}, of which its elements are")
    return cast


def _broadcast(what: str, array: Any, unit: tuple[int, ...]) -> Any:
    try:
        return np.broadcast_to(array, unit)
    except ValueError:
        raise _refused(
            f"{what} of one sample has shape {list(array.shape)}; the layer has shape {list(unit)} for each sample"
        ) from None


def _check_count(what: str, given: int, samples: int) -> None:
    if given not in (1, samples):
        raise _refused(f"{what} are {given} in number; there are {samples} samples")


# --- rows


def stacked(layer: Layer, rows: Sequence[tuple[Sequence[Change], int]]) -> tuple[Mask, Array, Array | None]:
    """What a program edits in its rows, each the changes of an intervention and a sample: mask, values and, where a
    row has some, scales; `[rows, *unit]`.

    Changes of one layer follow each other: what is replaced may be scaled, and what is scaled replaced.
    """
    parts = [_of_row(layer, changes, sample) for changes, sample in rows]
    masks, values = np.stack([mask for mask, _, _ in parts]), np.stack([value for _, value, _ in parts])
    if all(scale is None for *_, scale in parts):
        return masks, values, None
    ones = [np.ones(mask.shape, layer.kind) if scale is None else scale for mask, _, scale in parts]
    return masks, values, np.stack(ones)


def _of_row(layer: Layer, changes: Sequence[Change], sample: int) -> tuple[Mask, Array, Array | None]:
    unit = layer.units[sample].shape
    own = [change for change in changes if change.layer == layer.name]
    if len(own) == 1 and own[0].value is not None:
        return own[0].mask(sample), own[0].value(sample), None
    mask, value = np.zeros(unit, np.bool_), np.full(unit, "" if layer.kind.kind == "O" else 0, layer.kind)
    scale: NDArray[Any] | None = None
    for change in own:
        chosen = change.mask(sample)
        if change.value is not None:
            mask |= chosen
            value[chosen] = change.value(sample)[chosen]
            continue
        if scale is None:
            scale = np.ones(unit, layer.kind)
        factor = layer.kind.type(change.scale)
        value[chosen] = (value[chosen] * factor).astype(layer.kind)
        scale[chosen] = (scale[chosen] * factor).astype(layer.kind)
    return mask, value, scale


@contextmanager
def _named(number: int, layer: str) -> Iterator[None]:
    """Says in a refusal which intervention and layer it is about."""
    try:
        yield
    except InvalidArgument as error:
        raise InvalidArgument(
            f"interventions[{number}], layer {layer!r}: {error.message}",
            reason=Reason.LAYER_INVALID,
            layer=layer,
            intervention=number,
        ) from None


def _words(kind: np.dtype[Any]) -> str:
    return "text" if kind.kind == "O" else kind.name


def _refused(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason=Reason.LAYER_INVALID)
