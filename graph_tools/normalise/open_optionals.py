"""Opens optional values: where it is known that one is there, operators on optionals become operators on tensors."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.ir.nodes import graphs_in, nodes_in

READERS = {"OptionalGetElement", "OptionalHasElement"}
OPENED = {"Optional", *READERS}


def opened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the optionals that only such operators read; itself where there are none."""
    if not any(node.op_type == "Optional" for node in nodes_in(model.graph)):
        return model
    result = copied(model)
    nodes = list(nodes_in(result.graph))
    made = {node.output[0] for node in nodes if node.op_type == "Optional" and node.input and node.input[0]}
    read = {x for node in nodes if node.op_type not in READERS for x in node.input}
    handed_on = {out.name for graph in graphs_in(result.graph) for out in graph.output}
    certain = made - read - handed_on
    for node in nodes:
        name = (
            node.output[0] if node.op_type == "Optional" else node.input[0] if node.op_type in READERS else ""
        )
        if name not in certain:
            continue
        if node.op_type == "OptionalHasElement":
            there = numpy_helper.from_array(np.asarray(True))
            node.op_type = "Constant"
            del node.input[:]
            node.attribute.append(helper.make_attribute("value", there))
        else:
            node.op_type = "Identity"
            del node.attribute[:]
    for graph in graphs_in(result.graph):
        for value in [v for v in graph.value_info if v.name in certain]:
            graph.value_info.remove(value)
    return result
