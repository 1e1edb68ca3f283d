"""Copies of the graphs inside nodes: their gradients, and their twins at x'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.control_flow_emit import dims
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.ir.reach import depends
from onnx_attribution.graph_tools.ir.subgraphs import Values, graft
from onnx_attribution.graph_tools.operators.registry import NodeView
from onnx_attribution.graph_tools.operators.transpose import declare


def walked(
    inner: Emitter,
    node: NodeView,
    pairs: Iterable[tuple[Value, Value | None]],
    made: Mapping[str, Value],
    wrt: Iterable[Value],
) -> dict[str, Value]:
    """The gradients of `wrt` inside a copied graph; `pairs` are outputs of the original with what arrives there."""
    arrived: dict[str, Values] = {}
    for z, g in pairs:
        if g is not None:
            if len(dims(g)) != len(
                dims(made[z.name])
            ):  # a branch of another rank: never taken where g arrives
                g = inner.reshape_like(g, made[z.name])
            arrived.setdefault(made[z.name].name, []).append(g)
    seeds = {name: g[0] if len(g) == 1 else inner("Sum", *g) for name, g in arrived.items()}
    assert node.walk is not None
    by_name = {x.name: x for x in wrt}
    found = node.walk(inner, seeds, list(by_name))
    for name, g in found.items():
        if g.shape is None:
            declare(g, dims(by_name[name]))
    return found


def locally(inner: Emitter, outer: Value) -> Value:
    """A captured value under a name of the inner graph, where the walk can find it."""
    return declare(inner("Identity", outer), dims(outer))


def twin(inner: Emitter, graph: gs.Graph, values: Mapping[str, Value]) -> dict[str, Value]:
    """A second copy of a graph in the same one, its tensors and nodes under names of their own."""
    other = Emitter(inner.graph, f"{inner.prefix}/reference")
    return graft(other, graph, values, f"{other.prefix}/")


def note(
    graph: gs.Graph,
    made: dict[str, Value],
    there: dict[str, Value],
    moved: set[str],
    references: dict[str, Value],
    moving: set[str],
) -> None:
    """Says of each tensor of a copied graph what it is at x', and whether it moves."""
    moved = set(moved)
    for inner in graph.nodes:
        is_moved = depends(inner, moved)
        for z in inner.outputs:
            if z.is_empty() or z.name not in made:
                continue
            references[made[z.name].name] = there[z.name]
            if is_moved:
                moved.add(z.name)
                moving.add(made[z.name].name)
