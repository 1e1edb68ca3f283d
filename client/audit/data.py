"""The data set of an audit: samples by name, with what they are labelled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_attribution.values import Array


@dataclass(frozen=True)
class Item:
    """One sample: its inputs, each with a batch of one, and its label, if it has one: a class's index or its name."""

    id: str
    inputs: Mapping[str, Array]
    label: int | str | None = None


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
            for name, array in sorted(item.inputs.items()):
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
