"""Graphs inside nodes: what they read from outside, copies of them, and If, Loop and Scan emitted from functions.

The bodies that `scan`, `loop` and `branches` emit read outer values by name, as those of a file do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.ir.quiet import quiet

Values = list[Value]
Dims = Sequence[int | str | None]
ALIKE = frozenset({"AveragePool", "Conv", "ConvInteger", "ConvTranspose", "MaxPool", "Pad", "Slice", "Tile"})
"""Operators whose first output has as many axes as their first input, where ONNX's inference needs sizes for that."""


def graphs_of(node: gs.Node) -> list[gs.Graph]:
    """The graphs among the attributes of a node."""
    return [value for value in node.attrs.values() if isinstance(value, gs.Graph)]


def inner_nodes(node: gs.Node) -> list[gs.Node]:
    """The nodes of the graphs of a node, those of graphs within included."""
    return [one for graph in graphs_of(node) for inner in graph.nodes for one in (inner, *inner_nodes(inner))]


def captured(node: gs.Node) -> list[gs.Variable]:
    """The outer variables that the graphs of a node read, those that only inner nodes read included, each once."""
    found: dict[str, gs.Variable] = {}
    for graph in graphs_of(node):
        local = {x.name for x in graph.inputs} | {z.name for n in graph.nodes for z in n.outputs}
        for value in [*(x for n in graph.nodes for x in inputs_of(n)), *graph.outputs]:
            if isinstance(value, gs.Variable) and not value.is_empty() and value.name not in local:
                found.setdefault(value.name, value)
    return list(found.values())


def inputs_of(node: gs.Node) -> Values:
    """The inputs of a node, and after them the variables that its graphs capture."""
    return [*node.inputs, *captured(node)]


def key_of(node: gs.Node) -> tuple[str, str]:
    """Domain and operator, as the tables of rules name them."""
    return "" if node.domain in (None, "ai.onnx") else node.domain, node.op


def graft(op: Emitter, graph: gs.Graph, values: Mapping[str, Value], names: str = "") -> dict[str, Value]:
    """Appends a copy of the nodes of `graph`, reading `values` by name where it names them.

    Returns the value of every tensor of `graph` by its old name, types and ranks filled in. `names` is put before
    those of the nodes.
    """
    made = _copied(graph, op.graph.nodes, values, op.prefix, names)
    infer_types(op.graph)
    return made


def _copied(
    graph: gs.Graph, nodes: list[gs.Node], values: Mapping[str, Value], prefix: str, names: str = ""
) -> dict[str, Value]:
    """Copies the nodes of `graph` into `nodes`; inner names get a prefix, so that they hide no outer name."""
    made = dict(values)
    for node in graph.nodes:
        attributes = attributes_of(node, made, prefix)
        outputs: Values = []
        for z in node.outputs:
            twin = gs.Variable.empty() if z.is_empty() else _twin(z, prefix)
            if not z.is_empty():
                made[z.name] = twin
            outputs.append(twin)
        inputs = [made.get(x.name, x) for x in node.inputs]
        name = node.name and names + node.name
        nodes.append(gs.Node(node.op, name, attributes, inputs, outputs, domain=node.domain))
    for z in graph.outputs:
        made.setdefault(z.name, z)
    return made


def attributes_of(node: gs.Node, values: Mapping[str, Value], prefix: str) -> dict[str, Any]:
    """The attributes of a node with copies of its graphs that read `values` by name where they name them."""
    return {
        name: _renamed(value, values, prefix) if isinstance(value, gs.Graph) else value
        for name, value in node.attrs.items()
    }


def _twin(value: Value, prefix: str) -> gs.Variable:
    return gs.Variable(f"{prefix}/{value.name}", dtype=value.dtype, shape=value.shape, type=value.type)


def _renamed(graph: gs.Graph, values: Mapping[str, Value], prefix: str) -> gs.Graph:
    """A copy of an inner graph with its own names."""
    inputs = {x.name: _twin(x, prefix) for x in graph.inputs}
    nodes: list[gs.Node] = []
    made = _copied(graph, nodes, {**values, **inputs}, prefix)
    return gs.Graph(
        nodes=nodes,
        inputs=list(inputs.values()),
        outputs=[made[z.name] for z in graph.outputs],
        name=graph.name,
        opset=graph.opset,
        import_domains=graph.import_domains,
    )


def infer_types(graph: gs.Graph) -> None:
    """Fills in the types and ranks of the tensors of an inner graph, as far as ONNX's inference knows them."""
    made = {z.name: z for node in graph.nodes for z in node.outputs if not z.is_empty()}
    unknown = {name: z for name, z in made.items() if _is_untyped(z)}
    if not unknown:
        return
    read = {x.name: x for node in graph.nodes for x in inputs_of(node) if isinstance(x, gs.Variable)}
    given = {**{x.name: x for x in graph.inputs}, **{k: x for k, x in read.items() if k and k not in made}}
    staged = gs.Graph(graph.nodes, given.values(), unknown.values(), opset=graph.opset)
    staged.import_domains = graph.import_domains
    with quiet():
        exported = gs.export_onnx(staged, do_type_check=False)
    inferred = onnx.shape_inference.infer_shapes(exported, data_prop=True)
    symbols = {d for x in given.values() for d in x.shape or () if isinstance(d, str)}
    for info in inferred.graph.output:
        if not info.type.HasField("tensor_type"):
            continue
        known, value = OnnxImporter.import_tensor(info), unknown[info.name]
        value.dtype = known.dtype if value.dtype is None else value.dtype
        if value.shape is None and known.shape is not None:  # a new symbol may mean another thing outside
            value.shape = [d if isinstance(d, int) or d in symbols else None for d in known.shape]
    nested = [node for node in graph.nodes if graphs_of(node) and any(map(_is_untyped, node.outputs))]
    if sum([type_graphs(node) for node in nested]) + sum([_ranked_alike(node) for node in graph.nodes]):
        infer_types(graph)


def _ranked_alike(node: gs.Node) -> int:
    """Gives the output of an operator that keeps the number of axes that of its input; whether it had none before."""
    x, z = (*node.inputs, None)[0], (*node.outputs, None)[0]
    if (
        node.op not in ALIKE
        or x is None
        or z is None
        or z.is_empty()
        or z.shape is not None
        or x.shape is None
    ):
        return 0
    z.shape = [None] * len(x.shape)
    return 1


def type_graphs(node: gs.Node) -> int:
    """Fills in the types and ranks in the graphs of a node, and of those outputs where ONNX's inference gives up.

    Returns how many outputs it filled in.
    """
    before = sum(map(_is_untyped, node.outputs))
    for graph in graphs_of(node):
        for x, like in zip(graph.inputs, _fed(node), strict=False):
            x.dtype = like.dtype if x.dtype is None else x.dtype
            if x.shape is None and like.shape is not None:
                x.shape = [None] * len(like.shape)
        infer_types(graph)
        skipped = 1 if node.op == "Loop" else 0
        carried = {
            "Loop": len(graph.inputs) - 2,
            "Scan": len(graph.inputs) - node.attrs.get("num_scan_inputs", 0),
        }
        alike = carried.get(node.op, len(node.outputs))
        for k, (z, inner) in enumerate(zip(node.outputs, graph.outputs[skipped:], strict=False)):
            z.dtype = inner.dtype if z.dtype is None else z.dtype
            if z.shape is None and inner.shape is not None:
                z.shape = [None] * (len(inner.shape) + (k >= alike))
    return before - sum(map(_is_untyped, node.outputs))


def _fed(node: gs.Node) -> Values:
    """What the inputs of the graph of a node look like."""
    if node.op == "Loop":
        counter = gs.Variable("iteration", np.dtype(np.int64), [])
        return [counter, gs.Variable("going", np.dtype(bool), []), *node.inputs[2:]]
    if node.op != "Scan":
        return []
    count = len(node.inputs) - node.attrs["num_scan_inputs"]
    slices = [gs.Variable(x.name, x.dtype, x.shape and list(x.shape)[1:]) for x in node.inputs[count:]]
    return [*node.inputs[:count], *slices]


def _is_untyped(value: Value) -> bool:
    return (
        not value.is_empty() and value.type == "tensor_type" and (value.dtype is None or value.shape is None)
    )


Branch = Callable[[Emitter], Values]
Step = Callable[[Emitter, Values, Values], tuple[Values, Values]]
