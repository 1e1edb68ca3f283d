"""The inputs of a request: checked against the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from onnx_attribution.errors import InvalidArgument, NotFound, Reason
from onnx_attribution.graph_tools.read.sequences import require_steps
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import without_differences
from onnx_attribution.values import Array

Given = TypeVar("Given")


def checked_inputs(model: LoadedModel, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs as arrays of the model's types; every violation is told, not the first only."""
    if not isinstance(inputs, Mapping):
        raise InvalidArgument(
            "inputs map the name of every model input to an array", reason=Reason.INPUT_INVALID
        )
    wanted = {info.name: info for info in model.inputs}
    problems: list[tuple[Reason, str, str]] = []
    for name in wanted:
        if name not in inputs:
            problems.append((Reason.INPUT_MISSING, name, f"input {name!r} is missing"))
    checked: dict[str, Array] = {}
    for name, value in inputs.items():
        if name not in wanted:
            known = ", ".join(map(repr, wanted))
            problems.append(
                (Reason.INPUT_UNKNOWN, name, f"there is no input {name!r}; the inputs are {known}")
            )
            continue
        try:
            checked[name] = _checked(model, wanted[name].dtype, name, array_of(f"input {name!r}", value))
        except InvalidArgument as error:
            problems.append((error.reason, name, error.message))
    if problems:
        reasons = {reason for reason, _, _ in problems}
        raise InvalidArgument(
            "; ".join(text for _, _, text in problems),
            reason=problems[0][0] if len(reasons) == 1 else Reason.INPUT_INVALID,
            violations={f"inputs.{name}": text for _, name, text in problems},
        )
    require_steps(model.network.model, checked)
    return checked


def array_of(role: str, value: object) -> Array:
    """What is given as an array. Raises: InvalidArgument: it is ragged; `role` says what it is."""
    try:
        return np.asarray(value)
    except ValueError:
        raise InvalidArgument(
            f"{role} is ragged: its rows differ in length", reason=Reason.SHAPE_MISMATCH
        ) from None


def _checked(model: LoadedModel, kind: str, name: str, array: Array) -> Array:
    if kind == "string":
        if array.dtype.kind not in "OUST":
            raise InvalidArgument(
                f"input {name!r} has type {array.dtype.name}; the model takes strings",
                reason=Reason.DTYPE_MISMATCH,
            )
        array = array.astype(object)
    else:
        wanted = np.dtype(kind)
        floats = array.dtype.kind == "f" and wanted.kind in "fV"
        integers = array.dtype.kind in "iu" and wanted.kind in "iu"
        if array.dtype != wanted and not floats and not integers:
            raise InvalidArgument(
                f"input {name!r} has type {array.dtype.name}; the model takes {kind}",
                reason=Reason.DTYPE_MISMATCH,
            )
        cast = array.astype(wanted)
        if integers and not np.array_equal(cast, array):
            raise InvalidArgument(
                f"input {name!r} holds numbers outside {kind}", reason=Reason.DTYPE_MISMATCH
            )
        array = cast
    _check_shape(model, name, array)
    return array


def require_finite(method: str, sources: Sequence[str], inputs: Mapping[str, Array]) -> None:
    """Refuses NaN and infinite numbers at a source of a method that takes differences there; elsewhere they are legal,
    as minus infinity in a mask and NaN for what is missing.

    Raises:
        InvalidArgument: it names all such sources.
    """
    problems = {}
    for name in sources:
        array = inputs.get(name)
        if array is None or array.dtype.kind not in "fV":
            continue
        bad = ~np.isfinite(array.astype(np.float64))
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            problems[name] = (
                f"input {name!r} holds {int(bad.sum())} numbers that are NaN or infinite, the first at {first}"
            )
    if problems:
        others = [name for name in sources if name not in problems]
        way = f"name the other sources ({', '.join(map(repr, others))}), or " if others else ""
        raise InvalidArgument(
            f"{'; '.join(problems.values())}: {method} takes differences at its sources; {way}name a hidden tensor "
            f"where they are finite as the source, or take the method {without_differences()}",
            reason=Reason.NON_FINITE_INPUT,
            violations={f"inputs.{name}": text for name, text in problems.items()},
        )


def _check_shape(model: LoadedModel, name: str, array: Array) -> None:
    info = next(info for info in model.inputs if info.name == name)
    dims, axis = info.shape or (), info.batch_axis
    shape: tuple[int, ...] = array.shape
    stacked = model.network.batch == "single" and len(shape) == len(dims) + 1
    if stacked:
        shape = shape[1:]
    along = info.sample_axis(shape, model.network.batch)
    fits = len(shape) == len(dims) and all(
        k == along or not isinstance(d, int) or d == n
        for k, (d, n) in enumerate(zip(dims, shape, strict=False))
    )
    if fits and along is not None:
        fits = shape[along] == 1 if stacked else shape[along] > 0
    if not fits:
        shown = [("batch" if k == axis else d) for k, d in enumerate(dims)]
        raise InvalidArgument(
            f"input {name!r} has shape {list(array.shape)}; the model takes {shown}: {batch_words(model)}",
            reason=Reason.SHAPE_MISMATCH,
        )


def batch_words(model: LoadedModel) -> str:
    """Where the samples of the inputs lie, in words, and how to state something else."""
    axes = model.network.input_axes
    along = [f"axis {axis} of {name!r}" for name, axis in axes.items() if axis is not None]
    shared = [repr(x.name) for x in model.inputs if axes[x.name] is None and x.shape]
    if not along:
        return (
            "it is one sample, or several stacked in front, [samples, *shape]; where an axis of the file holds the "
            "samples, state it in batch_axes (--batch-axis NAME=AXIS)"
        )
    words = f"the samples lie along {', '.join(along)}"
    if shared:
        words += f", and all of them share {', '.join(shared)}"
    return f"{words}; where that is not meant, state the axes in batch_axes (--batch-axis NAME=AXIS or NAME=none)"


def shared_by_all(model: LoadedModel, inputs: Mapping[str, Array]) -> list[str]:
    """The inputs with several entries along an open first axis that all samples share: it could hold samples too."""
    axes = model.network.input_axes
    if all(axis is None for axis in axes.values()):
        return []
    return [
        info.name
        for info in model.inputs
        if axes[info.name] is None and info.shape and isinstance(info.shape[0], str)
        if len(inputs[info.name]) > 1
    ]


def by_tensor(model: LoadedModel, given: Mapping[str, Given], reason: Reason) -> dict[str, Given]:
    """What is given for names, by tensor. Raises: InvalidArgument of this reason: no tensor has the name."""
    inputs = model.network.input_axes
    try:
        return {n if n in inputs else model.tensor(n): value for n, value in given.items()}
    except NotFound as error:
        word = "baseline" if reason == Reason.BASELINE_INVALID else "group or window"
        raise InvalidArgument(f"a {word} has no tensor: {error}", reason=reason) from error
