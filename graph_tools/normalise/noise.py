"""Operators that draw numbers: where they are, and the same model without them, so that two can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from onnx_attribution.graph_tools.ir.edit import copied, set_nodes
from onnx_attribution.graph_tools.ir.nodes import inner_graphs
from onnx_attribution.graph_tools.ir.subgraphs import graphs_of, inputs_of

LIKE = frozenset({"RandomNormalLike", "RandomUniformLike"})
DRAWING = LIKE | {"Bernoulli", "Multinomial", "RandomNormal", "RandomUniform"}
DROPPING = frozenset({"BiasDropout", "BitmaskBiasDropout", "BitmaskDropout", "Dropout"})
"""Operators that drop elements at random where their last input says that the model is trained."""
TRAINING = {"Dropout": 2, "BitmaskDropout": 2, "BiasDropout": 4, "BitmaskBiasDropout": 4}


def stilled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with what it would draw replaced by numbers that stay; itself where it draws none."""
    functions = [function.node for function in model.functions]
    if not any(_draws(node) for nodes in (model.graph.node, *functions) for node in nodes):
        return model
    calm = copied(model)
    for function in calm.functions:
        nodes = [
            onnx.NodeProto.FromString(n.SerializeToString()) for node in function.node for n in _stilled(node)
        ]
        del function.node[:]
        function.node.extend(nodes)
    _still_graph(calm.graph)
    return calm


def _draws(node: onnx.NodeProto) -> bool:
    return (
        node.op_type in DRAWING
        or (node.op_type in DROPPING and len(node.input) > TRAINING[node.op_type])
        or any(_draws(inner) for graph in inner_graphs(node) for inner in graph.node)
    )


def _still_graph(graph: onnx.GraphProto) -> None:
    """Replaces, in place, the nodes that draw."""
    nodes = [new for node in graph.node for new in _stilled(node)]
    set_nodes(graph, nodes)


def _stilled(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The node, or nodes with the same outputs that draw nothing: what is drawn like a tensor is the tensor."""
    for graph in inner_graphs(node):
        _still_graph(graph)
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    z = list(node.output)
    if node.op_type in DROPPING and len(node.input) > TRAINING[node.op_type]:
        kept = list(node.input)[: TRAINING[node.op_type]]
        del node.input[:]
        node.input.extend(kept)
        return [node]
    if node.op_type not in DRAWING:
        return [node]
    if node.op_type in ("RandomNormal", "RandomUniform"):
        kind = helper.tensor_dtype_to_np_dtype(given.get("dtype", onnx.TensorProto.FLOAT))
        numbers = np.random.default_rng(0).uniform(size=list(given["shape"])).astype(kind)
        return [helper.make_node("Constant", [], z, node.name, value=numpy_helper.from_array(numbers))]
    if node.op_type == "Multinomial":
        best, many = f"{z[0]}/best", f"{z[0]}/many"
        size, kind = given.get("sample_size", 1), given.get("dtype", onnx.TensorProto.INT32)
        return [
            helper.make_node("ArgMax", [node.input[0]], [best], best, axis=1, keepdims=1),
            helper.make_node("Concat", [best] * size, [many], many, axis=1),
            helper.make_node("Cast", [many], z, node.name, to=kind),
        ]
    if "dtype" in given:
        return [helper.make_node("Cast", [node.input[0]], z, node.name, to=given["dtype"])]
    return [helper.make_node("Identity", [node.input[0]], z, node.name)]


def show_masks(graph: onnx.GraphProto) -> None:
    """Gives, in place, each Dropout that a value decides on the output that says what it dropped."""
    fixed = {t.name for t in graph.initializer} | {
        node.output[0] for node in graph.node if node.op_type == "Constant"
    }
    for node in graph.node:
        if (
            node.op_type != "Dropout"
            or len(node.input) <= TRAINING["Dropout"]
            or node.input[2] in {"", *fixed}
        ):
            continue
        if len(node.output) == 1:
            node.output.append("")
        node.output[1] = node.output[1] or f"{node.output[0]}/kept"


def drawing_before(nodes: Sequence[gs.Node], target: str) -> list[gs.Node]:
    """The nodes that draw numbers, or may, and on whose values the target depends."""
    behind, found = {target}, []
    for node in reversed(nodes):
        if not any(z.name in behind for z in node.outputs) or node.op in ("Shape", "Size"):
            continue
        if _may_draw(node):
            found.append(node)
        behind.update(x.name for x in inputs_of(node))
    return found[::-1]


def _may_draw(node: gs.Node) -> bool:
    if node.op in DROPPING and len(node.inputs) > TRAINING[node.op]:
        flag = node.inputs[TRAINING[node.op]]
        return not flag.is_empty() and not (isinstance(flag, gs.Constant) and not np.any(flag.values))
    return node.op in DRAWING or any(_may_draw(n) for graph in graphs_of(node) for n in graph.nodes)


def flag_of(node: gs.Node) -> str:
    """The name of the value that says whether a node drops at random; "" where it always draws."""
    if node.op not in DROPPING or isinstance(node.inputs[TRAINING[node.op]], gs.Constant):
        return ""
    return str(node.inputs[TRAINING[node.op]].name)
