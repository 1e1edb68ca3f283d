"""A network: a model with what is known of its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_attribution.graph_tools.ir.shapes import dims_of
from onnx_attribution.values import Array, BatchMode

Scalar = TypeVar("Scalar", bound=np.generic)
Axes = Mapping[str, int | None]


@dataclass(frozen=True)
class RowAxis:
    """Where the rows of a tensor lie: along `axis`, `factor` neighbouring elements for each row."""

    axis: int
    factor: int = 1

    def first(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """The array as `[rows, *unit]`; neighbouring elements of one row become the first axis of its unit."""
        front = np.moveaxis(array, self.axis, 0) if self.axis else array
        return front if self.factor == 1 else front.reshape(-1, self.factor, *front.shape[1:])

    def back(self, rows: NDArray[Scalar]) -> NDArray[Scalar]:
        """The inverse of `first`."""
        front = rows if self.factor == 1 else rows.reshape(-1, *rows.shape[2:])
        return np.moveaxis(front, 0, self.axis)


@dataclass(frozen=True)
class Network:
    """A model with what is proven of its batch.

    `input_axes` maps every input to the axis of its samples; None: shared by all of them. `places` maps the tensors
    looked at so far to where their rows lie, and `rows` those whose rows are proven not to depend on each other; None:
    nowhere. `shared` are the tensors proven to be the same for all rows. `unit_shapes` are shapes at one row.
    """

    model: onnx.ModelProto
    batch: BatchMode
    input_axes: Axes
    example: Mapping[str, Array]
    rows: dict[str, RowAxis | None] = field(default_factory=dict)
    unit_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    places: dict[str, RowAxis | None] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    """The declared shape: numbers, and names of dimensions, "" where there is none."""
    return ["" if d is None else d for d in dims_of(value) or ()]
