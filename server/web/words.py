"""An answer in words and in pictures, as the page's templates show it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.channels import usual_axis
from onnx_attribution.client.niwt.unit_names import UnitNames
from onnx_attribution.client.render import page
from onnx_attribution.client.render.inputs import shown_of
from onnx_attribution.client.render.scene import number, scene_of
from onnx_attribution.errors import AttributionError, Reason, ServerBug
from onnx_attribution.values import Array, Attribution, LayerAttribution, ModelInfo

STRONGEST = 8
"""Units of a layer, and classes of a prediction, that are listed."""


@dataclass(frozen=True)
class Unit:
    """A unit of a layer: what it contributes to one sample, and its name, "" where it has none."""

    number: int
    value: float
    name: str


def refusal(error: Exception, hidden: str = "") -> dict[str, Any]:
    """What is wrong and what would work; `hidden` is the folder of uploads, of which nobody needs to know."""
    own = re.compile(rf"(?:{re.escape(hidden)}/)?\b[0-9a-f]{{16}}/") if hidden else None
    if not isinstance(error, AttributionError):
        error = ServerBug("something unexpected failed on the page; the log of the command says what")
    message = own.sub("", error.message) if own else error.message
    wrong = {name: text for name, text in error.violations.items() if text not in message}
    return {
        "message": message,
        "reason": str(error.reason),
        "meaning": Reason(error.reason).meaning,
        "instead": Reason(error.reason).instead,
        "violations": wrong,
    }


def told(
    answer: Attribution, info: ModelInfo, arrays: Mapping[str, Array], baseline: str, names: UnitNames
) -> dict[str, Any]:
    """The layers of an answer about one sample: picture, facts, and the strongest units."""
    shown = replace(shown_of(info, arrays, baseline=baseline or "0"), names=names)
    layers = []
    for layer in answer.layers.values():
        layers.append(
            {
                "name": layer.name,
                # what its caption says, the facts say
                "picture": page.scene(replace(scene_of(answer, layer, 0, shown), caption=())),
                "facts": facts(answer, layer, baseline),
                "units": units(layer, names) if layer.name not in info.sources else [],
            }
        )
    return {"method": answer.method, "layers": layers, "warnings": answer.warnings}


def facts(answer: Attribution, layer: LayerAttribution, baseline: str) -> list[tuple[str, str]]:
    """What is explained, what it is compared with, and how well the numbers account for it, in words."""
    target = answer.target
    value, before = float(target.value[0]), float(target.baseline_value[0])
    total, left, error = (float(one[0]) for one in (layer.sum, layer.residual, layer.error_estimate))
    label = f" ({target.labels[0]})" if target.labels and target.labels[0] else ""
    found = [("target", f"{target.tensor}[{target.index[0]}]{label}, which is {number(value)} at this input")]
    if math.isfinite(before):
        found.append(
            (
                "baseline",
                f"{baseline or '0'}, where the target is {number(before)}: {number(value - before)} is to be explained",
            )
        )
    found.append(("sum", f"all units of the layer together contribute {number(total)}"))
    if math.isfinite(left):
        change = abs(value - before)
        share = f", {number(100 * abs(left) / change, 3)} % of the change" if change else ""
        why = "the error of the sum" if layer.cut else "what goes by ways around this layer, and the error"
        found.append(("residual", f"{number(left)}{share}: {why}"))
    if math.isfinite(error):
        found.append(
            ("estimated error", f"the numbers are off by about {number(error)} in all (absolute differences)")
        )
    work = [f"{answer.steps} steps"] * bool(answer.steps)
    work += [f"{answer.evaluations} evaluation{'s'[: answer.evaluations != 1]}"]
    work += [f"{number(answer.seconds, 2)} s on {answer.provider}"]
    found.append(("work", ", ".join(work)))
    return found


def moved_to_front(values: Array) -> NDArray[np.float64]:
    """`[units, ...]` of one sample of a layer: units lie along its first axis, of fewer than three along the last."""
    numbers = np.atleast_1d(np.asarray(values, np.float64))
    return np.moveaxis(numbers, usual_axis(numbers.ndim + 1) - 1, 0)


def units(layer: LayerAttribution, names: UnitNames, most: int = STRONGEST) -> list[Unit]:
    """The units that contribute most to the first sample."""
    lying = np.nan_to_num(moved_to_front(layer.values[0]))
    sums, known = lying.reshape(len(lying), -1).sum(axis=1), names.of(layer.name)
    order = np.argsort(-np.abs(sums), kind="stable")[:most]
    return [Unit(int(k), float(sums[k]), known.get(int(k), "")) for k in order if sums[k]]


def prediction(info: ModelInfo, outputs: Mapping[str, Array]) -> list[dict[str, Any]]:
    """The largest numbers of each float output, with the target that means each; of others the first values."""
    found = []
    alone = sum(array.dtype.kind == "f" for array in outputs.values()) == 1
    for name, array in outputs.items():
        if not array.size:
            continue
        shape = array.shape[1:] if len(array.shape) > 1 and array.shape[0] == 1 else array.shape
        flat, is_float = array.reshape(-1), array.dtype.kind == "f"
        size = -np.nan_to_num(np.asarray(flat, np.float64), nan=-np.inf) if is_float else np.zeros(flat.size)
        order = np.argsort(size, kind="stable")
        classes = info.class_names.get(name, ())
        rows = []
        for k in order[:STRONGEST]:
            index = ",".join(str(int(one)) for one in np.unravel_index(int(k), shape))
            index = index if flat.size > 1 else ""
            target = index if alone else f"{name}:{index}"
            label = classes[int(k)] if len(classes) == flat.size else ""
            value = float(flat[k]) if is_float else str(flat[k])
            rows.append(
                {"target": target if is_float else None, "index": index, "label": label, "value": value}
            )
        found.append(
            {"output": name, "rows": rows, "more": max(flat.size - len(rows), 0), "is_float": is_float}
        )
    return found
