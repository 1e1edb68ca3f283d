"""Turns a request into arrays: checked inputs, sources, layers, the target's weights and the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, NotDifferentiable, NotFound
from onnx_attribution.graph_tools import select
from onnx_attribution.graph_tools.batch import RowAxis
from onnx_attribution.graph_tools.path import check_steps
from onnx_attribution.graph_tools.program import Choice, forward_program
from onnx_attribution.server import targets
from onnx_attribution.server.loaded import LoadedModel
from onnx_attribution.values import DEEPLIFT_METHODS, METHODS, PATH_METHODS, Array, AttributionRequest

MAX_SAMPLES = 256


@dataclass(frozen=True)
class Question:
    """A request in arrays. `samples` holds the inputs (and hidden sources) at x and `baselines` the sources at x'.

    With `together`, arrays hold all samples along their batch axes; without, `samples` and `baselines` have one entry
    a sample, each as the model takes it.
    """

    request: AttributionRequest
    choice: Choice
    cuts: Mapping[str, bool]
    together: bool
    rows: Mapping[str, RowAxis | None]
    samples: tuple[dict[str, Array], ...]
    baselines: tuple[dict[str, Array], ...]
    weights: tuple[Array, ...]
    index: tuple[str, ...]
    value: NDArray[np.float64]
    baseline_value: NDArray[np.float64]
    count: int
    evaluations: int
    warnings: tuple[str, ...]


def check_request(request: AttributionRequest) -> None:
    """Refuses methods and parameters that do not exist, before any model is touched."""
    if request.method not in METHODS:
        raise InvalidArgument(
            f"no method {request.method!r}; there are: {', '.join(METHODS)}", method=request.method
        )
    if request.method in PATH_METHODS:
        check_steps(request.steps, request.quadrature)
        if request.tolerance is not None and not request.tolerance > 0:
            raise InvalidArgument(
                f"tolerance is {request.tolerance}; it must be above 0", tolerance=request.tolerance
            )
        if not request.multiply_by_inputs and request.method == "neuron_ig":
            raise InvalidArgument(
                "neuron_ig has no form without the difference of activations (multiply_by_inputs)"
            )
        if request.tolerance is not None:
            check_steps(request.max_steps, request.quadrature, name="max_steps")
        if request.tolerance is not None and request.max_steps < request.steps:
            raise InvalidArgument(
                f"max_steps is {request.max_steps}, below steps, {request.steps}", max_steps=request.max_steps
            )


def ask(model: LoadedModel, request: AttributionRequest) -> Question:
    """The question of a request.

    Raises:
        InvalidArgument, NotFound, NotDifferentiable: the message names what cannot be used.
    """
    check_request(request)
    if isinstance(request.layers, str) or isinstance(request.source, str):
        raise InvalidArgument("layers and source are sequences of names, not one name")
    target, class_axis, notes = targets.chosen(model, request)
    sources, layers = _source_and_layers(model, request, target)
    choice = Choice(sources, layers, target)
    _check_between(model, choice)
    given = split_samples(model, checked_inputs(model, request.inputs))
    tensors = [target, *sources, *layers]
    rows = model.rows_of(tensors)
    together = model.network.batch != "single" and all(rows[name] is not None for name in tensors)
    warnings = [*model.network.notes, *notes]
    if model.network.batch != "single" and not together:
        names = ", ".join(repr(n) for n in tensors if rows[n] is None)
        warnings.append(f"rows are evaluated one by one: those of {names} are not separable")
    if request.method not in DEEPLIFT_METHODS and (rounding := model.rounding(sources, target)):
        warnings.append(rounding)
    samples = [join_samples(model, given)] if together else given
    hidden = [s for s in sources if s not in model.network.input_axes]
    at_x = [forward(model, sample, [target, *hidden]) for sample in samples]
    full = [{**sample, **{s: found[s] for s in hidden}} for sample, found in zip(samples, at_x, strict=True)]
    baselines = _baselines(model, request, sources, full, warnings)
    at_reference = [
        forward(model, {**sample, **baseline}, [target], hidden) if target not in baseline else dict(baseline)
        for sample, baseline in zip(full, baselines, strict=True)
    ]
    lead = rows[target] if together else None
    units = [targets.units(found[target], lead, together) for found in at_x]
    stacked = np.concatenate(units)
    plus, words = targets.weights(stacked, request.target.index, "index")
    if request.target.minus is not None:
        minus, less = targets.weights(stacked, request.target.minus, "minus")
        plus, words = plus - minus, tuple(f"{a} - {b}" for a, b in zip(words, less, strict=True))
    if request.target.mean_centred:
        plus, words = targets.centred(plus, class_axis), tuple(f"{word} - mean" for word in words)
    weights = [targets.restored(plus, at_x[0][target], lead)] if together else [
        plus[k].reshape(found[target].shape) for k, found in enumerate(at_x)
    ]  # fmt: skip
    count = len(stacked)
    return Question(
        request,
        choice,
        {layer: select.is_cut(list(model.graph.nodes), sources, target, [layer]) for layer in layers},
        together,
        rows,
        tuple(full),
        tuple(baselines),
        tuple(w.astype(found[target].dtype) for w, found in zip(weights, at_x, strict=True)),
        words,
        targets.dot(stacked, plus),
        targets.dot(
            np.concatenate([targets.units(found[target], lead, together) for found in at_reference]), plus
        ),
        count,
        2 * count,
        tuple(warnings),
    )


def _source_and_layers(
    model: LoadedModel, request: AttributionRequest, target: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sources and layers; Integrated Gradients has its layer as the source (Captum's LayerIntegratedGradients)."""
    layers = tuple(dict.fromkeys(select.resolve(model.graph, name) for name in request.layers))
    for name in layers:
        select.require_float(model.graph, name, "layer", "NOT_DIFFERENTIABLE")
    if request.method == "integrated_gradients" and layers and not request.source:
        return layers, layers
    sources = model.sources(request.source, target)
    if request.method == "integrated_gradients" and layers and set(layers) != set(sources):
        raise InvalidArgument(
            "integrated_gradients attributes to its source; name the layer as the source, or use neuron_ig",
            layers=", ".join(layers),
        )
    return sources, layers or sources


def _check_between(model: LoadedModel, choice: Choice) -> None:
    """Refuses a layer that does not lie between source and target."""
    nodes = list(model.graph.nodes)
    after = select.dependents(nodes, choice.sources)
    before = select.ancestors(nodes, [choice.target])
    for layer in choice.layers:
        if layer not in after or layer not in before:
            raise NotDifferentiable(
                f"layer {layer!r} does not lie between the source {', '.join(map(repr, choice.sources))} "
                f"and the target {choice.target!r}",
                reason="NO_PATH", layer=layer,
            )  # fmt: skip


# --- inputs


def checked_inputs(model: LoadedModel, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs as arrays of the model's types; every violation is told, not the first only."""
    if not isinstance(inputs, Mapping):
        raise InvalidArgument("inputs map the name of every model input to an array", reason="INPUT_INVALID")
    wanted = {info.name: info for info in model.inputs}
    problems: list[tuple[str, str, str]] = []
    for name in wanted:
        if name not in inputs:
            problems.append(("INPUT_MISSING", name, f"input {name!r} is missing"))
    checked: dict[str, Array] = {}
    for name, value in inputs.items():
        if name not in wanted:
            known = ", ".join(map(repr, wanted))
            problems.append(("INPUT_UNKNOWN", name, f"there is no input {name!r}; the inputs are {known}"))
            continue
        try:
            checked[name] = _checked(model, wanted[name].dtype, name, _array(f"input {name!r}", value))
        except InvalidArgument as error:
            problems.append((error.reason, name, error.message))
    problems += _unequal_sizes(model, checked)
    if problems:
        reasons = {reason for reason, _, _ in problems}
        raise InvalidArgument(
            "; ".join(text for _, _, text in problems),
            reason=problems[0][0] if len(reasons) == 1 else "INPUT_INVALID",
            violations={f"inputs.{name}": text for _, name, text in problems},
        )
    return checked


def _array(role: str, value: object) -> Array:
    try:
        return np.asarray(value)
    except ValueError:
        raise InvalidArgument(
            f"{role} is ragged: its rows differ in length", reason="SHAPE_MISMATCH"
        ) from None


def _unequal_sizes(model: LoadedModel, inputs: Mapping[str, Array]) -> list[tuple[str, str, str]]:
    """Sizes that the file calls by one name and that differ between the inputs."""
    seen: dict[str, tuple[str, int]] = {}
    problems: list[tuple[str, str, str]] = []
    for info in model.inputs:
        array, dims = inputs.get(info.name), info.shape or ()
        if array is None or array.ndim != len(dims):
            continue
        for axis, (dim, size) in enumerate(zip(dims, array.shape, strict=True)):
            if not isinstance(dim, str) or axis == info.batch_axis:
                continue
            first, expected = seen.setdefault(dim, (info.name, size))
            if size != expected:
                text = f"input {info.name!r} has size {size} along {dim!r}, input {first!r} has {expected}"
                problems.append(("SHAPE_MISMATCH", info.name, text))
    return problems


def _checked(model: LoadedModel, kind: str, name: str, array: Array) -> Array:
    if kind == "string":
        if array.dtype.kind not in "OUST":
            raise InvalidArgument(
                f"input {name!r} has type {array.dtype.name}; the model takes strings",
                reason="DTYPE_MISMATCH",
            )
        array = array.astype(object)
    else:
        wanted = np.dtype(kind)
        floats = array.dtype.kind == "f" and wanted.kind in "fV"
        integers = array.dtype.kind in "iu" and wanted.kind in "iu"
        if array.dtype != wanted and not floats and not integers:
            raise InvalidArgument(
                f"input {name!r} has type {array.dtype.name}; the model takes {kind}", reason="DTYPE_MISMATCH"
            )
        cast = array.astype(wanted)
        if integers and not np.array_equal(cast, array):
            raise InvalidArgument(f"input {name!r} holds numbers outside {kind}", reason="DTYPE_MISMATCH")
        array = cast
    _check_shape(model, name, array)
    if array.dtype.kind in "fV" and array.size:
        bad = ~np.isfinite(array.astype(np.float64))
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise InvalidArgument(
                f"input {name!r} holds {int(bad.sum())} numbers that are NaN or infinite, the first at {first}",
                reason="NON_FINITE_INPUT",
            )
    return array


def _check_shape(model: LoadedModel, name: str, array: Array) -> None:
    dims = next(info.shape for info in model.inputs if info.name == name) or ()
    axis = model.network.input_axes[name]
    shape: tuple[int, ...] = array.shape
    if model.network.batch == "single" and len(shape) == len(dims) + 1:
        shape = shape[1:]
    fits = len(shape) == len(dims) and all(
        k == axis or not isinstance(d, int) or d == n
        for k, (d, n) in enumerate(zip(dims, shape, strict=False))
    )
    if not fits or (axis is not None and axis < len(shape) and shape[axis] == 0):
        shown = [("batch" if k == axis else d) for k, d in enumerate(dims)]
        raise InvalidArgument(
            f"input {name!r} has shape {list(array.shape)}; the model takes {shown}", reason="SHAPE_MISMATCH"
        )


def split_samples(model: LoadedModel, inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    """One entry a sample, each as the model takes it."""
    axes = model.network.input_axes
    counts: dict[str, int] = {}
    if model.network.batch == "single":
        ranks = {info.name: len(info.shape or ()) for info in model.inputs}
        counts = {n: len(a) for n, a in inputs.items() if a.ndim == ranks[n] + 1}
    else:
        counts = {n: a.shape[axis] for n, a in inputs.items() if (axis := axes[n]) is not None}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r}: {count}" for name, count in counts.items())
        raise InvalidArgument(
            f"the inputs hold different numbers of samples: {listed}", reason="SHAPE_MISMATCH"
        )
    count = next(iter(counts.values()), 1)
    if not 1 <= count <= MAX_SAMPLES:
        raise InvalidArgument(
            f"the request holds {count} samples; it may hold 1 to {MAX_SAMPLES}",
            reason="REQUEST_TOO_LARGE", limit=MAX_SAMPLES, actual=count,
        )  # fmt: skip
    single = model.network.batch == "single"
    return [
        {
            n: a if n not in counts else (a[k] if single else np.take(a, [k], axis=axes[n]))
            for n, a in inputs.items()
        }
        for k in range(count)
    ]


def join_samples(model: LoadedModel, samples: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The samples in one dict of arrays, along the batch axes."""
    axes = model.network.input_axes
    return {
        n: a if axes[n] is None else np.concatenate([sample[n] for sample in samples], axis=axes[n])
        for n, a in samples[0].items()
    }


def forward(
    model: LoadedModel, inputs: Mapping[str, Array], tensors: Sequence[str], hidden: Sequence[str] = ()
) -> dict[str, Array]:
    """The named tensors at the inputs; `hidden` tensors are given like inputs."""
    key = ("forward", tuple(tensors), tuple(hidden))
    session = model.session(key, lambda: forward_program(model.network, tensors, hidden))
    found = session.run(dict(inputs))
    return {name: found.get(name, found.get(f"output/{name}", np.empty(0))) for name in tensors}


# --- baselines


def _baselines(
    model: LoadedModel,
    request: AttributionRequest,
    sources: Sequence[str],
    samples: Sequence[Mapping[str, Array]],
    warnings: list[str],
) -> list[dict[str, Array]]:
    """The sources at x', like the samples."""
    if not isinstance(request.baselines, Mapping):
        raise InvalidArgument(
            "baselines map the name of a source to an array or a number", reason="BASELINE_INVALID"
        )
    inputs = model.network.input_axes
    try:
        given = {
            n if n in inputs else select.resolve(model.graph, n): value
            for n, value in request.baselines.items()
        }
    except NotFound as error:
        raise InvalidArgument(f"a baseline has no tensor: {error}", reason="BASELINE_INVALID") from error
    hidden = [s for s in sources if s not in inputs]
    for name in given:
        if name not in sources and not (name in inputs and hidden):
            raise InvalidArgument(
                f"{name!r} has a baseline but is no source; the sources are {', '.join(map(repr, sources))}",
                reason="BASELINE_INVALID", name=name,
            )  # fmt: skip
    result: list[dict[str, Array]] = [{} for _ in samples]
    floats = [
        info.name for info in model.inputs if info.dtype in ("float32", "float64", "float16", "bfloat16")
    ]
    for name in sources:
        if name in given or name in inputs:
            for k, sample in enumerate(samples):
                result[k][name] = _broadcast(name, given.get(name, 0.0), sample[name], k, len(samples))
            continue
        moved = [n for n in inputs if n in given or (n in floats and not given)]
        if not moved:
            warnings.append(f"the baseline of {name!r} is zeros at {name!r}")
            for k, sample in enumerate(samples):
                result[k][name] = np.zeros_like(sample[name])
            continue
        warnings.append(
            f"the baseline of {name!r} is its activation at the baseline of {', '.join(map(repr, moved))}"
        )
        for k, sample in enumerate(samples):
            at = {n: sample[n] for n in inputs}
            at.update({n: _broadcast(n, given.get(n, 0.0), sample[n], k, len(samples)) for n in moved})
            result[k][name] = forward(model, at, [name])[name]
    return result


def _broadcast(name: str, value: Array | float, like: Array, index: int, count: int) -> Array:
    """A baseline in the shape and type of the sample."""
    array = _array(f"the baseline of {name!r}", value)
    if array.dtype.kind not in "fiub":
        raise InvalidArgument(
            f"the baseline of {name!r} has type {array.dtype.name}", reason="BASELINE_INVALID"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidArgument(
            f"the baseline of {name!r} holds NaN or infinite numbers", reason="BASELINE_INVALID"
        )
    if array.ndim == like.ndim + 1 and len(array) in (1, count):
        array = array[index if len(array) > 1 else 0]
    elif count > 1 and array.ndim == like.ndim and array.shape[0] == count and like.shape[0] == 1:
        array = array[index : index + 1]
    try:
        return np.ascontiguousarray(np.broadcast_to(array, like.shape)).astype(like.dtype)
    except ValueError:
        raise InvalidArgument(
            f"the baseline of {name!r} has shape {list(array.shape)}; it must broadcast to {list(like.shape)}",
            reason="BASELINE_INVALID", name=name,
        ) from None  # fmt: skip
