"""Proves which axis of each tensor holds the samples, so that many rows can share a run.

A declaration proves nothing: a dynamic first axis is often the sequence, and a freed reshape may mix samples. So rows
are run together and one by one, three and five of them, and compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, ModelError
from onnx_attribution.graph_tools.free import CannotFree, free
from onnx_attribution.graph_tools.load import Runner
from onnx_attribution.graph_tools.normalise import same_values, typed
from onnx_attribution.values import Array, BatchMode

COUNTS = (3, 5)
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class RowAxis:
    """Where the rows of a tensor lie: along `axis`, `factor` neighbouring elements for each row."""

    axis: int
    factor: int = 1

    def first(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """The array as `[rows, *unit]`; neighbouring elements of one row become the first axis of its unit."""
        front = np.moveaxis(array, self.axis, 0)
        return front if self.factor == 1 else front.reshape(-1, self.factor, *front.shape[1:])

    def back(self, rows: NDArray[Scalar]) -> NDArray[Scalar]:
        """The inverse of `first`."""
        front = rows if self.factor == 1 else rows.reshape(-1, *rows.shape[2:])
        return np.moveaxis(front, 0, self.axis)


@dataclass(frozen=True)
class Network:
    """A model with what is proven of its batch.

    `input_axes` maps every input to its batch axis; None: shared by all rows. `rows` maps the tensors proven so far
    to where their rows lie; None: the tensor holds no separable rows. `unit_shapes` are shapes at one row.
    """

    model: onnx.ModelProto
    batch: BatchMode
    input_axes: Mapping[str, int | None]
    example: Mapping[str, Array]
    rows: dict[str, RowAxis | None] = field(default_factory=dict)
    unit_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def prepare(
    model: onnx.ModelProto,
    run: Runner,
    example: Mapping[str, Array],
    axes: Mapping[str, int | None] | None = None,
    notes: Sequence[str] = (),
) -> Network:
    """The network with a batch as the proof decides: `dynamic` as it is, `freed` after rewriting, else `single`.

    `axes` states the batch axis of inputs that the file leaves in doubt.

    Raises:
        InvalidArgument: a stated axis is no axis of that input.
    """
    _check_stated(model, axes or {})
    told = list(notes)
    outputs = [o.name for o in model.graph.output]
    for candidate in _assignments(model, dict(axes or {})):
        fixed = _fixed(model, candidate)
        mode: BatchMode = "freed" if fixed else "dynamic"
        try:
            changed = typed(free(model, candidate), run, example) if fixed else model
            one = {n: _first(a, candidate.get(n)) for n, a in example.items()}
            network = Network(changed, mode, candidate, one, notes=tuple(told))
            prove(network, run, outputs)
        except CannotFree as error:
            told.append(f"the batch is not freed: {error}")
        except (ModelError, NotSeparable) as error:
            told.append(f"the batch is not {mode}: {str(error)[:160]}")
        else:
            return network
    shared = dict.fromkeys((x.name for x in model.graph.input), None)
    return Network(model, "single", shared, example, notes=tuple(told))


class NotSeparable(Exception):
    """Rows that share a run differ from rows that do not; the message names the output."""


def prove(network: Network, run: Runner, tensors: Sequence[str]) -> None:
    """Fills `network.rows` for `tensors`, by three and five rows against one by one.

    Raises:
        NotSeparable: an output of the file depends on the other rows. ModelError: the rows cannot share a run.
    """
    wanted = [name for name in dict.fromkeys(tensors) if name not in network.rows]
    if not wanted:
        return
    outputs = {o.name for o in network.model.graph.output}
    singles = [_row(network, seed) for seed in range(max(COUNTS))]
    alone = [run(network.model, row, wanted) for row in singles]
    together = {count: run(network.model, _stacked(network, singles[:count]), wanted) for count in COUNTS}
    for name in wanted:
        each, joined = [row[name] for row in alone], {count: together[count][name] for count in COUNTS}
        if not isinstance(each[0], np.ndarray):  # a sequence or map: one entry a row
            if not all(
                _same_entries(joined[count], [e for row in each[:count] for e in row]) for count in COUNTS
            ):
                raise NotSeparable(f"output {name!r} of rows that share a run differs from rows run alone")
            continue
        axis = _row_axis([each[0].shape, *[joined[count].shape for count in COUNTS]])
        separate = axis is not None and _same_rows(each, {c: _split(a, axis) for c, a in joined.items()})
        shared = axis is None and _same_rows(each, {c: [a] * c for c, a in joined.items()})
        if name in outputs and not separate and not shared:
            raise NotSeparable(f"output {name!r} of rows that share a run differs from rows run alone")
        network.rows[name] = axis if separate else None
        network.unit_shapes[name] = tuple(each[0].shape)


def _same_rows(alone: Sequence[Array], together: Mapping[int, Sequence[Array]]) -> bool:
    return all(same_values(row, alone[k]) for rows in together.values() for k, row in enumerate(rows))


def _same_entries(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Whether two sequences of maps or arrays agree."""
    as_arrays = [
        [np.asarray(list(e.values()) if isinstance(e, dict) else e) for e in part] for part in (found, wanted)
    ]
    return len(found) == len(wanted) and all(same_values(a, b) for a, b in zip(*as_arrays, strict=True))


def _split(array: Array, rows: RowAxis) -> list[Array]:
    """The parts of each row."""
    return np.split(array, array.shape[rows.axis] // rows.factor, axis=rows.axis)


def _row_axis(shapes: Sequence[tuple[int, ...]]) -> RowAxis | None:
    """The one axis that grows with the number of rows."""
    one, three, five = shapes
    if not len(one) == len(three) == len(five):
        return None
    grown = [k for k in range(len(one)) if not one[k] == three[k] == five[k]]
    if len(grown) != 1:
        return None
    axis = grown[0]
    if one[axis] and (three[axis], five[axis]) == (3 * one[axis], 5 * one[axis]):
        return RowAxis(axis, one[axis])
    return None


def _first(array: Array, axis: int | None) -> Array:
    """The first row: an example may hold several along an axis that turns out to be the batch."""
    return array if axis is None or axis >= array.ndim else np.take(array, [0], axis=axis)


def _row(network: Network, seed: int) -> dict[str, Array]:
    """One row like the example: normal floats, other values drawn from the example's; shared inputs as they are."""
    rng = np.random.default_rng(seed)
    return {
        name: network.example[name] if axis is None else _resampled(network.example[name], rng)
        for name, axis in network.input_axes.items()
    }


def _resampled(array: Array, rng: np.random.Generator) -> Array:
    if array.dtype.kind in "fV":
        return rng.normal(size=array.shape).astype(array.dtype)
    return rng.choice(array.reshape(-1), size=array.shape) if array.size else array


def _stacked(network: Network, rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Rows joined along the batch axis of each input."""
    return {
        name: rows[0][name] if axis is None else np.concatenate([row[name] for row in rows], axis=axis)
        for name, axis in network.input_axes.items()
    }


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    found = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in found]


def _fixed(model: onnx.ModelProto, axes: Mapping[str, int | None]) -> bool:
    """Whether some batch axis is a number in the file."""
    return any(
        isinstance(_dims(value)[axis], int)
        for value in model.graph.input
        if (axis := axes.get(value.name)) is not None
    )


def _assignments(model: onnx.ModelProto, stated: Mapping[str, int | None]) -> Iterator[dict[str, int | None]]:
    """Batch axes worth trying: the symbol of the first axis wherever it stands; then axes of size 1."""
    dims = {value.name: _dims(value) for value in model.graph.input if value.type.HasField("tensor_type")}
    if len(dims) < len(model.graph.input):
        return
    symbols = [shape[0] for shape in dims.values() if shape and isinstance(shape[0], str)]
    symbols += [d for shape in dims.values() for d in shape if isinstance(d, str)]
    tried: list[dict[str, int | None]] = []
    for symbol in dict.fromkeys(symbols[:1]):
        by_name: dict[str, int | None] = {
            name: next((k for k, d in enumerate(shape) if d == symbol), None) for name, shape in dims.items()
        }
        first: dict[str, int | None] = {
            name: axis
            if axis is not None
            else (0 if shape and (isinstance(shape[0], str) or shape[0] == 1) else None)
            for (name, shape), axis in zip(dims.items(), by_name.values(), strict=True)
        }
        tried += [by_name, first]
    ones: dict[str, int | None] = {
        name: next((k for k, d in enumerate(shape) if d == 1), None) for name, shape in dims.items()
    }
    leading: dict[str, int | None] = {
        name: 0 if shape and shape[0] == 1 else None for name, shape in dims.items()
    }
    tried += [leading, ones]
    seen: list[dict[str, int | None]] = []
    for assignment in tried:
        changed = {**assignment, **stated}
        if changed not in seen and any(axis is not None for axis in changed.values()):
            seen.append(changed)
            yield changed


def _check_stated(model: onnx.ModelProto, axes: Mapping[str, int | None]) -> None:
    known = {
        value.name: len(_dims(value)) for value in model.graph.input if value.type.HasField("tensor_type")
    }
    for name, axis in axes.items():
        if name not in known:
            raise InvalidArgument(
                f"no input {name!r}; the inputs are: {', '.join(known)}", reason="INPUT_UNKNOWN"
            )
        if axis is not None and not 0 <= axis < known[name]:
            raise InvalidArgument(f"input {name!r} has no axis {axis}; its rank is {known[name]}", input=name)
