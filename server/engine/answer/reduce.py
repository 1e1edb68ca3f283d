"""Sums as attributions: what each layer sums to, misses and errs by, and what the layers of a joint cut miss."""

from __future__ import annotations

import numpy as np

from onnx_attribution.graph_tools.ir.emit import element_type
from onnx_attribution.graph_tools.select.cuts import is_joint_cut
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.targets import per_sample
from onnx_attribution.server.engine.rows.evaluate import Floats, Sums
from onnx_attribution.values import Attribution, LayerAttribution


def layers_of(
    model: LoadedModel, resolved: Resolved, sums: Sums
) -> tuple[dict[str, LayerAttribution], Floats | None]:
    """The layers of sums with one entry a sample, and the residual of all together where only these are a cut."""
    tensors, choice = model.graph.tensors(), resolved.choice
    layers: dict[str, LayerAttribution] = {}
    change = resolved.value - resolved.baseline_value
    complete = resolved.recipe.sums_to_change
    for name, values in sums.fine.items():
        total = per_sample(values)
        none = np.full_like(total, np.nan)
        error = per_sample(np.abs(values - sums.coarse[name])) if name in sums.coarse else none
        residual = total - change if complete else none
        if resolved.cuts[name]:  # no L1 error is less than what the sum misses
            error = np.where(np.isnan(error), error, np.fmax(error, np.abs(residual)))
        dtype = element_type(tensors[name])
        layers[name] = LayerAttribution(
            name,
            values.astype(dtype if dtype.kind == "f" and dtype.itemsize >= 4 else np.float32),
            total,
            residual,
            error,
            resolved.cuts[name],
            sums.spread.get(name, none),
        )
    if not complete or not is_joint_cut(list(model.graph.nodes), choice.sources, choice.target, list(layers)):
        return layers, None
    return layers, np.asarray(np.sum([layer.sum for layer in layers.values()], axis=0) - change)


def errors_of(answer: Attribution) -> Floats:
    """Per sample the largest error of any layer, and of all layers where they are a cut together, relative to the L1
    norm of the attributions; NaN for a sample whose attributions are not finite."""
    norms = [per_sample(np.abs(layer.values.astype(np.float64))) for layer in answer.layers.values()]
    pairs = [(layer.error_estimate, norm) for layer, norm in zip(answer.layers.values(), norms, strict=True)]
    if answer.joint_residual is not None:
        pairs.append((np.abs(answer.joint_residual), np.sum(norms, axis=0)))
    with np.errstate(over="ignore", invalid="ignore"):
        ratios = [error / np.maximum(norm, 1e-30) for error, norm in pairs]
    errors = np.max([np.nan_to_num(ratio, nan=np.inf) for ratio in ratios], axis=0)
    return np.asarray(np.where(np.isfinite(np.sum(norms, axis=0)), errors, np.nan))
