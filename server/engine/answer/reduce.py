"""Sums as attributions: what each layer sums to, misses and errs by, and what the layers of a joint cut miss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnx_attribution.graph_tools.ir.emit import element_type
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.request.channels import by_channel
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.targets import per_sample
from onnx_attribution.server.engine.rows.evaluate import Floats, Sums
from onnx_attribution.values import Attribution, Flow, LayerAttribution, LayerFlow


def of_channels(resolved: Resolved, sums: Sums) -> Sums:
    """The sums over the positions of each channel, where these are asked for."""
    if not resolved.channels:
        return sums
    fine, coarse = (
        {layer: by_channel(values, resolved.channels.get(layer), layer) for layer, values in part.items()}
        for part in (sums.fine, sums.coarse)
    )
    return replace(sums, fine=fine, coarse=coarse)


@np.errstate(invalid="ignore", over="ignore")  # infinite values leave NaN, of which a warning is given
def layers_of(
    model: LoadedModel, resolved: Resolved, sums: Sums
) -> tuple[dict[str, LayerAttribution], Floats | None]:
    """The layers of sums with one entry a sample, and the residual of all together where only these are a cut."""
    layers: dict[str, LayerAttribution] = {}
    change = resolved.value - resolved.baseline_value
    complete, sums_only = resolved.recipe.sums_to_change, resolved.request.sums_only
    relevance = resolved.recipe.relevance
    for name, values in sums.fine.items():
        total = per_sample(values)
        none = np.full_like(total, np.nan)
        error = none
        if name in sums.coarse:
            coarse = sums.coarse[name]
            error = np.abs(total - per_sample(coarse)) if sums_only else per_sample(np.abs(values - coarse))
        residual = total - (resolved.value if relevance else change) if complete or relevance else none
        if name in sums.errors:
            error = sums.errors[name]
        if resolved.cuts[name]:  # no L1 error is less than what the sum misses
            error = np.where(np.isnan(error), error, np.fmax(error, np.abs(residual)))
        dtype = element_type(model.tensors[name])
        layers[name] = LayerAttribution(
            name,
            (np.zeros((len(total), 0)) if sums_only else values).astype(
                dtype if dtype.kind == "f" and dtype.itemsize >= 4 else np.float32, copy=False
            ),
            total,
            residual,
            error,
            resolved.cuts[name],
            sums.spread.get(name, none),
        )
    if resolved.recipe.sums_to_value:
        return layers, np.asarray(np.sum([layer.sum for layer in layers.values()], axis=0) - resolved.value)
    if not complete or not model.is_joint_cut(resolved.choice):
        return layers, None
    return layers, np.asarray(np.sum([layer.sum for layer in layers.values()], axis=0) - change)


def flow_of(model: LoadedModel, resolved: Resolved, layers: Mapping[str, LayerAttribution]) -> Flow | None:
    """How the change flows through the layers; None for methods whose attributions do not sum to it."""
    if not resolved.recipe.sums_to_change:
        return None
    change = resolved.value - resolved.baseline_value
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shares = {name: np.where(change != 0, layer.sum / change, np.nan) for name, layer in layers.items()}
        sets = model.cut_sets(resolved.choice)
        residuals = tuple(np.sum([layers[name].sum for name in names], axis=0) - change for names in sets)
    return Flow(
        {name: LayerFlow(layer.sum, shares[name], layer.cut) for name, layer in layers.items()},
        sets,
        residuals,
    )


def _flows_together(answers: Sequence[Attribution]) -> Flow | None:
    flows = [one.flow for one in answers if one.flow is not None]
    if len(flows) < len(answers):
        return None
    layers = {
        name: LayerFlow(
            np.stack([one.layers[name].total for one in flows]),
            np.stack([one.layers[name].share for one in flows]),
            all(one.layers[name].cut for one in flows),
        )
        for name in flows[0].layers
    }
    sets = tuple(dict.fromkeys(names for one in flows for names in one.cut_sets))
    none = np.full(next(iter(flows[0].layers.values())).total.shape, np.nan)
    found = [dict(zip(one.cut_sets, one.residuals, strict=True)) for one in flows]
    return Flow(layers, sets, tuple(np.stack([one.get(names, none) for one in found]) for names in sets))


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
        flow=_flows_together(answers),
        supports=tuple(support for one in answers for support in one.supports),
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


def errors_of(answer: Attribution, unseen: Mapping[str, Floats] | None = None) -> Floats:
    """Per sample the largest error of any layer, and of all layers where they are a cut together, relative to the L1
    norm of the attributions; NaN for a sample whose attributions are not finite.

    Of sums only, whose values are `unseen`, relative to these, or to the change of the target where that is larger;
    values that were added up in the program are one number a sample.
    """
    if unseen is not None:
        change = np.nan_to_num(np.abs(answer.target.value - answer.target.baseline_value))
        norms = [np.maximum(per_sample(np.abs(unseen[name])), change) for name in answer.layers]
    else:
        norms = [per_sample(np.abs(layer.values.astype(np.float64))) for layer in answer.layers.values()]
    pairs = [(layer.error_estimate, norm) for layer, norm in zip(answer.layers.values(), norms, strict=True)]
    if answer.joint_residual is not None:
        pairs.append((np.abs(answer.joint_residual), np.sum(norms, axis=0)))
    with np.errstate(over="ignore", invalid="ignore"):
        ratios = [error / np.maximum(norm, 1e-30) for error, norm in pairs]
    errors = np.max([np.nan_to_num(ratio, nan=np.inf) for ratio in ratios], axis=0)
    return np.asarray(np.where(np.isfinite(np.sum(norms, axis=0)), errors, np.nan))
