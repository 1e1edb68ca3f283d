"""Changes of a file's graph that many passes make."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnx_attribution.graph_tools.ir.nodes import reads


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that may be changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def set_nodes(graph: onnx.GraphProto | onnx.FunctionProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Puts nodes in place of those of a graph or function, some of which may be among them."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Orders nodes, in place, so that values are made before they are used."""
    made_by = {out: index for index, node in enumerate(graph.node) for out in node.output if out}
    if all(made_by.get(x, -1) < index for index, node in enumerate(graph.node) for x in reads(node)):
        return
    nodes, order, state = list(graph.node), [], [0] * len(graph.node)
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            top = stack[-1]
            if state[top] == 0:
                state[top] = 1
                stack += [made_by[x] for x in reads(nodes[top]) if x in made_by and state[made_by[x]] == 0]
            else:
                stack.pop()
                if state[top] == 1:
                    state[top] = 2
                    order.append(nodes[top])
    del graph.node[:]
    graph.node.extend(order)


def name_nodes(model: onnx.ModelProto) -> None:
    """Names, in place, the nodes that have no name or that of an earlier node."""
    taken = {node.name for node in model.graph.node}
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            name = f"{node.name or node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
        seen.add(node.name)
