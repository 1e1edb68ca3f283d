"""Which runs answer a request by its method, and in how many revisions."""

from __future__ import annotations

from collections.abc import Iterator

from onnx_attribution.server.engine.methods import deeplift, occlusion
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows import evaluate
from onnx_attribution.server.engine.rows.plan import Plan, conductance_plan, count_rows, mean_plan
from onnx_attribution.values import DEEPLIFT_METHODS, GRADIENT_METHODS, PATH_METHODS, AttributionRequest


def plans(request: AttributionRequest) -> Iterator[tuple[int, Plan | None]]:
    """Steps and plan of each revision: one, or with a tolerance as many as doublings fit."""
    if request.method not in PATH_METHODS:
        yield 0, None
        return
    make = conductance_plan if request.method == "neuron_ig" else mean_plan
    steps = request.steps
    yield steps, make(request.quadrature, steps)
    while request.tolerance is not None and steps < request.max_steps:
        steps = min(2 * steps, request.max_steps)
        yield steps, make(request.quadrature, steps)


def runs(model: LoadedModel, resolved: Resolved, plan: Plan | None, memory: int) -> evaluate.Evaluation:
    """The runs of one revision."""
    if plan is not None:
        return evaluate.path_sums(model, resolved, plan, memory)
    method = resolved.request.method
    if method == "occlusion":
        return occlusion.occlusion(model, resolved, memory)
    compute = deeplift.deeplift if method in DEEPLIFT_METHODS else evaluate.gradient
    return compute(model, resolved, memory)


def planned(model: LoadedModel, resolved: Resolved, plan: Plan | None, memory: int) -> int:
    """How many rows these runs evaluate, as far as that is known before."""
    samples, method = resolved.samples, resolved.request.method
    if plan is not None and samples.together:
        return count_rows(plan, samples.count, evaluate.row_limit(model, samples, memory))
    if plan is not None:
        return len(plan.alphas) * samples.count
    if method == "occlusion":
        return len(occlusion.rows_of(resolved))
    if method in DEEPLIFT_METHODS:
        return deeplift.deeplift_evaluations(model, resolved, memory)
    return samples.count


def sums_to_change(request: AttributionRequest) -> bool:
    """Whether the attributions of a cut sum to the change of the target."""
    return request.multiply_by_inputs and request.method not in (*GRADIENT_METHODS, "occlusion")
