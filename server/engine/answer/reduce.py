"""Sums as attributions: what each layer sums to, misses and errs by, and what the layers of a joint cut miss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

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
        if name in sums.errors:
            error = sums.errors[name]
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


def together(answers: Sequence[Attribution]) -> Attribution:
    """One answer about several targets, of an answer for each; a warning says which it is about unless it is all."""
    first = answers[0]
    residuals = [one.joint_residual for one in answers]
    none = np.full(next(iter(first.layers.values())).sum.shape, np.nan)
    joint = np.stack([none if one is None else one for one in residuals])
    return replace(
        first,
        targets=tuple(one.target for one in answers),
        layers={name: _stacked([one.layers[name] for one in answers]) for name in first.layers},
        seconds=answers[-1].seconds,
        warnings=tuple(_worded([one.warnings for one in answers])),
        joint_residual=None if all(one is None for one in residuals) else joint,
        several=True,
    )


def _stacked(layers: Sequence[LayerAttribution]) -> LayerAttribution:
    arrays: dict[str, Any] = {
        name: np.stack([getattr(one, name) for one in layers])
        for name, value in vars(layers[0]).items()
        if isinstance(value, np.ndarray)
    }
    return replace(layers[0], cut=all(one.cut for one in layers), **arrays)


def _worded(warnings: Sequence[Sequence[str]]) -> Iterator[str]:
    """The warnings of all targets, each once, with the numbers of the targets that it is about."""
    for words in dict.fromkeys(one for each in warnings for one in each):
        about = [k for k, each in enumerate(warnings) if words in each]
        listed = f"target{'s'[: len(about) > 1]} {', '.join(map(str, about))}: "
        yield words if len(about) == len(warnings) else listed + words


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
