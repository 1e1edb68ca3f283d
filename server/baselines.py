"""The sources at x': what a request says of them, or zeros; one point or several references for each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.graph_tools import select
from onnx_attribution.graph_tools.batch import RowAxis
from onnx_attribution.server.forward import forward
from onnx_attribution.server.inputs import array_of, by_tensor
from onnx_attribution.server.loaded import LoadedModel
from onnx_attribution.values import Array, AttributionRequest, Baseline, References


def baselines_of(
    model: LoadedModel,
    request: AttributionRequest,
    sources: Sequence[str],
    samples: Sequence[Mapping[str, Array]],
    rows: Mapping[str, RowAxis | None],
    references: int,
    warnings: list[str],
) -> list[dict[str, Array]]:
    """The sources at x', like the samples, which hold every sample once for each of its `references`.

    `rows` says where the samples lie in what they share; it is empty where they are run one by one.

    Raises:
        InvalidArgument: a baseline of the wrong type or shape, or for what is no source.
    """
    if not isinstance(request.baselines, Mapping):
        raise InvalidArgument(
            "baselines map the name of a source to an array, a number or References",
            reason="BASELINE_INVALID",
        )
    inputs = model.network.input_axes
    given = by_tensor(model, request.baselines, "BASELINE_INVALID")
    nodes = list(model.graph.nodes)
    made_of = {s: select.ancestors(nodes, [s]) & set(inputs) for s in sources if s not in inputs}
    for name in given:
        if name not in sources and not any(name in behind for behind in made_of.values()):
            raise InvalidArgument(
                f"{name!r} has a baseline but is no source; the sources are {', '.join(map(repr, sources))}",
                reason="BASELINE_INVALID", name=name,
            )  # fmt: skip

    def at_reference(name: str, k: int) -> Array:
        value, like = given.get(name), samples[k][name]
        if isinstance(value, References):
            value = _picked(model, name, value, like, k, len(samples) // references, references, rows)
        return _broadcast(name, value, like, k, len(samples))

    result: list[dict[str, Array]] = [{} for _ in samples]
    floats = [
        info.name for info in model.inputs if info.dtype in ("float32", "float64", "float16", "bfloat16")
    ]
    for name in sources:
        moved = [n for n in made_of.get(name, ()) if n in given or (n in floats and not given)]
        moved.sort(key=list(inputs).index)
        if name in given or name in inputs or not moved:
            if name not in given and name not in inputs:
                warnings.append(f"the baseline of {name!r} is zeros at {name!r}")
            for k in range(len(samples)):
                result[k][name] = at_reference(name, k)
            continue
        warnings.append(
            f"the baseline of {name!r} is its activation at the baseline of {', '.join(map(repr, moved))}"
        )
        for k, sample in enumerate(samples):
            at = {n: sample[n] for n in inputs} | {n: at_reference(n, k) for n in moved}
            result[k][name] = forward(model, at, [name], where="at the baseline")[name]
    return result


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
                raise InvalidArgument(
                    f"the references of {name!r} have shape {list(array.shape)}; it must be {lead}",
                    reason="BASELINE_INVALID", name=name,
                )  # fmt: skip
            counts[name] = array.shape[axis]
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r}: {count}" for name, count in counts.items())
        raise InvalidArgument(
            f"the sources have different numbers of references: {listed}", reason="BASELINE_INVALID"
        )
    return next(iter(counts.values()), 1)


def _picked(
    model: LoadedModel,
    name: str,
    value: References,
    like: Array,
    k: int,
    samples: int,
    references: int,
    rows: Mapping[str, RowAxis | None],
) -> Array:
    """The references of the samples that `like` holds, in its layout."""
    axis = model.network.input_axes.get(name, 0)
    if axis is None and model.network.batch != "single":
        raise InvalidArgument(
            f"all samples share {name!r}, so that it has one baseline, not {references}",
            reason="BASELINE_INVALID", name=name,
        )  # fmt: skip
    place = rows.get(name) or RowAxis(axis or 0)
    array = np.asarray(value.values)
    lead = ["samples", "references"] if value.per_sample else ["references"]
    own = array.shape[len(lead) :]
    alone = name not in rows  # run one by one
    whole = alone and (model.network.batch == "single" or len(own) == like.ndim)
    unit = like.shape if whole else place.first(like).shape[1:]
    if not _fits(own, unit):
        raise InvalidArgument(
            f"the references of {name!r} have shape {list(array.shape)}; they must broadcast to "
            f"[{', '.join([*lead, *map(str, unit)])}]",
            reason="BASELINE_INVALID", name=name,
        )  # fmt: skip
    count = samples if alone else place.first(like).shape[0] // references
    if value.per_sample and len(array) != count:
        raise InvalidArgument(
            f"{name!r} has references of {len(array)} samples; there are {count}",
            reason="BASELINE_INVALID", name=name,
        )  # fmt: skip
    array = array.reshape(*array.shape[: len(lead)], *[1] * (len(unit) - len(own)), *own)
    if alone:
        part = np.broadcast_to((array[k // references] if value.per_sample else array)[k % references], unit)
        return part if whole else place.back(part[None])
    part = array.reshape(-1, *array.shape[2:]) if value.per_sample else np.concatenate([array] * count)
    return place.back(np.broadcast_to(part, (len(part), *unit)))


def _fits(shape: Sequence[int], unit: Sequence[int]) -> bool:
    """Whether arrays of the shape broadcast to the unit."""
    try:
        return np.broadcast_shapes(tuple(shape), tuple(unit)) == tuple(unit)
    except ValueError:
        return False


def _broadcast(name: str, value: Baseline | None, like: Array, index: int, count: int) -> Array:
    """A baseline in the shape and type of the sample; by default zeros, and empty text."""
    text = like.dtype.kind == "O"
    array = array_of(f"the baseline of {name!r}", ("" if text else 0) if value is None else value)
    if array.dtype.kind not in ("OUST" if text else "fiub"):
        kind = "text" if text else like.dtype.name
        raise InvalidArgument(
            f"the baseline of {name!r} has type {array.dtype.name}; {name!r} holds {kind}",
            reason="BASELINE_INVALID", name=name,
        )  # fmt: skip
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidArgument(
            f"the baseline of {name!r} holds NaN or infinite numbers", reason="BASELINE_INVALID"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is refused
        cast = array.astype(like.dtype)
    if like.dtype.kind in "iub":
        fits = np.array_equal(cast, array)
    else:
        fits = text or bool(np.isfinite(cast.astype(np.float64)).all())
    if not fits:
        raise InvalidArgument(
            f"the baseline of {name!r} holds numbers outside {like.dtype.name}, which {name!r} holds",
            reason="BASELINE_INVALID", name=name,
        )  # fmt: skip
    array = cast
    if array.ndim == like.ndim + 1 and len(array) in (1, count):
        array = array[index if len(array) > 1 else 0]
    elif count > 1 and array.ndim == like.ndim > 0 and array.shape[0] == count and like.shape[0] == 1:
        array = array[index : index + 1]
    try:
        return np.array(np.broadcast_to(array, like.shape), order="C")
    except ValueError:
        raise InvalidArgument(
            f"the baseline of {name!r} has shape {list(array.shape)}; it must broadcast to {list(like.shape)}",
            reason="BASELINE_INVALID", name=name,
        ) from None  # fmt: skip
