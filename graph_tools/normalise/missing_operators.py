"""Cuts a graph before operators that the runtime does not have, so that what lies before them can be explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.ir.nodes import inner_graphs, reads


@dataclass(frozen=True)
class Missing:
    """A node that the runtime cannot run, with the tensors that it reads and makes."""

    name: str
    operator: str
    reads: tuple[str, ...]
    makes: tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """The model before the missing nodes, and of each tensor behind them which node it depends on."""

    model: onnx.ModelProto
    missing: tuple[Missing, ...]
    behind: Mapping[str, Missing]
    ends: tuple[str, ...]  # tensors that are outputs only since the model ends there


def before(model: onnx.ModelProto, operator: tuple[str, str], node: str = "") -> Cut:
    """The model without the nodes of an operator (domain and name), or without one node, and all that they lead to.

    Its outputs are those that are left, and what the missing nodes read.
    """
    called = _calling(model, operator)
    gone: list[Missing] = []
    behind: dict[str, Missing] = {}
    kept: list[onnx.NodeProto] = []
    for one in model.graph.node:
        held = _uses(one, called) if not node else one.name == node
        origin = next((behind[x] for x in reads(one) if x in behind), None)
        if held:
            word = ".".join(filter(None, operator))
            origin = Missing(one.name or one.output[0], word, tuple(reads(one)), tuple(one.output))
            gone.append(origin)
        if origin is None:
            kept.append(onnx.NodeProto.FromString(one.SerializeToString()))
        else:
            behind.update(dict.fromkeys(filter(None, one.output), origin))
    result = copied(model)
    outputs = [z for z in result.graph.output if z.name not in behind]
    made = {z for one in kept for z in one.output}
    told = {z.name for z in outputs}
    ends = [x for x in dict.fromkeys(x for one in gone for x in one.reads) if x in made and x not in told]
    kinds = {v.name: v for v in _types(result).graph.value_info}
    outputs += [kinds.get(x, onnx.ValueInfoProto(name=x)) for x in ends]
    left = [onnx.ValueInfoProto.FromString(z.SerializeToString()) for z in outputs]
    functions = [f for f in result.functions if (f.domain, f.name) not in called]
    kept_functions = [onnx.FunctionProto.FromString(f.SerializeToString()) for f in functions]
    del result.graph.node[:], result.graph.output[:], result.functions[:]
    result.graph.node.extend(kept)
    result.graph.output.extend(left)
    result.functions.extend(kept_functions)
    return Cut(result, tuple(gone), behind, tuple(ends))


def _types(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ValueError):
        return model


def _calling(model: onnx.ModelProto, operator: tuple[str, str]) -> set[tuple[str, str]]:
    """The operator, and the functions of the file that come to it."""
    found = {operator}
    for _ in model.functions:
        for function in model.functions:
            if any(_uses(node, found) for node in function.node):
                found.add((function.domain, function.name))
    return found


def _uses(node: onnx.NodeProto, operators: set[tuple[str, str]]) -> bool:
    domain = "" if node.domain == "ai.onnx" else node.domain
    return (domain, node.op_type) in operators or any(
        _uses(inner, operators) for graph in inner_graphs(node) for inner in graph.node
    )
