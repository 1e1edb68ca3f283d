"""Begins a graph behind its inputs that are maps: at the tensors that are made of them, which can be given."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.ir.nodes import reads

CASTS = {"TO_FLOAT": TensorProto.FLOAT, "TO_INT64": TensorProto.INT64, "TO_STRING": TensorProto.STRING}
LISTED = 5  # keys that a note names


def behind_maps(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The model without its inputs that are maps and the nodes that make tensors of them, whose outputs are inputs
    instead; and in words what takes the place of what. The model itself where there is none to begin behind.
    """
    made: dict[str, onnx.ValueInfoProto] = {}
    notes: list[str] = []
    begun: set[str] = set()
    for value in model.graph.input:
        if not value.type.HasField("map_type"):
            continue
        nodes = [node for node in model.graph.node if value.name in reads(node)]
        tensors = [_made(node, value.type.map_type) for node in nodes]
        if not nodes or None in tensors:
            continue
        begun.add(value.name)
        made |= {tensor.name: tensor for tensor in tensors if tensor is not None}
        notes += [
            f"input {value.name!r} is a map, and only tensors can be given: the model begins behind {node.op_type} "
            f"(node {node.name!r}), at {node.output[0]!r}{_order(node)}"
            for node in nodes
        ]
    if not begun:
        return model, []
    result = copied(model)
    inputs = [onnx.ValueInfoProto.FromString(x.SerializeToString()) for x in model.graph.input]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del result.graph.input[:], result.graph.node[:]
    result.graph.input.extend([*(x for x in inputs if x.name not in begun), *made.values()])
    result.graph.node.extend(node for node in nodes if begun.isdisjoint(reads(node)))
    return result, notes


def _made(node: onnx.NodeProto, given: onnx.TypeProto.Map) -> onnx.ValueInfoProto | None:
    """The tensor that a node makes of a map: a row of a batch; None where it makes something else."""
    if node.domain != "ai.onnx.ml" or len(node.output) != 1:
        return None
    if node.op_type == "DictVectorizer":
        return _row(node.output[0], given.value_type.tensor_type.elem_type, len(_keys(node)))
    if node.op_type == "CastMap":
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        kind = CASTS.get(options.get("cast_to", b"TO_FLOAT").decode())
        size = int(options.get("max_map", 1)) if options.get("map_form") == b"SPARSE" else None
        return None if kind is None else _row(node.output[0], kind, size)
    return None


def _row(name: str, kind: int, size: int | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [None, size])


def _keys(node: onnx.NodeProto) -> Sequence[int | str]:
    """The keys that a DictVectorizer looks up, in the order of the columns."""
    found = {a.name: a for a in node.attribute}
    if "string_vocabulary" in found:
        return [key.decode(errors="replace") for key in found["string_vocabulary"].strings]
    return list(found["int64_vocabulary"].ints) if "int64_vocabulary" in found else []


def _order(node: onnx.NodeProto) -> str:
    """In words, what the columns of a row are."""
    if node.op_type != "DictVectorizer":
        return ", a row of the values in the order of the keys"
    keys = _keys(node)
    more = f", and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    return f", a row of the values of the keys {', '.join(map(repr, keys[:LISTED]))}{more}"
