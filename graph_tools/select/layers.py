"""The tensors that can be attributed to."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import element_type, is_float, shape_of
from onnx_attribution.graph_tools.ir.reach import ancestors, reachable
from onnx_attribution.graph_tools.select.cuts import cut_tensors
from onnx_attribution.values import LayerInfo


def layers_between(graph: gs.Graph, sources: Sequence[str], target: str) -> list[LayerInfo]:
    """The float tensors between the sources and the target, in order, both ends included."""
    nodes = list(graph.nodes)
    between = reachable(nodes, sources) & ancestors(nodes, [target], frozenset(sources))
    cuts = cut_tensors(nodes, sources, target)
    ordered = [name for name in sources if name in between]
    made = [z for node in nodes for z in node.outputs if z.name in between and is_float(z)]
    return described(graph, [*ordered, *(z.name for z in made if z.name not in sources)], cuts)


def described(graph: gs.Graph, names: Sequence[str], cuts: Collection[str]) -> list[LayerInfo]:
    """What is known of the tensors of these names."""
    tensors = graph.tensors()
    made_by = {z.name: node for node in graph.nodes for z in node.outputs}
    return [
        LayerInfo(
            name=name,
            node=made_by[name].name if name in made_by else "",
            operator=made_by[name].op if name in made_by else "input",
            dtype="string" if element_type(tensors[name]).kind in "OUS" else element_type(tensors[name]).name,
            shape=shape_of(tensors[name]),
            cut=name in cuts,
        )
        for name in names
    ]
