"""Version 1 of KServe's protocol: predictions and explanations of instances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnx_attribution import methods
from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.parameters import parameters_of, shown
from onnx_attribution.server.service.inference import word
from onnx_attribution.server.service.rest.arrays import from_json, number, switch, to_json
from onnx_attribution.values import (
    Array,
    Attribution,
    AttributionRequest,
    Baseline,
    ModelInfo,
    References,
    Target,
    TensorInfo,
)

__all__ = ["arrays_of", "explanation", "predictions", "request_of", "seconds_of"]

OWN = ("method", "layers", "source", "target", "targets", "baselines", "sums_only", "channel_sums", "seconds")
"""Parameters of an explanation; all others are those of its method."""


def arrays_of(given: Mapping[str, Any], info: ModelInfo) -> dict[str, Array]:
    """The inputs of `instances`, one for each sample, or of `inputs`, arrays with all samples.

    Raises:
        InvalidArgument: none or both are given, or a value does not fit its input.
    """
    if ("instances" in given) == ("inputs" in given):
        raise InvalidArgument(
            "give instances, a list with one entry for each sample, or inputs, arrays with their batch axis",
            reason=Reason.INPUT_MISSING,
        )
    known = {one.name: one for one in info.inputs}
    if "inputs" in given:
        named = _named(given["inputs"], known)
        return {name: from_json(name, value, word(known[name].dtype)) for name, value in named.items()}
    instances = given["instances"]
    if not isinstance(instances, list) or not instances:
        raise InvalidArgument(
            f"instances is a list with one entry for each sample, not {shown(instances)}",
            reason=Reason.INPUT_INVALID,
        )
    rows = [_named(one, known) for one in instances]
    if any(row.keys() != rows[0].keys() for row in rows):
        raise InvalidArgument("every instance has the same inputs", reason=Reason.INPUT_INVALID)
    return {name: _joined(known[name], [row[name] for row in rows], info) for name in rows[0]}


def request_of(model: str, given: Mapping[str, Any], info: ModelInfo) -> AttributionRequest:
    """The request of an explanation. Raises: InvalidArgument."""
    parameters = _object(given.get("parameters") or {}, "parameters")
    method = parameters.get("method", methods.DEFAULT.name)
    if not isinstance(method, str):
        raise InvalidArgument(f"parameters.method is a name, not {shown(method)}")
    method = method.replace("-", "_")
    own = {name: value for name, value in parameters.items() if name not in OWN}
    cls = methods.registered().get(method)
    for one in parameters_of(cls) if cls is not None else ():
        if one.kind == "arrays" and isinstance(own.get(one.name), dict):
            held = own[one.name].items()
            own[one.name] = {source: from_json(source, value, "INT64") for source, value in held}
    several = parameters.get("targets")
    if several is not None and not isinstance(several, list):
        raise InvalidArgument(f"targets is a list, not {shown(several)}", reason=Reason.TARGET_INVALID)
    target = parameters.get("target")
    return AttributionRequest(
        model,
        arrays_of(given, info),
        methods.make(method, own),
        _names(parameters, "layers"),
        _names(parameters, "source"),
        None if target is None else _target(target),
        _baselines(parameters.get("baselines", {}), info),
        targets=None if several is None else [_target(one) for one in several],
        sums_only=switch(parameters, "sums_only"),
        channel_sums=parameters.get("channel_sums"),
    )


def seconds_of(given: Mapping[str, Any]) -> float | None:
    """The time that an explanation may take. Raises: InvalidArgument."""
    seconds = _object(given.get("parameters") or {}, "parameters").get("seconds")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e9:
        raise InvalidArgument(f"parameters.seconds is a number above 0, not {shown(seconds)}")
    return float(seconds)


def predictions(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """The only output, or all by name."""
    lists = {name: to_json(array) for name, array in arrays.items()}
    return {"predictions": next(iter(lists.values())) if len(lists) == 1 else lists}


def explanation(name: str, found: Attribution, stop_reason: str) -> dict[str, Any]:
    """An answer: of each sample its target, or targets, with the attributions of each layer."""
    each = found.each()
    samples = len(each[0].target.index)
    entries = [[_of_sample(one, sample) for one in each] for sample in range(samples)]
    joint = None if found.joint_residual is None else [_estimate(x) for x in found.joint_residual.ravel()]
    return {
        "model_name": name,
        "method": found.method,
        "explanations": [{"targets": entry} if found.several else entry[0] for entry in entries],
        "stop_reason": stop_reason,
        "steps": found.steps,
        "evaluations": found.evaluations,
        "seconds": found.seconds,
        "batch": found.batch,
        "digest": found.digest,
        "provider": found.provider,
        "warnings": list(found.warnings),
        **({} if joint is None or found.several else {"joint_residuals": joint}),
    }


def _of_sample(found: Attribution, sample: int) -> dict[str, Any]:
    target = found.target
    return {
        "target": {
            "tensor": target.tensor,
            "index": target.index[sample],
            **({"label": target.labels[sample]} if target.labels else {}),
            "value": _estimate(target.value[sample]),
            "baseline_value": _estimate(target.baseline_value[sample]),
        },
        "layers": {
            name: {
                "values": to_json(layer.values[sample]),
                "sum": _estimate(layer.sum[sample]),
                "residual": _estimate(layer.residual[sample]),
                "error_estimate": _estimate(layer.error_estimate[sample]),
                "spread": _estimate(layer.spread[sample]),
                "cut": layer.cut,
            }
            for name, layer in found.layers.items()
        },
    }


def _estimate(value: Any) -> float | str | None:
    """A number, null where there is none."""
    return None if np.isnan(value) else number(float(value))


def _named(value: object, known: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Values by input; a bare value is that of the only input."""
    if not isinstance(value, dict):
        if len(known) != 1:
            raise InvalidArgument(
                f"the model has the inputs {', '.join(known)}; give an object with a value for each",
                reason=Reason.INPUT_INVALID,
            )
        return {next(iter(known)): value}
    for name in value:
        if name not in known:
            raise InvalidArgument(
                f"no input {name!r}; the model has: {', '.join(known)}",
                reason=Reason.INPUT_UNKNOWN, input=name,
            )  # fmt: skip
    return value


def _joined(info: TensorInfo, values: list[Any], model: ModelInfo) -> Array:
    """The values of all samples in one array, along the input's batch axis."""
    array = from_json(info.name, values, word(info.dtype))
    if info.batch_axis is None and model.batch != "single":
        if any(not np.array_equal(array[0], one) for one in array[1:]):
            raise InvalidArgument(
                f"input {info.name!r} has no batch axis: all samples share one value, and it differs between instances",
                reason=Reason.INPUT_INVALID, input=info.name,
            )  # fmt: skip
        return array[0] if isinstance(array[0], np.ndarray) else np.asarray(array[0], array.dtype)
    axis = info.batch_axis or 0
    if axis >= array.ndim:
        raise InvalidArgument(
            f"input {info.name!r}: an instance has {array.ndim - 1} axes, and the batch axis of the input is {axis}",
            reason=Reason.SHAPE_MISMATCH, input=info.name,
        )  # fmt: skip
    return np.ascontiguousarray(np.moveaxis(array, 0, axis))


def _target(given: object) -> Target:
    """Of an index, of one index for each sample in a list, or of an object with the fields of a target."""
    if not isinstance(given, dict) or list(given) in (["mask"], ["weights"]):
        return Target(index=_index(given))
    fields = ("tensor", "index", "minus", "logit", "mean_centred")
    unknown = [name for name in given if name not in fields]
    tensor = given.get("tensor")
    if unknown or not isinstance(tensor, str | None):
        what = f"no {unknown[0]!r}" if unknown else f"a name as tensor, not {shown(tensor)}"
        raise InvalidArgument(f"a target has {', '.join(fields)}, and {what}", reason=Reason.TARGET_INVALID)
    return Target(
        tensor,
        _index(given.get("index")),
        _index(given.get("minus")),
        switch(given, "logit"),
        switch(given, "mean_centred"),
    )


def _index(given: Any) -> Any:
    """An integer, or for each sample an integer or a list with one for each axis; an object with a mask or weights."""
    if isinstance(given, dict):
        if list(given) == ["mask"]:
            return from_json("mask", given["mask"], "BOOL")
        if list(given) == ["weights"]:
            return from_json("weights", given["weights"], "FP64")
    elif isinstance(given, list):
        return [tuple(one) if isinstance(one, list) else one for one in given]
    elif given is None or (isinstance(given, int) and not isinstance(given, bool)):
        return given
    raise InvalidArgument(
        f"a target is an index, a list of one for each sample, or an object with mask or weights, not {shown(given)}; "
        'a tensor is named by {"tensor": ...}',
        reason=Reason.TARGET_INVALID,
    )


def _baselines(given: object, info: ModelInfo) -> dict[str, Baseline]:
    """By source; a bare value is that of the only source."""
    if not isinstance(given, dict) or given.keys() & {"references"}:
        if len(info.sources) != 1:
            raise InvalidArgument(
                f"the model has the sources {', '.join(info.sources)}; give an object with a baseline for each",
                reason=Reason.BASELINE_INVALID,
            )
        given = {info.sources[0]: given}
    types = {one.name: word(one.dtype) for one in info.inputs}
    return {name: _baseline(name, value, types.get(name, "FP32")) for name, value in given.items()}


def _baseline(name: str, given: Any, datatype: str) -> Baseline:
    if isinstance(given, dict):
        if "references" not in given or given.keys() - {"references", "per_sample"}:
            raise InvalidArgument(
                f"baseline {name!r}: an object has references and per_sample, not {', '.join(given) or 'nothing'}",
                reason=Reason.BASELINE_INVALID,
            )
        return References(from_json(name, given["references"], datatype), switch(given, "per_sample"))
    if isinstance(given, str) and datatype == "BYTES":
        return given
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    return from_json(name, given, datatype)


def _names(parameters: Mapping[str, Any], field: str) -> list[str]:
    given = parameters.get(field) or []
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InvalidArgument(f"parameters.{field} is a name or a list of names, not {shown(given)}")
    return found


def _object(given: object, name: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InvalidArgument(f"{name} is an object, not {shown(given)}")
    return given
