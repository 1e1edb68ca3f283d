"""The secant of If: the branch that is taken, at x and at x', as long as both take the same one.

Where they take different ones there is no way to share the change; what arrives there turns to NaN, and the answer says
that its numbers are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.control_flow_emit import branches, dims
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float
from onnx_attribution.graph_tools.ir.reach import depends
from onnx_attribution.graph_tools.ir.subgraphs import Values, graft
from onnx_attribution.graph_tools.operators.control_flow import _local, _walked
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView
from onnx_attribution.graph_tools.operators.secant import CONTROL
from onnx_attribution.graph_tools.operators.tricks import declare


def if_(
    op: Emitter,
    node: NodeView,
    reference: NodeView,
    gradients: Sequence[Value | None],
    references: dict[str, Value],
    moving: set[str],
) -> Gradients:
    """Each branch is computed at x and at x' and walked back under the secant."""
    active = [k for k, is_active in enumerate(node.active) if is_active and is_float(node.input(k))]
    if node.active[0]:
        gradients = [g and _guarded(op, node.input(0), reference.input(0), g) for g in gradients]
    view = replace(node, active=tuple(k in active for k in range(len(node.inputs))))
    reached: set[int] = set()

    def reverse(inner: Emitter, graph: gs.Graph) -> Values:
        local = {k: _local(inner, node.input(k)) for k in active}
        made = graft(inner, graph, {node.input(k).name: x for k, x in local.items()})
        there = {node.input(k).name: reference.input(k) for k, moved in enumerate(node.active) if moved}
        made_there = twin(inner, graph, there)
        outer = {node.input(k).name for k, moved in enumerate(node.active) if moved}
        note(graph, made, made_there, outer, references, moving)
        for k, x in local.items():
            references[x.name] = reference.input(k)
            moving.add(x.name)
        found = _walked(inner, view, zip(graph.outputs, gradients, strict=False), made, local.values())
        reached.update(k for k, x in local.items() if x.name in found)
        return [found[x.name] if x.name in found else inner.zeros_like(x) for x in local.values()]

    results = branches(
        op,
        node.input(0),
        lambda inner: reverse(inner, node.attributes["then_branch"]),
        lambda inner: reverse(inner, node.attributes["else_branch"]),
        [dims(node.input(k)) for k in active],
    )
    by_input = dict(zip(active, results, strict=True))
    return [by_input[k] if k in reached else None for k in range(len(node.inputs))]


def _guarded(op: Emitter, condition: Value, other: Value, g: Value) -> Value:
    """What arrives, or NaN where x and x' go different ways."""
    same = op("Equal", condition, other)
    if dims(same):
        same = op("Reshape", same, op.ints([]))
    return declare(op("Where", same, g, op.like(g, float(np.nan))), dims(g))


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


CONTROL["If"] = if_
