"""Which tensors every way from the sources to the target crosses."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.reach import SHAPE_ONLY as SHAPE_ONLY
from onnx_attribution.graph_tools.ir.reach import ancestors
from onnx_attribution.graph_tools.ir.reach import dependents as dependents
from onnx_attribution.graph_tools.ir.subgraphs import inputs_of


def cut_tensors(nodes: Sequence[gs.Node], sources: Sequence[str], target: str) -> set[str]:
    """The tensors that every way from the sources to the target crosses; what makes a source is no part of a way.

    In an order in which every edge leads forward, a tensor is crossed by every way exactly if no edge between tensors
    and nodes on such ways leaps over it.
    """
    given = frozenset(sources)
    between = dependents(nodes, sources) & ancestors(nodes, [target], given)
    if target not in between:
        return set()
    place: dict[str, int] = dict.fromkeys(sources, 0)
    clock, furthest, cuts = 0, 0, set[str]()
    last_use: dict[str, int] = {}
    order: list[tuple[int, gs.Node]] = []
    for node in nodes:
        if node.op in SHAPE_ONLY or not any(x.name in between for x in inputs_of(node)):
            continue
        if not any(z.name in between and z.name not in given for z in node.outputs):
            continue
        clock += 1
        order.append((clock, node))
        for x in inputs_of(node):
            if x.name in between:
                last_use[x.name] = clock
        for z in node.outputs:
            if z.name in between:
                place.setdefault(z.name, clock)
    live = [name for name in place if name in between]
    if len([s for s in sources if s in between]) == 1:
        cuts.update(s for s in sources if s in between)
    furthest = max((last_use.get(s, 0) for s in sources if s in between), default=0)
    for moment, node in order:
        made = [z.name for z in node.outputs if z.name in between and z.name not in given]
        # every way passes this node if no tensor made earlier is used later
        if furthest <= moment and len(made) == 1:
            cuts.add(made[0])
        furthest = max([furthest, *[last_use.get(name, 0) for name in made]])
    return {name for name in cuts if name in live}


def is_cut(nodes: Sequence[gs.Node], sources: Sequence[str], target: str, layers: Sequence[str]) -> bool:
    """Whether every way from the sources to the target crosses one of the layers."""
    crossed = set(layers)
    found = {name for name in sources if name not in crossed}
    if target in crossed:
        return True
    for node in nodes:
        if node.op not in SHAPE_ONLY and any(x.name in found for x in inputs_of(node)):
            found.update(z.name for z in node.outputs if z.name not in crossed)
    return target not in found


def is_joint_cut(
    nodes: Sequence[gs.Node], sources: Sequence[str], target: str, layers: Sequence[str]
) -> bool:
    """Whether every way from the sources to the target crosses exactly one of several layers, the sources themselves
    for one: then what they contribute sums to the change."""
    if len(layers) < 2 or not is_cut(nodes, sources, target, layers):
        return False
    given = frozenset(sources)
    behind = [ancestors(nodes, [layer], given) if layer not in given else {layer} for layer in layers]
    return not any(
        one != layer and one in found for layer, found in zip(layers, behind, strict=True) for one in layers
    )
