"""If: the branch that is taken is computed again and walked back, at x or at x and x'.

Where x and x' take different branches there is no way to share the change; what arrives there turns to NaN, and the
answer says that its numbers are none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_attribution.graph_tools.ir.control_flow_emit import branches, dims
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float
from onnx_attribution.graph_tools.ir.subgraphs import Values, graft
from onnx_attribution.graph_tools.operators.control_flow.inner import locally, note, twin, walked
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, secant, vjp
from onnx_attribution.graph_tools.operators.transpose import declare, known


@vjp("If", sparse=True)
def if_(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
    def reverse(inner: Emitter, graph: gs.Graph, local: Mapping[int, Value]) -> dict[str, Value]:
        made = graft(inner, graph, {node.input(k).name: x for k, x in local.items()})
        return walked(inner, node, zip(graph.outputs, gradients, strict=False), made, local.values())

    return _branches(op, node, reverse, known(node.input(0)))


@secant("If", to="inner")
def if_secant(
    op: Emitter,
    node: NodeView,
    reference: NodeView,
    gradients: Sequence[Value | None],
    references: dict[str, Value],
    moving: set[str],
) -> Gradients:
    """Each branch is computed at x and at x' and walked back under the secant."""
    moved = [k for k, is_active in enumerate(node.active) if is_active]
    if node.active[0]:
        gradients = [g and _guarded(op, node.input(0), reference.input(0), g) for g in gradients]
    view = replace(
        node, active=tuple(k in moved and is_float(node.input(k)) for k in range(len(node.inputs)))
    )

    def reverse(inner: Emitter, graph: gs.Graph, local: Mapping[int, Value]) -> dict[str, Value]:
        made = graft(inner, graph, {node.input(k).name: x for k, x in local.items()})
        made_there = twin(inner, graph, {node.input(k).name: reference.input(k) for k in moved})
        note(graph, made, made_there, {node.input(k).name for k in moved}, references, moving)
        for k, x in local.items():
            references[x.name] = reference.input(k)
            moving.add(x.name)
        return walked(inner, view, zip(graph.outputs, gradients, strict=False), made, local.values())

    return _branches(op, view, reverse)


def _branches(
    op: Emitter,
    node: NodeView,
    reverse: Callable[[Emitter, gs.Graph, Mapping[int, Value]], Mapping[str, Value]],
    decided: NDArray[Any] | None = None,
) -> Gradients:
    """What `reverse` finds for the active inputs in the branch that is taken, which may be `decided` by a constant."""
    active = [k for k, is_active in enumerate(node.active) if is_active]
    reached: set[int] = set()

    def gradients(inner: Emitter, graph: gs.Graph) -> Values:
        local = {k: locally(inner, node.input(k)) for k in active}
        found = reverse(inner, graph, local)
        reached.update(k for k, x in local.items() if x.name in found)
        return [found[x.name] if x.name in found else inner.zeros_like(x) for x in local.values()]

    then, otherwise = node.attributes["then_branch"], node.attributes["else_branch"]
    if decided is None:
        results = branches(
            op,
            node.input(0),
            lambda inner: gradients(inner, then),
            lambda inner: gradients(inner, otherwise),
            [dims(node.input(k)) for k in active],
        )
    else:
        taken = op.graph.tensors()
        name = op.name_for("If")
        while any(other.startswith(f"{name}/") for other in taken):
            name = op.name_for("If")
        results = gradients(Emitter(op.graph, name), then if decided.all() else otherwise)
    by_input = dict(zip(active, results, strict=True))
    return [by_input[k] if k in reached else None for k in range(len(node.inputs))]


def _guarded(op: Emitter, condition: Value, other: Value, g: Value) -> Value:
    """What arrives, or NaN where x and x' go different ways."""
    same = op("Equal", condition, other)
    if dims(same):
        same = op("Reshape", same, op.ints([]))
    return declare(op("Where", same, g, op.like(g, float(np.nan))), dims(g))
