"""Says how tensors lie: targets, layers between sources and target, and cuts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_graphsurgeon as gs

from onnx_attribution.errors import InvalidArgument, NotDifferentiable
from onnx_attribution.graph_tools.ir.emit import element_type, is_float, shape_of
from onnx_attribution.graph_tools.ir.subgraphs import SHAPE_ONLY as SHAPE_ONLY
from onnx_attribution.graph_tools.ir.subgraphs import dependents as dependents
from onnx_attribution.graph_tools.ir.subgraphs import inputs_of, reachable
from onnx_attribution.graph_tools.rules import ZERO_DERIVATIVE
from onnx_attribution.values import LayerInfo

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
        require_float(graph, name, "target", "TARGET_INVALID")
        return name
    outputs = float_outputs(graph)
    if len(outputs) == 1:
        return outputs[0]
    listed = ", ".join(repr(out.name) for out in graph.outputs)
    if outputs:
        raise InvalidArgument(
            f"the model has {len(outputs)} float outputs; name the target: {', '.join(map(repr, outputs))}",
            reason="TARGET_INVALID", outputs=listed,
        )  # fmt: skip
    proposed = float_before_outputs(graph)
    hint = (
        f"; name the float tensor before it: {proposed!r}"
        if proposed
        else "; no float tensor leads to one, but the method occlusion takes an output of integers by name"
    )
    raise InvalidArgument(
        f"no output of the model holds floats ({listed}){hint}", reason="TARGET_INVALID", outputs=listed,
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


def require_float(graph: gs.Graph, name: str, role: str, reason: str) -> None:
    """Refuses a tensor that is no float tensor."""
    value = graph.tensors()[name]
    if isinstance(value, gs.Constant):
        read = next((z.name for node in value.outputs for z in node.outputs if not z.is_empty()), "")
        hint = f"; the output of the node that reads it is {read!r}" if read else ""
        raise InvalidArgument(f"{role} {name!r} is a constant{hint}", reason=reason, tensor=name, close=read)
    if value.type != "tensor_type":
        raise InvalidArgument(f"{role} {what_it_is(value)}", reason=reason, tensor=name)
    if not is_float(value):
        kind = element_type(value).name if value.dtype else "unknown"
        raise NotDifferentiable(
            f"{role} {name!r} has type {kind}; only floats have a derivative", tensor=name, type=kind
        )


def ancestors(
    nodes: Sequence[gs.Node], targets: Sequence[str], given: frozenset[str] = frozenset()
) -> set[str]:
    """Names of the tensors on whose values the targets depend, the targets included; `given` ones depend on nothing."""
    found = set(targets)
    for node in reversed(nodes):
        if node.op not in SHAPE_ONLY and any(z.name in found and z.name not in given for z in node.outputs):
            found.update(x.name for x in inputs_of(node))
    return found


def cut_tensors(nodes: Sequence[gs.Node], sources: Sequence[str], target: str) -> set[str]:
    """The tensors that every way from the sources to the target crosses; what makes a source is no part of a way.

    In an order in which every edge leads forward, a tensor is crossed by every way exactly if no edge between tensors
    and nodes on such ways leaps over it.
    """
    given = frozenset(sources)
    between = dependents(nodes, sources) & ancestors(nodes, [target], given)
    if target not in between:
        return set()
    place: dict[str, int] = dict.fromkeys(sources, 0)
    clock, furthest, cuts = 0, 0, set[str]()
    last_use: dict[str, int] = {}
    order: list[tuple[int, gs.Node]] = []
    for node in nodes:
        if node.op in SHAPE_ONLY or not any(x.name in between for x in inputs_of(node)):
            continue
        if not any(z.name in between and z.name not in given for z in node.outputs):
            continue
        clock += 1
        order.append((clock, node))
        for x in inputs_of(node):
            if x.name in between:
                last_use[x.name] = clock
        for z in node.outputs:
            if z.name in between:
                place.setdefault(z.name, clock)
    live = [name for name in place if name in between]
    if len([s for s in sources if s in between]) == 1:
        cuts.update(s for s in sources if s in between)
    furthest = max((last_use.get(s, 0) for s in sources if s in between), default=0)
    for moment, node in order:
        made = [z.name for z in node.outputs if z.name in between and z.name not in given]
        # every way passes this node if no tensor made earlier is used later
        if furthest <= moment and len(made) == 1:
            cuts.add(made[0])
        furthest = max([furthest, *[last_use.get(name, 0) for name in made]])
    return {name for name in cuts if name in live}


def is_cut(nodes: Sequence[gs.Node], sources: Sequence[str], target: str, layers: Sequence[str]) -> bool:
    """Whether every way from the sources to the target crosses one of the layers."""
    crossed = set(layers)
    found = {name for name in sources if name not in crossed}
    if target in crossed:
        return True
    for node in nodes:
        if node.op not in SHAPE_ONLY and any(x.name in found for x in inputs_of(node)):
            found.update(z.name for z in node.outputs if z.name not in crossed)
    return target not in found


def is_joint_cut(
    nodes: Sequence[gs.Node], sources: Sequence[str], target: str, layers: Sequence[str]
) -> bool:
    """Whether every way from the sources to the target crosses exactly one of several layers, the sources themselves
    for one: then what they contribute sums to the change."""
    if len(layers) < 2 or not is_cut(nodes, sources, target, layers):
        return False
    given = frozenset(sources)
    behind = [ancestors(nodes, [layer], given) if layer not in given else {layer} for layer in layers]
    return not any(
        one != layer and one in found for layer, found in zip(layers, behind, strict=True) for one in layers
    )


def layers(graph: gs.Graph, sources: Sequence[str], target: str) -> list[LayerInfo]:
    """The float tensors between the sources and the target, in order, both ends included."""
    nodes = list(graph.nodes)
    between = reachable(nodes, sources) & ancestors(nodes, [target], frozenset(sources))
    cuts = cut_tensors(nodes, sources, target)
    ordered = [name for name in sources if name in between]
    made = [z for node in nodes for z in node.outputs if z.name in between and is_float(z)]
    return described(graph, [*ordered, *(z.name for z in made if z.name not in sources)], cuts)


def described(graph: gs.Graph, names: Sequence[str], cuts: Collection[str]) -> list[LayerInfo]:
    """What is known of the tensors of these names."""
    tensors = graph.tensors()
    made_by = {z.name: node for node in graph.nodes for z in node.outputs}
    return [
        LayerInfo(
            name=name,
            node=made_by[name].name if name in made_by else "",
            operator=made_by[name].op if name in made_by else "input",
            dtype="string" if element_type(tensors[name]).kind in "OUS" else element_type(tensors[name]).name,
            shape=shape_of(tensors[name]),
            cut=name in cuts,
        )
        for name in names
    ]
