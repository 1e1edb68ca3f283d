"""The sources at x': what a request says of them, or zeros; one point or several references for each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.graph_tools.ir.reach import ancestors
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.server.engine.models.forward import forward
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Recipe
from onnx_attribution.server.engine.request.inputs import array_of, by_tensor
from onnx_attribution.server.engine.request.samples import Samples
from onnx_attribution.values import (
    Array,
    AttributionRequest,
    Baseline,
    References,
)

SHOWN = 5  # samples that a warning lists


def baselines_of(
    model: LoadedModel,
    request: AttributionRequest,
    recipe: Recipe,
    sources: Sequence[str],
    samples: Samples,
    warnings: list[str],
) -> list[dict[str, Array]]:
    """The sources at x', one entry a run of the samples.

    Raises:
        InvalidArgument: a baseline of the wrong type or shape, or for what is no source.
    """
    if not isinstance(request.baselines, Mapping):
        raise _refused("baselines map the name of a source to an array, a number or References")
    inputs = model.network.input_axes
    given = by_tensor(model, request.baselines, Reason.BASELINE_INVALID)
    hidden = [s for s in sources if s not in inputs]
    nodes = model.nodes
    leading = {s: [n for n in inputs if n in ancestors(nodes, [s])] for s in hidden}
    for name in given:
        if name not in sources and not any(name in leads for leads in leading.values()):
            raise _refused(
                f"{name!r} has a baseline but is no source"
                f"{', nor does it lead to one' if name in inputs and hidden else ''}; the sources are "
                f"{', '.join(map(repr, sources))}",
                name=name,
            )
    count = len(samples.runs)
    interpolated = sources if recipe.takes_differences else ()

    def at_reference(name: str, k: int) -> Array:
        value, like = given.get(name), samples.runs[k].x[name]
        if isinstance(value, References):
            value = _picked(model, name, value, like, samples, k)
        return _broadcast(name, value, like, k, count, name in interpolated)

    def zeros(name: str) -> None:
        warnings.append(f"the baseline of {name!r} is zeros at {name!r}")
        for k, run in enumerate(samples.runs):
            result[k][name] = _broadcast(name, None, run.x[name], k, count, True)

    result: list[dict[str, Array]] = [{} for _ in samples.runs]
    floats = [
        info.name for info in model.inputs if info.dtype in ("float32", "float64", "float16", "bfloat16")
    ]
    for name in sources:
        if name in given or name in inputs:
            for k in range(count):
                result[k][name] = at_reference(name, k)
            continue
        told = [n for n in leading[name] if n in given]
        moved = told or [n for n in leading[name] if n in floats]
        if not moved:
            zeros(name)
            continue
        for k, run in enumerate(samples.runs):
            at = {n: run.x[n] for n in inputs} | {n: at_reference(n, k) for n in moved}
            result[k][name] = forward(model, at, [name], where="at the baseline")[name]
        listed = ", ".join(map(repr, moved))
        if not told and all(
            _same(low[name], run.x[name]) for low, run in zip(result, samples.runs, strict=True)
        ):
            warnings.append(f"{name!r} is at the baseline of {listed} what it is at the input")
            zeros(name)
        else:
            warnings.append(f"the baseline of {name!r} is its activation at the baseline of {listed}")
    if recipe.needs_reference:
        warnings += _unmoved(sources, samples.filled(baselines=result))
    return result


def _same(left: Array, right: Array) -> bool:
    """Whether two arrays are equal, NaN for NaN."""
    if left.shape != right.shape:
        return False
    both_nan = (left != left) & (right != right)
    return bool(np.all((left == right) | both_nan))


def _unmoved(sources: Sequence[str], samples: Samples) -> list[str]:
    """The sources that are at x' what they are at x, so that no change is to be explained."""
    found = []
    for name in sources:
        ends = [[samples.first(name, of[name]) for of in (run.x, run.baselines)] for run in samples.runs]
        if not any(high.size for high, _ in ends):
            continue
        equal = np.array([_same(*one) for high, low in ends for one in zip(high, low, strict=True)])
        each = equal.reshape(-1, samples.references).all(axis=1)
        if each.any():
            which = "" if each.all() else f" in sample {', '.join(map(str, np.flatnonzero(each)[:SHOWN]))}"
            more = ", ..." if not each.all() and each.sum() > SHOWN else ""
            found.append(
                f"the baseline of {name!r} is the input itself{which}{more}: nothing is attributed to it; give "
                "another baseline"
            )
    return found


def references_of(request: AttributionRequest) -> int:
    """How many references each sample has.

    Raises:
        InvalidArgument: sources have different numbers of them, or one has none.
    """
    given = request.baselines if isinstance(request.baselines, Mapping) else {}
    counts: dict[str, int] = {}
    for name, value in given.items():
        if isinstance(value, References):
            array = array_of(f"the references of {name!r}", value.values)
            axis = 1 if value.per_sample else 0
            if array.ndim <= axis or not array.shape[axis]:
                lead = "[samples, references, ...]" if value.per_sample else "[references, ...]"
                raise _refused(
                    f"the references of {name!r} have shape {list(array.shape)}; it must be {lead}", name=name
                )
            counts[name] = array.shape[axis]
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r}: {count}" for name, count in counts.items())
        raise _refused(f"the sources have different numbers of references: {listed}")
    return next(iter(counts.values()), 1)


def _picked(
    model: LoadedModel,
    name: str,
    value: References,
    like: Array,
    samples: Samples,
    run: int,
) -> Array:
    """The references of the samples of a run, which `like` holds, in its layout."""
    references = samples.references
    axis = model.network.input_axes.get(name, 0)
    if axis is None and model.network.batch != "single":
        raise _refused(
            f"all samples share {name!r}, so that it has one baseline, not {references}", name=name
        )
    place = samples.place(name) if samples.together else None
    place = place or RowAxis(axis or 0)
    array = np.asarray(value.values)
    lead = ["samples", "references"] if value.per_sample else ["references"]
    own = array.shape[len(lead) :]
    whole = not samples.together and (model.network.batch == "single" or len(own) == like.ndim)
    unit = like.shape if whole else place.first(like).shape[1:]
    if not _fits(own, unit):
        raise _refused(
            f"the references of {name!r} have shape {list(array.shape)}; they must broadcast to "
            f"[{', '.join([*lead, *map(str, unit)])}]",
            name=name,
        )
    count = samples.count // references
    if value.per_sample and len(array) != count:
        raise _refused(f"{name!r} has references of {len(array)} samples; there are {count}", name=name)
    array = array.reshape(*array.shape[: len(lead)], *[1] * (len(unit) - len(own)), *own)
    part = np.stack(
        [
            np.broadcast_to((array[k // references] if value.per_sample else array)[k % references], unit)
            for k in samples.numbers(run)
        ]
    )
    return part[0] if whole else place.back(part)


def _fits(shape: Sequence[int], unit: Sequence[int]) -> bool:
    """Whether arrays of the shape broadcast to the unit."""
    try:
        return np.broadcast_shapes(tuple(shape), tuple(unit)) == tuple(unit)
    except ValueError:
        return False


def _broadcast(name: str, value: Baseline | None, like: Array, index: int, count: int, finite: bool) -> Array:
    """A baseline in the shape and type of the sample; by default zeros, and empty text."""
    text = like.dtype.kind == "O"
    array = array_of(f"the baseline of {name!r}", ("" if text else 0) if value is None else value)
    if array.dtype.kind not in ("OUST" if text else "fiub"):
        kind = "text" if text else like.dtype.name
        raise _refused(
            f"the baseline of {name!r} has type {array.dtype.name}; {name!r} holds {kind}", name=name
        )
    if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _refused(f"the baseline of {name!r} holds NaN or infinite numbers")
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is refused
        cast = array.astype(like.dtype)
    if like.dtype.kind in "iub":
        fits = np.array_equal(cast, array)
    else:
        fits = text or bool((np.isfinite(cast.astype(np.float64)) == np.isfinite(array)).all())
    if not fits:
        raise _refused(
            f"the baseline of {name!r} holds numbers outside {like.dtype.name}, which {name!r} holds",
            name=name,
        )
    array = cast
    if array.ndim == like.ndim + 1 and len(array) in (1, count):
        array = array[index if len(array) > 1 else 0]
    elif count > 1 and array.ndim == like.ndim > 0 and array.shape[0] == count and like.shape[0] == 1:
        array = array[index : index + 1]
    try:
        return np.array(np.broadcast_to(array, like.shape), order="C")
    except ValueError:
        raise _refused(
            f"the baseline of {name!r} has shape {list(array.shape)}; it must broadcast to {list(like.shape)}",
            name=name,
        ) from None


def _refused(message: str, **details: Any) -> InvalidArgument:
    return InvalidArgument(message, reason=Reason.BASELINE_INVALID, **details)
