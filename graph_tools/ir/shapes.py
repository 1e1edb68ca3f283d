"""The sizes that a file declares, and samples of larger ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from onnx_attribution.values import Array

Dim = int | str | None
Dims = tuple[Dim, ...]
GROWN = 1 << 22  # elements of the inputs of a run at larger sizes
APART = 8  # symbols that are grown each alone


def dims_of(value: onnx.ValueInfoProto) -> Dims | None:
    """The sizes of a tensor: numbers, names, or None where there is neither; None where the rank is unknown."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim)


def set_dims(value: onnx.ValueInfoProto, dims: Sequence[Dim] | None) -> None:
    """Declares, in place, the sizes of a tensor; None: not even its rank."""
    kind = value.type.tensor_type
    kind.ClearField("shape")
    if dims is None:
        return
    kind.shape.SetInParent()
    for size in dims:
        dim = kind.shape.dim.add()
        if isinstance(size, int):
            dim.dim_value = size
        elif size:
            dim.dim_param = size


def growths(model: onnx.ModelProto, sample: Mapping[str, Array]) -> Iterator[tuple[dict[str, Array], bool]]:
    """Larger samples, and whether one is enough: all symbols grown together, then each alone."""
    symbols = [name for name, size in sizes_of(model, sample).items() if size]
    if not symbols:
        return
    together = grown(model, sample, {name: 2 + k % 2 for k, name in enumerate(symbols)})
    if sum(a.size for a in together.values()) <= GROWN or len(symbols) == 1:
        yield together, True
    if len(symbols) > 1:
        yield from ((grown(model, sample, {name: 2}), False) for name in symbols[:APART])


def sizes_of(model: onnx.ModelProto, sample: Mapping[str, Array]) -> dict[str, int | None]:
    """The size of each symbol of the inputs; None where they disagree."""
    sizes: dict[str, int | None] = {}
    for value in model.graph.input:
        for dim, size in zip(dims_of(value) or (), np.shape(sample[value.name]), strict=False):
            if isinstance(dim, str):
                sizes[dim] = size if sizes.get(dim, size) == size else None
    return sizes


def grown(
    model: onnx.ModelProto, sample: Mapping[str, Array], factors: Mapping[str, int]
) -> dict[str, Array]:
    """The sample repeated along the input dimensions of these names."""
    larger = dict(sample)
    for value in model.graph.input:
        for axis, dim in enumerate(dims_of(value) or ()):
            if isinstance(dim, str) and dim in factors and axis < np.ndim(sample[value.name]):
                larger[value.name] = np.concatenate([larger[value.name]] * factors[dim], axis=axis)
    return larger
