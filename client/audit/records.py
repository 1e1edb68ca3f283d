"""Attributions as an audit keeps them: numbers for JSON beside arrays, of one sample and one target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnx_attribution.client.audit.ranks import channels_axis
from onnx_attribution.supports import Support
from onnx_attribution.values import Array, Attribution, LayerAttribution, LayerInfo, ResolvedTarget

STRONGEST = 8
"""Channels of a hidden layer whose maps are kept of each sample."""


def numbers_of(answer: Attribution) -> dict[str, Any]:
    """All of an answer but its arrays."""
    target = answer.target
    return {
        "target": {
            "tensor": target.tensor,
            "index": target.index[0],
            "label": target.labels[0] if target.labels else None,
            "value": plain(target.value[0]),
            "baseline_value": plain(target.baseline_value[0]),
        },
        "layers": {
            name: {
                "shape": list(layer.values.shape[1:]),
                "sum": plain(layer.sum[0]),
                "measured": plain(layer.values[0].sum(dtype=np.float64)),
                "residual": plain(layer.residual[0]),
                "error_estimate": plain(layer.error_estimate[0]),
                "cut": layer.cut,
            }
            for name, layer in answer.layers.items()
        },
        "joint_residual": None if answer.joint_residual is None else plain(answer.joint_residual[0]),
        "flow": None
        if answer.flow is None
        else {
            "shares": {name: plain(one.share[0]) for name, one in answer.flow.layers.items()},
            "cut_sets": [list(names) for names in answer.flow.cut_sets],
        },
        "support": answer.supports[0].to_json() if answer.supports else None,
        "evaluations": answer.evaluations,
        "steps": answer.steps,
        "seconds": round(answer.seconds, 6),
        "provider": answer.provider,
        "warnings": list(answer.warnings),
    }


def answer_of(method: str, numbers: Mapping[str, Any], maps: Mapping[str, Array]) -> Attribution:
    """The answer, with the layers of which there are maps."""
    target = numbers["target"]
    layers = {
        name: LayerAttribution(
            name,
            maps[name][None],
            one(told["sum"]),
            one(told["residual"]),
            one(told["error_estimate"]),
            told["cut"],
            one(None),
        )
        for name, told in numbers["layers"].items()
        if name in maps
    }
    resolved = ResolvedTarget(
        target["tensor"],
        (target["index"],),
        one(target["value"]),
        one(target["baseline_value"]),
        (target["label"],) if target["label"] is not None else (),
    )
    return Attribution(
        method,
        "dynamic",
        (resolved,),
        layers,
        numbers["evaluations"],
        numbers["steps"],
        numbers["seconds"],
        "",
        numbers["provider"],
        tuple(numbers["warnings"]),
        supports=(Support.from_json(told),) if (told := numbers.get("support")) else (),
    )


def channels_of(values: Array, layer: LayerInfo | None = None) -> tuple[Array, Array, Array]:
    """Of one sample's layer the sums of its channels; and of the strongest their places and maps."""
    units = np.asarray(values, np.float64)
    if units.ndim:
        units = np.moveaxis(units, channels_axis(units.shape, layer), 0)
    while units.ndim > 3 and units.shape[1] == 1:
        units = units[:, 0]
    sums = units.reshape(len(units), -1).sum(axis=1) if units.ndim else units.reshape(1)
    strongest = np.argsort(-np.abs(np.nan_to_num(sums)), kind="stable")[:STRONGEST]
    maps = units[strongest] if units.ndim else units.reshape(1)
    return sums.astype(np.float32), strongest.astype(np.int32), maps.astype(np.float32)


def plain(value: float) -> float | None:
    """A number as JSON has it."""
    number = float(value)
    return number if math.isfinite(number) else None


def one(value: float | None) -> np.ndarray[Any, np.dtype[np.float64]]:
    """An array of one number; NaN for none."""
    return np.array([math.nan if value is None else value], np.float64)
