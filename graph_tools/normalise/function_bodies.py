"""Replaces operators that have a function body, but no rule, by the body.

A body is written for one opset and may call operators that have bodies again; it is brought to the opset of the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx
from onnx import helper, inliner

from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.ir.nodes import inner_graphs
from onnx_attribution.graph_tools.operators import VJP, ZERO_DERIVATIVE

KEPT_WHOLE = frozenset(
    {"Range", "Bernoulli", "SequenceMap", "DynamicQuantizeLinear", "GreaterOrEqual", "LessOrEqual"}
)
"""Never expanded: onnxruntime has a faster kernel, and the operator has a rule or needs none."""

ONE_OPSET = {"Swish": 24}
"""Operators that onnxruntime has no kernel for and runs by their body, at this opset only."""

DEPTH = 4
"""Bodies within bodies; SoftmaxCrossEntropyLoss and SwiGLU go to 2."""

_DOMAIN = "onnx_attribution.bodies"
_Types = Mapping[str, onnx.TypeProto]


def expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the bodies of operators that have no rule in place of them; itself if there are none."""
    for _ in range(DEPTH):
        staged = _staged(model)
        if staged is None:
            break
        try:
            model = inliner.inline_local_functions(staged, convert_version=True)
        except RuntimeError:  # it knows no types inside of branches; few bodies need the conversion
            for body in staged.functions:
                del body.opset_import[:]
                body.opset_import.extend(model.opset_import)
            model = inliner.inline_local_functions(staged)
        kept = [e for e in model.opset_import if e.domain != _DOMAIN]
        del model.opset_import[:]
        model.opset_import.extend(kept)
    return model


def has_body(domain: str, operator: str, opset: int) -> bool:
    """Whether the standard says what the operator does in terms of others, and has it replaced by that."""
    if operator in KEPT_WHOLE:
        return False
    try:
        schema: Any = onnx.defs.get_schema(operator, opset, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _staged(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with each such operator as a call of a local function of its own; None if there are none."""
    versions = {"" if e.domain == "ai.onnx" else e.domain: e.version for e in model.opset_import}
    if not any(_is_expandable(node, versions) for node, _ in _nodes(model.graph, {})):
        return None
    staged = copied(model)
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        staged = onnx.shape_inference.infer_shapes(staged)
    for node, types in list(_nodes(staged.graph, {})):
        body = _body(node, types, versions) if _is_expandable(node, versions) else None
        if body is None:
            continue
        body.domain, body.name = _DOMAIN, f"{node.op_type}_{len(staged.functions)}"
        staged.functions.append(body)
        node.domain, node.op_type, node.overload = _DOMAIN, body.name, ""
    if not staged.functions:
        return None
    staged.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    staged.ir_version = max(staged.ir_version, 8)
    return staged


def _is_expandable(node: onnx.NodeProto, versions: Mapping[str, int]) -> bool:
    domain = "" if node.domain == "ai.onnx" else node.domain
    key, opset = (domain, node.op_type), versions.get(domain)
    if opset is None or not has_body(domain, node.op_type, opset):
        return False
    if domain == "" and opset != ONE_OPSET.get(node.op_type, opset):
        return True
    return key not in VJP and key not in ZERO_DERIVATIVE


def _nodes(graph: onnx.GraphProto, outer: _Types) -> Iterator[tuple[onnx.NodeProto, _Types]]:
    """All nodes, those of inner graphs included, with the types of the values around them."""
    infos: Iterable[onnx.ValueInfoProto] = (*graph.input, *graph.value_info, *graph.output)
    held = {t.name: helper.make_tensor_type_proto(t.data_type, t.dims) for t in graph.initializer}
    types = {**outer, **held, **{x.name: x.type for x in infos if x.type.WhichOneof("value")}}
    for node in graph.node:
        yield node, types
        for inner in inner_graphs(node):
            yield from _nodes(inner, types)


def _body(node: onnx.NodeProto, types: _Types, versions: Mapping[str, int]) -> onnx.FunctionProto | None:
    """The body of the operator in the form that the inputs of the node ask for; None where there is none."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    opset = versions[domain]
    schema: Any = onnx.defs.get_schema(node.op_type, opset, domain)  # its stubs lack all that concerns bodies
    if schema.has_function:
        version = max(v for v in schema.function_opset_versions if v <= max(opset, schema.since_version))
        made = schema.get_function_with_opset_version(version)
        given = {a.name for a in node.attribute}
        absent = [a.default_value for a in schema.attributes.values() if a.name not in given]
        node.attribute.extend(a for a in absent if a.type)  # the body reads them
    else:
        if any(x and x not in types for x in node.input):
            return None
        kinds = [types[x].SerializeToString() if x else b"" for x in node.input]
        version = max(schema.context_dependent_function_opset_versions)
        made = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), kinds
        )
    return onnx.FunctionProto.FromString(made) if made else None
