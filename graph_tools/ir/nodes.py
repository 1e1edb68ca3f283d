"""What a file holds: graphs inside of nodes, what nodes read, the version of their operators."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among the attributes of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def reads(node: onnx.NodeProto) -> list[str]:
    """The names that a node reads, and after them those that its graphs do."""
    names = [x for x in node.input if x]
    for graph in inner_graphs(node):
        names += [x for inner in graph.node for x in reads(inner)] + [z.name for z in graph.output]
    return names


def placed_graphs(graph: onnx.GraphProto, place: str) -> Iterator[tuple[str, onnx.GraphProto]]:
    """A graph and those inside of it, each with its place: "" for the outermost."""
    yield place, graph
    for index, node in enumerate(graph.node):
        for number, inner in enumerate(inner_graphs(node)):
            yield from placed_graphs(inner, f"{place}/{index}.{number}")


def graphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside of it."""
    for _, one in placed_graphs(graph, ""):
        yield one


def nodes_in(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of those inside of it."""
    for one in graphs_in(graph):
        yield from one.node


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators; 0: none is named."""
    return next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)


def made_in(graph: onnx.GraphProto) -> list[str]:
    return [z for node in graph.node for z in node.output if z]
