"""The plain form of a file, which its normal form is compared with: declarations made consistent, operators kept."""

from __future__ import annotations

import onnx
from onnx import helper

from onnx_attribution.graph_tools.ir.convert import IR_VERSION
from onnx_attribution.graph_tools.ir.edit import copied, name_nodes, set_nodes, sort_nodes
from onnx_attribution.graph_tools.ir.outer_constants import hoist
from onnx_attribution.graph_tools.normalise.declarations import believe_scans, forget, name_dims
from onnx_attribution.graph_tools.normalise.types import ranks_told
from onnx_attribution.graph_tools.read.load import tensors_of

MESSAGE = (1 << 31) - (1 << 24)  # bytes of weights in inner graphs; a message ends at 2 GiB


def declared(model: onnx.ModelProto, *, labels: bool = True) -> onnx.ModelProto:
    """A copy with every operator set declared once, nodes named and sorted, and open input dimensions named.

    All other shapes are dropped, and without `labels` the names that the file gives to dimensions. It is what the
    normal form is compared with, so no more is done to it; only where the constants of inner graphs are too many to be
    run in a message are they moved out.
    """
    copy = copied(model)
    versions: dict[str, int] = {}
    for entry in copy.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        versions[domain] = max(versions.get(domain, 0), entry.version)
    versions.setdefault("", 8)
    for domain in {node.domain for node in copy.graph.node} - {"", "ai.onnx"}:
        versions.setdefault(domain, 1)
    del copy.opset_import[:]
    copy.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())
    copy.ir_version = max(copy.ir_version, 8) if copy.ir_version <= IR_VERSION else copy.ir_version
    ranks = ranks_told(copy)
    forget(copy)
    believe_scans(copy, ranks)
    given = {x.name for x in copy.graph.input}
    for index, initializer in enumerate(copy.graph.initializer):
        if not initializer.name:
            initializer.name = f"initializer_{index}"
    overridable = given & {i.name for i in copy.graph.initializer}
    if overridable:  # initializers listed as inputs, as before IR 4: constants, not inputs
        kept = [x for x in copy.graph.input if x.name not in overridable]
        del copy.graph.input[:]
        copy.graph.input.extend(kept)
    name_dims(copy, labels=labels)
    for node in copy.graph.node:
        node.domain = "" if node.domain == "ai.onnx" else node.domain
        if node.op_type == "STFT" and not any(a.name == "onesided" for a in node.attribute):
            node.attribute.append(helper.make_attribute("onesided", 1))  # onnx infers shapes as if it were 0
    _drop_repeated(copy.graph)
    if sum(tensor.ByteSize() for tensor in tensors_of(copy.graph.node)) > MESSAGE:
        hoist(copy.graph)
    name_nodes(copy)
    sort_nodes(copy.graph)
    return copy


def _drop_repeated(graph: onnx.GraphProto) -> None:
    """Drops, in place, constants that a later one of the same name replaces, as onnxruntime reads such files."""
    constants = [node for node in graph.node if node.op_type == "Constant"]
    last = {tuple(node.output): node for node in constants}
    if len(last) == len(constants):
        return
    others = [node for node in graph.node if node.op_type != "Constant"]
    set_nodes(graph, [*last.values(), *others])
