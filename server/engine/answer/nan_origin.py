"""Where NaN and infinite numbers begin: the gradient once more, with every tensor between source and target in view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import AttributionError
from onnx_attribution.graph_tools.ir.convert import graph_of
from onnx_attribution.graph_tools.ir.subgraphs import inputs_of
from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.programs.branches import conditions, with_branches
from onnx_attribution.graph_tools.programs.forward import forward_program
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.graph_tools.select.layers import layers_between
from onnx_attribution.graph_tools.walk.differentiate import reachable
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import between
from onnx_attribution.values import Array

ALPHAS = (1.0, 0.0, 0.5, 0.25, 0.75)
STEEP = 30.0
"""Times that a gradient grows through a node which sits near a singular point."""
SINGULAR = {
    "a normalisation of constants": {
        "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization",
        "MeanVarianceNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization", "GroupNorm", "SkipGroupNorm",
    },
    "a division by nearly 0": {"Div", "Reciprocal"},
    "a logarithm near 0": {"Log", "ReduceLogSum"},
    "a root near 0": {"Pow", "Sqrt"},
}  # fmt: skip
_SINGULAR = frozenset(op for kinds in SINGULAR.values() for op in kinds)
DEPTH = 4  # of Ifs inside Ifs that are looked into


def origin_of(model: LoadedModel, resolved: Resolved, sample: int, memory: int) -> tuple[str, bool] | None:
    """Where the numbers of a sample stop being finite: at x, at x', or at some points between them; and whether that
    is x' alone.

    None where they are finite at all of these, or where the tensors of one row take more than `memory` bytes.
    """
    if model.bytes_per_row(resolved.samples.runs[0].x) > memory:
        return None
    points = _points(resolved, sample, ALPHAS)
    try:
        found = [origin(model, resolved.choice, [point]) for point in points[:2]]
        if any(found):
            return (found[0], False) if found[0] else (str(found[1]), True)
        words = origin(model, resolved.choice, points[2:])
    except AttributionError:  # a way that gradients do not take
        return None
    return (words, False) if words else None


def steep_of(model: LoadedModel, resolved: Resolved, sample: int, memory: int) -> str | None:
    """In words the node through which the gradient grows at x' as it does not halfway: a singular point is near.

    None where there is none, or where the tensors of one row take more than `memory` bytes.
    """
    if not model.operators & _SINGULAR or model.bytes_per_row(resolved.samples.runs[0].x) > memory:
        return None
    try:
        (nodes, _, low), (others, _, half) = _seen(
            model, resolved.choice, _points(resolved, sample, (0.0, 0.5))
        )
    except AttributionError:
        return None
    if [node.name for node in nodes] != [node.name for node in others]:  # branches
        return None
    growth = {}
    for k, node in enumerate(nodes):
        if node.op not in _SINGULAR:  # others have a gradient of their own size
            continue
        at_low, at_half = _growth(node, low), _growth(node, half)
        if at_low > STEEP and at_low > STEEP * at_half:
            growth[k] = at_low
    if not growth:
        return None
    node = nodes[max(growth, key=lambda k: growth[k])]
    what = next(words for words, kinds in SINGULAR.items() if node.op in kinds)
    return f"{what}, {_words(node)}"


def _growth(node: gs.Node, found: Mapping[str, Array]) -> float:
    """How many times larger the gradient is before a node than behind it."""

    def largest(values: Iterable[gs.Tensor]) -> float:
        sizes = [
            np.abs(found[f"gradient/{v.name}"]).max(initial=0)
            for v in values
            if f"gradient/{v.name}" in found
        ]
        return float(max(sizes, default=0))

    behind = largest(node.outputs)
    return largest(inputs_of(node)) / behind if behind else 0.0


def _points(resolved: Resolved, sample: int, alphas: Sequence[float]) -> list[dict[str, Array]]:
    """The inputs of a gradient program at points of the path."""
    run = resolved.samples.take([sample])
    moved = {n: low for n, low in run.baselines.items() if low.dtype.kind in "fV"}
    return [
        {**run.feeds(), **{n: between(low, run.x[n], alpha) for n, low in moved.items()}} for alpha in alphas
    ]


def origin(model: LoadedModel, choice: Choice, points: Iterable[Mapping[str, Array]]) -> str | None:
    """In words the first node, forward or on the way back, that makes NaN or infinity of finite numbers.

    Each point holds the inputs of a gradient program: the model's, hidden sources by name and `target/weight`. None
    where all numbers are finite. Infinity that a later operator takes as it is, as a softmax takes a mask, counts last.
    """
    return next((words for seen in _seen(model, choice, points) if (words := _first(*seen))), None)


def _seen(
    model: LoadedModel, choice: Choice, points: Iterable[Mapping[str, Array]]
) -> Iterator[tuple[list[gs.Node], tuple[str, ...], dict[str, Array]]]:
    """At each point the nodes, the tensors on the ways from the sources to the target, and their values and
    gradients."""
    for inputs in points:
        network, way = _in_view(model, choice, inputs)
        nodes, names, session = model.kept(
            ("in view", way, choice.sources, choice.target), partial(_in_full, model, network, choice)
        )
        yield nodes, names, session.run(inputs)


def _in_full(
    model: LoadedModel, network: Network, choice: Choice
) -> tuple[list[gs.Node], tuple[str, ...], Session]:
    """The nodes, the tensors on the ways from the sources to the target, and the session that returns them all."""
    graph = graph_of(network.model)
    nodes = list(graph.nodes)
    between = layers_between(graph, choice.sources, choice.target)
    names = tuple(x.name for x in between if choice.target in reachable(nodes, [x.name]))
    program = rows_program(network, replace(choice, layers=names, through=None))
    return nodes, names, model.backend.session(program.model, optimise=False)


def _in_view(model: LoadedModel, choice: Choice, inputs: Mapping[str, Array]) -> tuple[Network, str]:
    """The network with the branches of its Ifs that these inputs take, and which those are."""
    network, way = model.network, ""
    for _ in range(DEPTH):
        asked = conditions(network.model)
        if not asked:
            break
        session = model.kept(
            ("conditions", way, choice.sources),
            partial(_of_conditions, model, network, asked, choice.sources),
        )
        found = session.run(inputs)
        taken = {name: bool(np.all(found.get(name, found.get(f"output/{name}")))) for name in asked}
        network = replace(network, model=with_branches(network.model, taken))
        way += "".join(map(str, map(int, taken.values()))) + "."
    return network, way


def _of_conditions(
    model: LoadedModel, network: Network, asked: Sequence[str], sources: Sequence[str]
) -> Session:
    return model.backend.session(forward_program(network, asked, sources).model, optimise=False)


def _first(nodes: list[gs.Node], names: Sequence[str], found: Mapping[str, Array]) -> str | None:
    values = {name: found[f"activation/{name}"] for name in names}
    gradients = {name: found[f"gradient/{name}"] for name in names}
    not_numbers = {name for name, value in values.items() if np.isnan(value).any()}
    infinite = {name for name, value in values.items() if not np.isfinite(value).all()}
    lost = {name for name, value in gradients.items() if not np.isfinite(value).all()}
    if node := _first_ahead(nodes, not_numbers):
        return f"NaN begins in the forward pass, at {_words(node)}"
    if node := _first_back(nodes, lost, set(names)):
        return f"NaN or infinity begins in the backward pass, at {_words(node)}"
    if node := _first_ahead(nodes, infinite):
        return f"infinity begins in the forward pass, at {_words(node)}"
    return None


def _first_ahead(nodes: list[gs.Node], bad: set[str]) -> gs.Node | None:
    return next(
        (
            node
            for node in nodes
            if any(z.name in bad for z in node.outputs) and not any(x.name in bad for x in inputs_of(node))
        ),
        None,
    )


def _first_back(nodes: list[gs.Node], bad: set[str], known: set[str]) -> gs.Node | None:
    return next(
        (
            node
            for node in reversed(nodes)
            if any(x.name in bad for x in inputs_of(node))
            and any(z.name in known for z in node.outputs)
            and not any(z.name in bad for z in node.outputs)
        ),
        None,
    )


def _words(node: gs.Node) -> str:
    return f"{node.op} (node {node.name!r}, output {node.outputs[0].name!r})"
