"""A model with the branches of its Ifs that are taken in their places, so that what lies in them is in view."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

from onnx_attribution.graph_tools.ir.edit import copied


def conditions(model: onnx.ModelProto) -> list[str]:
    """The tensors that decide about the Ifs of the graph, those inside other nodes left out."""
    return list(dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type == "If"))


def with_branches(model: onnx.ModelProto, taken: Mapping[str, bool]) -> onnx.ModelProto:
    """A copy in which each If whose condition is named has given way to its branch. Nodes keep their names."""
    made = copied(model)
    del made.graph.node[:]
    used = _names(model.graph)
    for node in model.graph.node:
        if node.op_type != "If" or node.input[0] not in taken:
            made.graph.node.append(node)
            continue
        wanted = "then_branch" if taken[node.input[0]] else "else_branch"
        branch = next(a.g for a in node.attribute if a.name == wanted)
        own = {z for inner in branch.node for z in inner.output if z} | {t.name for t in branch.initializer}
        renamed: dict[str, str] = {}
        for name in own:
            fresh = name
            while fresh in used:
                fresh += "'"
            used.add(fresh)
            renamed[name] = fresh
        for tensor in branch.initializer:
            made.graph.initializer.add().CopyFrom(tensor)
            made.graph.initializer[-1].name = renamed[tensor.name]
        for value in (*branch.value_info, *branch.output):
            if value.name in renamed:
                made.graph.value_info.add().CopyFrom(value)
                made.graph.value_info[-1].name = renamed[value.name]
        for inner in branch.node:
            made.graph.node.append(_renamed(inner, renamed))
        for z, result in zip(node.output, branch.output, strict=True):
            if z:
                made.graph.node.append(
                    helper.make_node("Identity", [renamed.get(result.name, result.name)], [z])
                )
    return made


def _names(graph: onnx.GraphProto) -> set[str]:
    found = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    return found | {z for node in graph.node for z in node.output}


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy that reads and makes tensors under other names, its graphs included."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.input[:] = [names.get(x, x) for x in node.input]
    made.output[:] = [names.get(z, z) for z in node.output]
    for attribute in made.attribute:
        if attribute.HasField("g"):
            graph = attribute.g
            outer = {old: new for old, new in names.items() if old not in _names(graph)}
            inner = [_renamed(each, outer) for each in graph.node]
            del graph.node[:]
            graph.node.extend(inner)
            for output in graph.output:
                output.name = outer.get(output.name, output.name)
    return made
