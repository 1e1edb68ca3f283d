"""fb_trace: shares of what is explained, of which those below a threshold are dropped on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from onnx_attribution.methods import FbTrace
from onnx_attribution.server.engine.methods.stages import Stage, one_by_one
from onnx_attribution.server.engine.methods.trace_flow import positive_flow, signed_flow
from onnx_attribution.server.engine.methods.trace_shares import (
    BISECTIONS,
    contributions,
    layer_supports,
    positive_masses,
    thresholds_told,
    trace_of,
)
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Recipe, Trace, recipe
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Evaluation, Sums
from onnx_attribution.supports import Edge, Support


@recipe(FbTrace)
def fb_trace(method: FbTrace) -> Recipe:
    absolute = None if method.first == "auto" else method.first == "absolute"
    at = Trace(method.form == "signed", method.tau, method.budget, absolute, method.channel_axis, method.top)
    return Recipe(at, multiplied=True)


def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
    """One stage, whatever runs a threshold takes."""
    at = trace_of(asked[0])
    runs = 1 if at.signed or at.tau is not None else BISECTIONS + 2
    yield one_by_one(0, asked, lambda one: runs * one.samples.count, lambda one: _traced(model, one, memory))


def _traced(model: LoadedModel, resolved: Resolved, memory: int) -> Evaluation:
    at, asked = trace_of(resolved), resolved.choice.layers
    every = tuple(dict.fromkeys([*asked, *resolved.choice.sources]))  # a budget is of the sources
    whole = replace(resolved, choice=replace(resolved.choice, layers=every))
    run = contributions if at.signed else positive_masses
    found, value, tau = yield from run(model, whole, memory)
    notes = () if at.tau is not None else tuple(thresholds_told(whole, found, tau))
    kept = {name: found[name] for name in asked}
    layers = [layer_supports(resolved, name, r) for name, r in kept.items()]
    edges = [list[Edge]() for _ in range(resolved.samples.count)]
    if at.top:
        flow = signed_flow if at.signed else positive_flow
        for k, edge in (
            yield from flow(model, whole, dict(zip(asked, layers, strict=True)), kept, tau, memory)
        ):
            edges[k].append(edge)
    supports = [
        Support({name: of[k] for name, of in zip(asked, layers, strict=True)}, tuple(edges[k]))
        for k in range(resolved.samples.count)
    ]
    return Sums(kept, {}, value, notes=notes, supports=tuple(supports))
