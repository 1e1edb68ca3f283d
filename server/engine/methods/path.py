"""Sums along the path from the baseline to the input, refined until they are as exact as they have to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from onnx_attribution.methods import (
    IntegratedGradients,
    InternalInfluence,
    NeuronConductance,
    NeuronIG,
)
from onnx_attribution.methods.path import DOUBLED_STEPS, TOLERANCE
from onnx_attribution.methods.shared import FIXED_STEPS
from onnx_attribution.server.engine.methods import adaptive_path, summed_path
from onnx_attribution.server.engine.methods.stages import SeveralEvaluations, Stage, by_tensor
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Floats, Path, Recipe, contribution, multiplier, recipe
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.targets import per_sample
from onnx_attribution.server.engine.rows.along import along_path, planned
from onnx_attribution.server.engine.rows.evaluate import Sums, averaged
from onnx_attribution.server.engine.rows.plan import Plan, conductance_plan, mean_plan

Along = IntegratedGradients | NeuronIG | InternalInfluence | NeuronConductance
TOTALS_START, TOTALS_END = 16, 128
"""Steps with which a trapezoid begins that stands for rows where they are needed, and ends, if nobody says where: no
row of it is kept."""


@recipe(IntegratedGradients)
def integrated_gradients(method: IntegratedGradients) -> Recipe:
    reduce = contribution if method.multiply_by_inputs else multiplier
    return Recipe(_path(method), reduce, sums_to_change=method.multiply_by_inputs, layer_is_source=True)


@recipe(InternalInfluence)
def internal_influence(method: InternalInfluence) -> Recipe:
    return Recipe(replace(_path(method), apart=True))


@recipe(NeuronConductance)
def neuron_conductance(method: NeuronConductance) -> Recipe:
    reduce = contribution if method.multiply_by_inputs else multiplier
    through = next(((name, tuple(index)) for name, index in method.neuron.items()), ("", ()))
    return Recipe(replace(_path(method), through=through), reduce, layer_is_source=True)


@recipe(NeuronIG)
def neuron_ig(method: NeuronIG) -> Recipe:
    return Recipe(_path(method, conductance=True), sums_to_change=True, multiplied=True)


def _path(method: Along, *, conductance: bool = False) -> Path:
    steps, chosen = method.steps or FIXED_STEPS, method.quadrature
    most = method.max_steps or max(DOUBLED_STEPS, steps)
    if chosen != "auto":
        return Path(chosen, steps, most, method.tolerance, conductance)
    if method.steps is not None:
        return Path("trapezoid", steps, most, method.tolerance, conductance)
    return Path("auto", FIXED_STEPS, most, method.tolerance or TOLERANCE, conductance)


def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
    """One stage, or with a tolerance as many as doublings of the steps fit, or as many as rows lie where needed.

    Where more rows are needed is told by units, which sums only are made of as well. Of layers that are too large for
    their rows to be kept programs add up the segments, if their rows can share a run.
    """
    at = asked[0].recipe.at
    assert isinstance(at, Path)
    by_units = at.quadrature == "auto"
    if by_units and adaptive_path.room(model, asked, memory):
        yield from adaptive_path.stages(model, asked, memory)
        return
    if by_units and (at.conductance or at.apart) and all(one.samples.together for one in asked):
        yield from adaptive_path.stages(model, asked, memory, summed_path.SummedPaths)
        return
    steps, most = at.steps, at.max_steps
    if at.quadrature == "auto":
        named = asked[0].request.method.parameters().get("max_steps") is not None
        steps, most = min(TOTALS_START, most), most if named else min(TOTALS_END, most)
    yield _stage(model, asked, memory, steps)
    while at.tolerance is not None and steps < most:
        steps = min(2 * steps, most)
        yield _stage(model, asked, memory, steps)


def _stage(model: LoadedModel, asked: Sequence[Resolved], memory: int, steps: int) -> Stage:
    plan = plan_of(asked[0], steps)
    return by_tensor(
        steps,
        asked,
        lambda one: planned(model, one, plan, memory),
        lambda ones: path_sums(model, ones, plan, memory),
    )


def plan_of(resolved: Resolved, steps: int) -> Plan:
    """Where the rows of a request lie at a number of steps."""
    at = resolved.recipe.at
    assert isinstance(at, Path)
    quadrature = "trapezoid" if at.quadrature == "auto" else at.quadrature
    return (conductance_plan if at.conductance else mean_plan)(quadrature, steps)


def path_sums(model: LoadedModel, asked: Sequence[Resolved], plan: Plan, memory: int) -> SeveralEvaluations:
    """The attributions at the plan's rows, of targets in one tensor."""
    at = asked[0].recipe.at
    assert isinstance(at, Path)
    found = yield from along_path(model, asked, plan, at.conductance, memory)
    if at.conductance or at.apart:
        return found
    return [_reduced(one, sums) for one, sums in zip(asked, found, strict=True)]


def _reduced(resolved: Resolved, sums: Sums) -> Sums:
    """The attributions that mean gradients are reduced to."""
    ends = {layer: resolved.samples.wide_ends(layer) for layer in resolved.choice.layers}
    name, reduced = resolved.request.method.name, resolved.recipe.reduced
    fine, coarse = (
        {layer: reduced(name, mean, ends[layer][0] - ends[layer][1]) for layer, mean in part.items()}
        for part in (sums.fine, sums.coarse)
    )
    return replace(sums, fine=fine, coarse=coarse)


def missed(resolved: Resolved, sums: Sums) -> Floats:
    """Per sample what multipliers of a path, multiplied, miss of the change, relative to their L1 norm; 0 for all else,
    whose answer holds its residual."""
    at, names = resolved.recipe.at, resolved.choice.layers
    whole = isinstance(at, Path) and not (at.conductance or at.apart or at.through)
    if not whole or resolved.recipe.reduce is not multiplier:
        return np.zeros(resolved.samples.count // resolved.samples.references)
    parts = {}
    for name in names:
        high, low = resolved.samples.wide_ends(name)
        parts[name] = sums.fine[name] * (high - low)
    answered, mean = averaged(resolved, Sums(parts, {}))
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum([per_sample(part) for part in mean.fine.values()], axis=0)
        norm = np.sum([per_sample(np.abs(part)) for part in mean.fine.values()], axis=0)
        ratio = np.abs(total - (answered.value - answered.baseline_value)) / np.maximum(norm, 1e-30)
    return np.asarray(np.where(np.isfinite(norm), ratio, 0))
