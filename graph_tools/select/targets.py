"""The tensor that is explained, where it is named and where it is not."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnx_attribution.errors import InvalidArgument, NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import element_type, holds_numbers, is_float
from onnx_attribution.graph_tools.ir.reach import SHAPE_ONLY as SHAPE_ONLY
from onnx_attribution.graph_tools.ir.reach import dependents as dependents
from onnx_attribution.graph_tools.operators import ZERO_DERIVATIVE

OPAQUE = frozenset(
    {"BeamSearch", "GreedySearch", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"}
)
"""Operators that decide by themselves: what they read is no score of their result."""


def float_outputs(graph: gs.Graph) -> list[str]:
    """Graph outputs that hold floats."""
    return [out.name for out in graph.outputs if is_float(out)]


def target_tensor(graph: gs.Graph, name: str | None) -> str:
    """The tensor of the target: the one that is named, or the only float output.

    Raises:
        InvalidArgument: no name and several float outputs, or the tensor is no float tensor.
        NotDifferentiable: no name and no float output; the message proposes the float tensor before it.
    """
    if name is not None:
        require_float(graph, name, "target", Reason.TARGET_INVALID)
        return name
    outputs = float_outputs(graph)
    if len(outputs) == 1:
        return outputs[0]
    listed = ", ".join(repr(out.name) for out in graph.outputs)
    if outputs:
        raise InvalidArgument(
            f"the model has {len(outputs)} float outputs; name the target: {', '.join(map(repr, outputs))}",
            reason=Reason.TARGET_INVALID, outputs=listed,
        )  # fmt: skip
    proposed = float_before_outputs(graph)
    hint = (
        f"; name the float tensor before it: {proposed!r}"
        if proposed
        else "; no float tensor leads to one, but a method without derivatives takes an output of integers by name"
    )
    raise InvalidArgument(
        f"no output of the model holds floats ({listed}){hint}", reason=Reason.TARGET_INVALID, outputs=listed,
    )  # fmt: skip


def float_before_outputs(graph: gs.Graph) -> str | None:
    """The float tensor nearest before outputs that hold none: what an ArgMax reads, else the last one made."""
    behind = {out.name for out in graph.outputs}
    found: list[tuple[bool, str]] = []
    for node in reversed(graph.nodes):
        if not any(z.name in behind for z in node.outputs) or node.op in OPAQUE:
            continue
        for x in node.inputs:
            if not isinstance(x, gs.Variable) or x.is_empty():
                continue
            if is_float(x) and x.inputs and ("", x.inputs[0].op) not in ZERO_DERIVATIVE:
                found.append((node.op == "ArgMax", str(x.name)))
            else:
                behind.add(x.name)
    return max(found, key=lambda pair: pair[0])[1] if found else None


def what_it_is(value: gs.Tensor) -> str:
    """In words, a value that is no tensor, and the tensors that it holds."""
    kind = {"optional_type": "an optional", "sequence_type": "a sequence"}.get(value.type, "a map")
    maker = value.inputs[0] if value.inputs else None
    held = maker.inputs if maker is not None and maker.op in ("SequenceConstruct", "Optional") else []
    elements = ", ".join(repr(x.name) for x in held if not x.is_empty())
    if not elements:
        return f"{value.name!r} is {kind} and no tensor; name a tensor before it"
    return f"{value.name!r} is {kind} and no tensor; name what it holds: {elements}"


def require_numbers(graph: gs.Graph, name: str, role: str, reason: Reason) -> None:
    """Refuses a tensor that holds no numbers, or the same at all inputs."""
    value = graph.tensors()[name]
    if isinstance(value, gs.Variable) and value.type == "tensor_type" and not holds_numbers(value):
        raise InvalidArgument(f"{role} {name!r} holds no numbers", reason=reason, tensor=name)
    _require_tensor(value, role, reason)


def require_float(graph: gs.Graph, name: str, role: str, reason: Reason) -> None:
    """Refuses a tensor that is no float tensor."""
    value = graph.tensors()[name]
    _require_tensor(value, role, reason)
    if not is_float(value):
        kind = element_type(value).name if value.dtype else "unknown"
        raise NotDifferentiable(
            f"{role} {name!r} has type {kind}; only floats have a derivative",
            reason=Reason.NOT_FLOAT,
            tensor=name,
            type=kind,
        )


def _require_tensor(value: gs.Tensor, role: str, reason: Reason) -> None:
    """Refuses a constant, a map, a sequence and an optional."""
    if isinstance(value, gs.Constant):
        read = next((z.name for node in value.outputs for z in node.outputs if not z.is_empty()), "")
        hint = f"; the output of the node that reads it is {read!r}" if read else ""
        raise InvalidArgument(
            f"{role} {value.name!r} is a constant{hint}", reason=reason, tensor=value.name, close=read
        )
    if value.type != "tensor_type":
        raise InvalidArgument(f"{role} {what_it_is(value)}", reason=reason, tensor=value.name)
