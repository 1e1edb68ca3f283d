"""Brings a model to the opset that all rules are written for."""

from __future__ import annotations

import onnx
from onnx import helper, version_converter

from onnx_attribution.graph_tools.ir.convert import IR_VERSION
from onnx_attribution.graph_tools.ir.edit import copied, name_nodes
from onnx_attribution.graph_tools.ir.nodes import opset_of
from onnx_attribution.graph_tools.normalise import dropped_operators

OPSET = 21


_HIDDEN = "onnx_attribution.hidden"


def converted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at opset 21; one that is newer keeps its own."""
    opset = opset_of(model)
    if opset >= OPSET:
        return model
    staged = copied(model)
    foreign = _hide_unknown(staged.graph, opset)
    if foreign:
        staged.opset_import.append(helper.make_opsetid(_HIDDEN, 1))
    resizes = dropped_operators.resizes_of(staged, opset)
    converted = version_converter.convert_version(staged, OPSET)
    for node in converted.graph.node:
        if node.domain == _HIDDEN:
            node.domain = foreign[node.op_type]
    dropped_operators.restore_resizes(converted, resizes)
    kept = [e for e in converted.opset_import if e.domain != _HIDDEN]
    del converted.opset_import[:]
    converted.opset_import.extend(kept)
    converted.ir_version = max(converted.ir_version, IR_VERSION)
    name_nodes(converted)
    return converted


def _hide_unknown(graph: onnx.GraphProto, opset: int) -> dict[str, str]:
    """Moves operators that are onnxruntime's own at this opset out of the converter's sight."""
    hidden: dict[str, str] = {}
    for node in graph.node:
        known = node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, "")
        if known:
            try:
                onnx.defs.get_schema(node.op_type, opset, "")
            except onnx.defs.SchemaError:
                known = False
        if not known and node.domain in ("", "ai.onnx"):
            hidden[node.op_type] = node.domain
            node.domain = _HIDDEN
    return hidden
