"""Runs of a model as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from onnx_attribution.errors import InvalidArgument, ModelError, Reason
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.graph_tools.programs.forward import forward_program
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import Array


def forward(
    model: LoadedModel,
    inputs: Mapping[str, Array],
    tensors: Sequence[str],
    hidden: Sequence[str] = (),
    *,
    where: str = "on these inputs",
) -> dict[str, Array]:
    """The named tensors at the inputs; `hidden` tensors are given like inputs.

    Raises:
        InvalidArgument: the model cannot be run on them; `where` says in words what they are.
    """
    key = ("forward", tuple(tensors), tuple(hidden))
    session = model.session(key, lambda: forward_program(model.network, tensors, hidden))
    try:
        found = session.run(dict(inputs))
    except ModelError as error:
        raise _input_error(model, inputs, error, where) from error
    found = {name: found.get(name, found.get(f"output/{name}", np.empty(0))) for name in tensors}
    if not any(a.dtype.kind in "fV" and np.isnan(a).any() for a in found.values()):
        return found
    return _alone(model, inputs, tensors, hidden, where) or found


def moved(
    model: LoadedModel,
    x: Mapping[str, Array],
    given: Mapping[str, Array],
    tensors: Iterable[str],
    *,
    where: str = "on these inputs",
) -> dict[str, Array]:
    """The named tensors at x but for the tensors `given`, which may be hidden ones, and may be named themselves."""
    hidden = [name for name in given if name not in model.network.input_axes]
    names = list(dict.fromkeys(name for name in tensors if name not in given))
    found = forward(model, {**x, **given}, names, hidden, where=where) if names else {}
    return {**found, **given}


def _alone(
    model: LoadedModel, inputs: Mapping[str, Array], tensors: Sequence[str], hidden: Sequence[str], where: str
) -> dict[str, Array]:
    """The tensors of each sample run alone: what samples share, such as a maximum, is NaN where one holds NaN.

    Empty where the inputs hold one sample, or samples of a tensor cannot be told apart.
    """
    axes = model.network.input_axes
    places = {n: RowAxis(axis) for n, axis in axes.items() if axis is not None}
    places |= {n: rows for n, rows in model.network.rows.items() if rows is not None}
    lead = next((n for n in inputs if n in places), None)
    count = 1 if lead is None else inputs[lead].shape[places[lead].axis] // places[lead].factor
    if count == 1 or not all(name in places for name in tensors):
        return {}
    parts = [
        forward(
            model, {n: taken(a, places.get(n), [k]) for n, a in inputs.items()}, tensors, hidden, where=where
        )
        for k in range(count)
    ]
    return {n: np.concatenate([part[n] for part in parts], axis=places[n].axis) for n in tensors}


def taken(array: Array, rows: RowAxis | None, samples: Sequence[int]) -> Array:
    """The rows of these samples; the whole array where all samples share it."""
    if rows is None:
        return array
    if rows.factor == 1:
        return np.take(array, samples, axis=rows.axis)
    places = np.asarray(samples)[:, None] * rows.factor + np.arange(rows.factor)
    return np.take(array, places.reshape(-1), axis=rows.axis)


_INDEX = re.compile(r"idx=(-?\d+) must be within the inclusive range \[(-?\d+),(-?\d+)\]")


def _input_error(
    model: LoadedModel, inputs: Mapping[str, Array], error: ModelError, where: str
) -> InvalidArgument:
    """The failure of a run as one of what was given: for an index out of range, the input that holds it."""
    found, detail = _INDEX.search(error.message), error.metadata.get("detail", error.message)
    if found is None:
        alike = "; ".join(model.unequal(inputs))
        hint = f" ({alike}; the file calls the two sizes alike)" if alike else ""
        return InvalidArgument(
            f"the model cannot be run {where}: {detail}{hint}", reason=Reason.INPUT_INVALID
        )
    index, high = int(found[1]), int(found[3])
    node = detail[: detail.find(":")]
    holders = [
        n for n, a in inputs.items() if n in model.network.input_axes and a.dtype.kind in "iu" and index in a
    ]
    holder = " or ".join(f"input {name!r}" for name in holders) or "an index that it computes"
    text = f"{holder} holds {index}; {node} looks up 0 to {high}"
    return InvalidArgument(
        f"the model cannot be run {where}: {text}",
        reason=Reason.INPUT_INVALID,
        violations={f"inputs.{name}": text for name in holders},
        legal=f"0..{high}",
        actual=index,
    )
