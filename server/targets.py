"""The target as weights: 1 at the explained element of each sample, -1 at one that is subtracted, 0 elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.graph_tools import select
from onnx_attribution.graph_tools.batch import RowAxis
from onnx_attribution.graph_tools.emit import holds_numbers
from onnx_attribution.server.loaded import LoadedModel
from onnx_attribution.values import Array, AttributionRequest, Index, Selector


def chosen(model: LoadedModel, request: AttributionRequest) -> tuple[str, int | None, list[str]]:
    """The target tensor, the axis of its classes where it is known, and what to say about it."""
    wanted, before = request.target.tensor, []
    if request.method == "occlusion":
        target = _number_tensor(model, wanted)
        if wanted is None and target not in select.float_outputs(model.graph):
            before = [f"no output holds floats; the target is {target!r}"]
    else:
        target = select.target_tensor(model.graph, None if wanted is None else model.tensor(wanted))
    found = select.logit_of(model.graph, target)
    if request.target.logit:
        if found is None:
            raise InvalidArgument(
                f"the target {target!r} is not made by a Softmax, LogSoftmax or Sigmoid, so that it has no logit",
                reason="TARGET_INVALID", target=target,
            )  # fmt: skip
        return found.tensor, found.axis, before
    if found is None or all(target != out.name for out in model.graph.outputs):
        return target, None, before
    return target, found.axis, [
        *before,
        f"the target {target!r} is made by {found.operator}, which saturates; recommended is its logit {found.tensor!r}"
    ]  # fmt: skip


def _number_tensor(model: LoadedModel, name: str | None) -> str:
    """A target of which no derivative is taken: the named tensor, or the float output, or the floats before outputs.

    Raises:
        InvalidArgument: several float outputs and no name, or the tensor is a constant or holds no numbers.
    """
    name = name or model.default_target()
    if name is None:
        return select.target_tensor(model.graph, None)
    found = model.tensor(name)
    value = model.graph.tensors()[found]
    if isinstance(value, gs.Constant) or not holds_numbers(value):
        listed = ", ".join(x.name for x in model.outputs if x.shape is not None and x.dtype != "string")
        raise InvalidArgument(
            f"the target {found!r} is no tensor of numbers that depends on the inputs; the outputs that are tensors: "
            f"{listed or 'none'}",
            reason="TARGET_INVALID", target=found,
        )  # fmt: skip
    return found


def units(array: Array, rows: RowAxis | None) -> NDArray[np.float64]:
    """The target tensor as `[samples, *unit]`."""
    wide = array.astype(np.float64)
    if rows is not None:
        return rows.first(wide)
    return wide if wide.ndim > 1 and wide.shape[0] == 1 else wide[None]


def stacked(found: Sequence[Array], rows: RowAxis | None) -> NDArray[np.float64]:
    """The target tensor of several runs as `[samples, *unit]`.

    Raises:
        InvalidArgument: its shape differs between samples.
    """
    parts = [units(array, rows) for array in found]
    _check_unit({part.shape[1:] for part in parts})
    return np.concatenate(parts)


def values(found: Sequence[Array], rows: RowAxis | None, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The target per sample: the elements of several runs, weighted by `[samples, *unit]`.

    Raises:
        InvalidArgument: the tensor has not the shape that it has at x.
    """
    parts = stacked(found, rows)
    _check_unit({parts.shape[1:], weights.shape[1:]})
    return dot(parts, weights)


def _check_unit(shapes: set[tuple[int, ...]]) -> None:
    if len(shapes) > 1:
        listed = " and ".join(str(list(shape)) for shape in sorted(shapes))
        raise InvalidArgument(
            f"the target's shape depends on the values of the inputs: {listed}"
            "; name a tensor of one shape, such as the scores before a selection",
            reason="TARGET_INVALID",
        )  # fmt: skip


def dot(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    chosen = (
        np.where(weights == 0, 0, values * weights) if np.isfinite(values).all() else _masked(values, weights)
    )
    return per_sample(chosen)


def per_sample(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum over the elements of each sample."""
    return np.asarray(values.reshape(len(values), -1).sum(axis=1))


def _masked(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.multiply(values, weights, out=np.zeros_like(values), where=weights != 0)


def weights(
    values: NDArray[np.float64], index: Selector | Sequence[Selector], role: str
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """1 at the selected elements of each sample, 0 elsewhere, and the selection in words."""
    count, unit = len(values), values.shape[1:]
    selectors = _per_sample(index, count, role)
    weights = np.zeros_like(values)
    words: list[str] = []
    for k, selector in enumerate(selectors):
        place = _place(selector, values[k], unit)
        weights[(k, *place)] = 1
        words.append(",".join(_word(i) for i in place) if place else "()")
    return weights, tuple(words)


def centred(weights: NDArray[np.float64], axis: int | None) -> NDArray[np.float64]:
    """The weights less their mean over the classes; `axis` is that of the tensor, with its batch axis."""
    if axis is None and weights.ndim != 2:
        raise InvalidArgument(
            f"the target has shape {list(weights.shape[1:])} for each sample; mean_centred needs one axis of classes",
            reason="TARGET_INVALID",
        )
    return np.asarray(weights - weights.mean(axis=-1 if axis is None else axis, keepdims=True))


def _per_sample(index: Selector | Sequence[Selector], count: int, role: str) -> list[Selector]:
    if isinstance(index, np.ndarray):
        index = index.tolist()
    if not isinstance(index, list):
        return [index] * count  # type: ignore[list-item]
    if len(index) not in (1, count):
        raise InvalidArgument(
            f"the target has {len(index)} entries in {role}; there are {count} samples",
            reason="TARGET_INVALID",
        )
    chosen = [tuple(e) if isinstance(e, list) else e for e in index]
    return chosen * count if len(chosen) == 1 else chosen


def _place(selector: Selector, value: NDArray[np.float64], unit: tuple[int, ...]) -> tuple[Index, ...]:
    """The selection as one index per axis of the unit."""
    if selector is None:
        if value.size == 1:
            return (0,) * len(unit)
        if len(unit) == 1:
            return (int(np.argmax(value)),)
        raise InvalidArgument(
            f"the target has shape {list(unit)} for each sample; name an element or a region",
            reason="TARGET_INVALID",
        )
    parts = selector if isinstance(selector, tuple) else (selector,)
    if len(parts) != len(unit):
        raise InvalidArgument(
            f"the target index has {len(parts)} parts; the target has shape {list(unit)} for each sample",
            reason="TARGET_INVALID",
            rank=len(unit),
        )
    place: list[Index] = []
    for axis, (part, size) in enumerate(zip(parts, unit, strict=True)):
        if isinstance(part, slice):
            if not all(
                isinstance(b, (int, np.integer, type(None))) and not isinstance(b, bool)
                for b in (part.start, part.stop, part.step)
            ):
                raise InvalidArgument(
                    f"the target region {part} has bounds that are no integers", reason="TARGET_INVALID"
                )
            if part.step == 0:
                raise InvalidArgument("the target region has step 0", reason="TARGET_INVALID")
            if len(range(*part.indices(size))) == 0:
                raise InvalidArgument(
                    f"the target region is empty along axis {axis}", reason="TARGET_INVALID"
                )
            place.append(part)
            continue
        if not isinstance(part, (int, np.integer)) or isinstance(part, bool):
            raise InvalidArgument(f"the target index {part!r} is no integer", reason="TARGET_INVALID")
        if not -size <= part < size:
            raise InvalidArgument(
                f"the target index {part} is out of range along axis {axis}; legal are 0 to {size - 1}",
                reason="TARGET_INVALID", legal=f"0..{size - 1}",
            )  # fmt: skip
        place.append(int(part) % size)
    return tuple(place)


def _word(index: Index) -> str:
    if not isinstance(index, slice):
        return str(index)
    parts = ["" if index.start is None else str(index.start), "" if index.stop is None else str(index.stop)]
    return ":".join(parts + ([str(index.step)] if index.step not in (None, 1) else []))
