"""The data set of an audit: samples by name, with what they are labelled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.values import Array, BatchMode, TensorInfo


@dataclass(frozen=True)
class Item:
    """One sample: its inputs, each with a batch of one, and its label, if it has one: a class's index or its name.

    `mask` says where in it the reason for its class is known to lie, in the shape of the sample or of its positions.
    """

    id: str
    inputs: Mapping[str, Array]
    label: int | str | None = None
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Dataset:
    """Samples in their order. `features` has by input the names of its columns."""

    name: str
    items: Sequence[Item]
    features: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def digest(self) -> str:
        """A SHA-256 of all arrays, labels and names."""
        found = hashlib.sha256()
        for item in self.items:
            found.update(f"{item.id}\0{item.label!r}\0".encode())
            masks = {} if item.mask is None else {"\0mask": item.mask}
            for name, array in sorted({**item.inputs, **masks}.items()):
                found.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
                text = array.dtype.kind in "OUST"
                found.update(
                    "\0".join(map(str, array.ravel())).encode()
                    if text
                    else np.ascontiguousarray(array).tobytes()
                )
        return found.hexdigest()

    def label_index(self, k: int, classes: Sequence[str], count: int | None = None) -> int | None:
        """The label of a sample as the index of one of `count` classes, if that is known; None where it has none, or
        one that is no class."""
        label = self.items[k].label
        if isinstance(label, str):
            if label in classes:
                return list(classes).index(label)
            label = int(label) if label.isdecimal() else None
        count = count or len(classes) or None
        return label if label is not None and label >= 0 and (count is None or label < count) else None


def joined(name: str, parts: Sequence[Array], info: TensorInfo, batch: BatchMode | None) -> Array:
    """The parts of one input, samples or runs of them, as one array.

    Raises:
        InvalidArgument: their shapes do not join, or all samples share the input.
    """
    whole = [_with_batch(part, info) for part in parts]
    if len(whole) == 1:
        return whole[0]
    if info.batch_axis is None and batch != "single":
        raise InvalidArgument(
            f"all samples share input {name!r}, so that it has one file, not {len(whole)}",
            reason=Reason.INPUT_INVALID,
        )
    if info.batch_axis is None:  # each in front
        rank = len(info.shape or ())
        whole = [part if part.ndim > rank else part[None] for part in whole]
    try:
        return np.concatenate(whole, axis=info.batch_axis or 0)
    except ValueError:
        listed = ", ".join(str(list(part.shape)) for part in parts)
        raise InvalidArgument(
            f"the files of input {name!r} have shapes that do not join: {listed}",
            reason=Reason.SHAPE_MISMATCH,
        ) from None


def same(one: Array, other: Array) -> bool:
    """Whether two arrays hold the same, NaN where the other has it too."""
    floats = one.dtype.kind in "fc" and other.dtype.kind in "fc"
    return one is other or bool(np.array_equal(one, other, equal_nan=floats))


def _with_batch(array: Array, info: TensorInfo) -> Array:
    """An array of one rank less is one sample; without a batch axis, one that only lacks a leading axis of size 1."""
    shape = info.shape
    if shape is None or array.ndim != len(shape) - 1:
        return array
    if info.batch_axis is not None:
        return np.expand_dims(array, info.batch_axis)
    fits = all(not isinstance(d, int) or d == n for d, n in zip(shape[1:], array.shape, strict=True))
    return array[None] if shape[0] == 1 and fits else array
