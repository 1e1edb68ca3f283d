"""What a name means: a tensor, a node, or a module of the network that the file was exported from."""

from __future__ import annotations

import ast
import difflib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
import onnx_graphsurgeon as gs
from onnx import inliner

from onnx_attribution.errors import InvalidArgument, NotFound, Reason
from onnx_attribution.graph_tools.ir.edit import set_nodes
from onnx_attribution.graph_tools.ir.emit import is_float
from onnx_attribution.graph_tools.ir.nodes import inner_graphs

CLOSE = 5
"""How many close names a refusal lists."""
_NEUTRAL = frozenset({"Constant", "Identity"})
_SCOPES = "pkg.torch.onnx.name_scopes"
_NAMESPACE = "namespace"
_CALL = "onnx_attribution.call"


@dataclass(frozen=True)
class Body:
    """Where a tensor inside a node's graph is: the node of the outer graph, its operator and its outputs."""

    node: str
    operator: str
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Names:
    """The names that a file gives, of what may no longer be in the graph that is made of it.

    `nodes` has the first output of each node of a name, `modules` for each module of the exported network the
    tensors that leave it, in order, one list for each call. `weights` has the output of the node that reads a weight,
    `same` the tensors that are equal to one, since Identity hands it on, and `tensors` all that the file computes.
    """

    nodes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    modules: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    bodies: Mapping[str, Body] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    same: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tensors: frozenset[str] = frozenset()


NONE = Names()


def names_of(model: onnx.ModelProto) -> Names:
    """The names of a file; calls of its functions have the names of their callers."""
    light = _inlined(model)
    graph = light.graph
    nodes: dict[str, list[str]] = {}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        made = next((z for z in node.output if z), None)
        for name in dict.fromkeys((_property(node, _CALL), node.name)):
            if name and made is not None:
                nodes.setdefault(name, []).append(made)
        for x in node.input:
            readers.setdefault(x, []).append(node)
    weights = [t.name for t in model.graph.initializer] + [
        t.values.name for t in model.graph.sparse_initializer
    ]
    read = {w: readers[w][0].output[0] for w in weights if w in readers and readers[w][0].output}
    return Names(
        nodes,
        {**_owners(graph, weights), **_modules(graph, weights)},
        dict(_inside(graph)),
        {w: read.get(w, "") for w in weights},
        _handed_on(graph),
        frozenset(z for node in graph.node for z in node.output if z),
    )


def _handed_on(graph: onnx.GraphProto) -> dict[str, list[str]]:
    """For each tensor that Identity reads or makes all that are equal to it, itself included, in order."""
    alike: dict[str, list[str]] = {}
    for node in graph.node:
        if node.op_type == "Identity" and node.domain in ("", "ai.onnx"):
            group = alike.setdefault(node.input[0], [node.input[0]])
            group.append(node.output[0])
            alike[node.output[0]] = group
    return alike


def resolve(graph: gs.Graph, name: str, names: Names = NONE) -> str:
    """The tensor that `name` means: a tensor, a node or a module of the exported network, or a part of such a name.

    In this order: a tensor's name; a node's, which means its first output; a module's, as torch writes it
    (`layer4.1.conv2`), which means the last tensor that leaves it; a glob of tensors and nodes, or the end of any of
    these names, after a character that is neither a letter nor a digit.

    Raises:
        NotFound: nothing has the name. InvalidArgument: several tensors have, or it is inside a node's graph, or a
            weight. All list what could have been meant.
    """
    tensors = {t: value for t, value in graph.tensors().items() if t}
    if name in tensors:
        return name
    variables = {t for t, value in tensors.items() if isinstance(value, gs.Variable)}

    def kept(found: Sequence[str]) -> list[str]:
        standing = (next((s for s in [t, *names.same.get(t, ())] if s in variables), None) for t in found)
        return list(dict.fromkeys(t for t in standing if t is not None))

    if handed := kept([name]):
        return handed[0]

    nodes: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.name and node.outputs:
            nodes.setdefault(node.name, []).append(node.outputs[0].name)
    for key, found in names.nodes.items():  # what the file calls alike, the graph does not
        nodes[key] = [*kept(found), *(nodes.get(key, []) if not kept(found) else [])]
    modules = {
        key: [t for call in calls if (t := _last(tensors, kept(call))) is not None]
        for key, calls in names.modules.items()
    }
    for exact in (nodes, modules):
        if found := kept(exact.get(name, [])):
            return _only(name, found)
    keys: dict[str, list[str]] = {t: [t] for t in variables}
    for key, found in nodes.items():
        keys.setdefault(key, []).extend(kept(found))
    if any(c in name for c in "*?["):
        matches = [t for key, found in keys.items() if fnmatch.fnmatchcase(key, name) for t in found]
    else:
        ends = [*keys.items(), *modules.items()]
        matches = [t for key, found in ends if is_end(key, name) for t in kept(found)]
    if matches:
        return _only(name, sorted(set(matches)))
    _refuse_inner(name, names)
    if name in names.weights:
        raise InvalidArgument(
            f"{name!r} is a weight{_read_by(names.weights[name], tensors)}",
            reason=Reason.NODE_NOT_FOUND, name=name,
        )  # fmt: skip
    if name in names.tensors:
        raise InvalidArgument(
            f"{name!r} is no tensor of what computes the outputs: it is constant, or none of them depends on it",
            reason=Reason.NODE_NOT_FOUND, name=name,
        )  # fmt: skip
    known = [*keys, *modules]
    shown = close_names(name, known) or close_names(name, known, 0.0)[:2]
    raise NotFound(
        f"no tensor or node {name!r}; close names: {', '.join(shown)}",
        reason=Reason.NODE_NOT_FOUND, name=name, close=", ".join(shown),
    )  # fmt: skip


def is_end(key: str, name: str) -> bool:
    """Whether `key` ends with `name` after a separator: a character that is neither a letter nor a digit."""
    if not name or not key.endswith(name):
        return False
    return len(key) == len(name) or not key[-len(name) - 1].isalnum() or not name[0].isalnum()


def close_names(name: str, known: Sequence[str], cutoff: float = 0.5) -> list[str]:
    """The few known names that are most like a name, the best first."""
    return difflib.get_close_matches(name.strip("*?"), sorted(set(known)), n=CLOSE, cutoff=cutoff)


def _only(name: str, found: Sequence[str]) -> str:
    if len(found) == 1:
        return found[0]
    more = f", ... ({len(found)} in all)" if len(found) > CLOSE else ""
    listed = ", ".join(found[:CLOSE]) + more
    raise InvalidArgument(
        f"the name {name!r} is ambiguous; it matches: {listed}",
        reason=Reason.LAYER_AMBIGUOUS,
        name=name,
        close=listed,
    )


def _last(tensors: Mapping[str, gs.Tensor], found: Sequence[str]) -> str | None:
    """The last float tensor, or the last one."""
    return next((t for t in reversed(found) if is_float(tensors[t])), found[-1] if found else None)


def _refuse_inner(name: str, names: Names) -> None:
    """Refuses what is inside a node's graph, where a value is another one at each turn."""
    body = names.bodies.get(name)
    if body is None:
        inside = {b: None for key, b in names.bodies.items() if is_end(key, name)}
        body = next(iter(inside), None)
    if body is not None:
        outputs = ", ".join(map(repr, body.outputs))
        raise InvalidArgument(
            f"{name!r} lies inside the {body.operator} {body.node!r}, whose inner tensors cannot be named; what can be "
            f"is its output{'s'[: len(body.outputs) > 1]} {outputs}, and what it reads",
            reason=Reason.NODE_NOT_FOUND, name=name, node=body.node, close=outputs,
        )  # fmt: skip


def _read_by(output: str, tensors: Mapping[str, gs.Tensor]) -> str:
    return f"; the output of the node that reads it is {output!r}" if output in tensors else ""


# --- What a file says


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without weights and functions. The first output of a function's call is an Identity's of its name."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.graph.name = "names"
    light.graph.node.extend(node for node in model.graph.node if node.op_type != "Constant")
    light.graph.output.extend(model.graph.output)
    if not model.functions:
        return light
    light.functions.extend(model.functions)
    keys = {(f.domain, f.name) for f in light.functions}
    owners: list[onnx.GraphProto | onnx.FunctionProto] = [light.graph, *light.functions]
    for owner in owners:
        made = []
        for node in owner.node:
            made.append(node)
            if (node.domain, node.op_type) in keys and node.name:
                k = next((k for k, out in enumerate(node.output) if out), None)
                if k is None:
                    continue
                out, node.output[k] = node.output[k], f"{node.output[k]}/{_CALL}"
                made.append(onnx.helper.make_node("Identity", [node.output[k]], [out], name=node.name))
                made[-1].metadata_props.extend(node.metadata_props)
                made[-1].metadata_props.add(key=_CALL, value=node.name)
        set_nodes(owner, made)
    return inliner.inline_local_functions(light)


def _property(node: onnx.NodeProto, key: str) -> str:
    return next((p.value for p in node.metadata_props if p.key == key), "")


def _inside(graph: onnx.GraphProto) -> Iterator[tuple[str, Body]]:
    """Tensors and nodes of inner graphs, with the outer node that holds them."""
    for node in graph.node:
        body = Body(node.name or node.op_type, node.op_type, tuple(z for z in node.output if z))
        pending = list(inner_graphs(node))
        while pending:
            inner = pending.pop()
            for x in inner.input:
                yield x.name, body
            for one in inner.node:
                yield from ((z, body) for z in (*one.output, one.name) if z)
                pending += inner_graphs(one)


def scopes_of(node: onnx.NodeProto) -> tuple[str, ...] | None:
    """The modules that a node is part of, from outside in, by their names in the network; None where none is said."""
    if text := _property(node, _SCOPES):
        try:
            scopes = [str(scope) for scope in ast.literal_eval(text)]
        except (ValueError, SyntaxError):
            scopes = []
        return _distinct(scopes[:-1])
    if text := _property(node, _NAMESPACE):
        return _distinct([part.partition(":")[0].strip() for part in text.split("/")][:-1])
    if "/" not in node.name:
        return None
    parts = [part for part in node.name.split("/") if part][:-1]
    path: list[str] = []
    found: list[str] = []
    for (
        part
    ) in parts:  # /features/features.0 is the module features.0: a Sequential writes its own name twice
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
        found.append(".".join(path))
    return tuple(found)


def _distinct(scopes: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(s for s in scopes if s and not s.startswith("_empty_nn_module_stack")))


def _modules(graph: onnx.GraphProto, weights: Sequence[str]) -> dict[str, list[list[str]]]:
    """For each module, and each time that it is called, the tensors that leave it.

    A call is what stands together in the file, and what is read from one such part by another.
    """
    scopes = [scopes_of(node) for node in graph.node]
    members: dict[str, list[list[int]]] = {}
    last: dict[str, int] = {}
    clock = 0  # counts the nodes that end the calls of modules which they are no part of
    marks: dict[str, int] = {}
    for k, (node, own) in enumerate(zip(graph.node, scopes, strict=True)):
        if own is None or (node.op_type in _NEUTRAL and not _property(node, _CALL)):
            continue
        clock += 1
        for scope in own or ():
            if marks.get(scope) == clock - 1:
                members[scope][-1].append(k)
            else:
                members.setdefault(scope, []).append([k])
            marks[scope] = clock
        last.update(dict.fromkeys(node.output, k))
    readers: dict[str, list[int]] = {}
    for k, node in enumerate(graph.node):
        for x in {*node.input, *(x for inner in inner_graphs(node) for n in inner.node for x in n.input)}:
            readers.setdefault(x, []).append(k)
    results = {z.name for z in graph.output}
    found: dict[str, list[list[str]]] = {}
    for scope, parts in members.items():
        for part in _calls(graph, parts, readers):
            inside = set(part)
            leaving = [
                z
                for k in part
                for z in graph.node[k].output
                if z and (z in results or any(r not in inside for r in readers.get(z, ())))
            ]
            if leaving:
                found.setdefault(scope, []).append(leaving)
    operators = {
        scope: [graph.node[k].op_type for part in parts for k in part] for scope, parts in members.items()
    }
    whole = {scope: calls + _again(scope, found, operators, weights) for scope, calls in found.items()}
    for node, own in zip(graph.node, scopes, strict=True):  # and as the file writes it: /features/features.0
        for k, scope in enumerate(own or ()):
            if "/" in node.name and scope in whole:
                whole.setdefault(_prefix(node.name, k + 1), whole[scope])
    return whole


def _prefix(name: str, count: int) -> str:
    """The first parts of a name between slashes."""
    start = len(name) - len(name.lstrip("/"))
    return name[:start] + "/".join([part for part in name.split("/") if part][:count])


def _again(
    scope: str,
    found: Mapping[str, list[list[str]]],
    operators: Mapping[str, list[str]],
    weights: Sequence[str],
) -> list[list[str]]:
    """What leaves a module when it is called again, which an exporter writes as a module of the name `scope_1`."""
    more: list[list[str]] = []
    twin = f"{scope}_1"
    while twin in found and operators[twin] == operators[scope]:
        if any(weight.startswith(f"{twin}.") for weight in weights):
            break
        more += found[twin]
        twin = f"{scope}_{len(more) + 1}"
    return more


def _calls(
    graph: onnx.GraphProto, parts: list[list[int]], readers: Mapping[str, list[int]]
) -> list[list[int]]:
    """The parts of a module, those joined of which one reads another."""
    if len(parts) == 1:
        return parts
    part_of = {k: index for index, part in enumerate(parts) for k in part}
    joined = list(range(len(parts)))
    for k, index in part_of.items():
        for z in graph.node[k].output:
            for reader in readers.get(z, ()):
                if z and (other := part_of.get(reader)) is not None and joined[other] != joined[index]:
                    old, new = joined[other], joined[index]
                    joined = [new if j == old else j for j in joined]
    return [
        sorted(k for part, j in zip(parts, joined, strict=True) if j == group for k in part)
        for group in dict.fromkeys(joined)
    ]


def _owners(graph: onnx.GraphProto, weights: Sequence[str]) -> dict[str, list[list[str]]]:
    """For modules that only the names of their weights tell: the output of the last node that reads one of these."""
    owner = {w: w.rpartition(".")[0] for w in weights if "." in w}
    found: dict[str, list[list[str]]] = {}
    for node in graph.node:
        for module in {owner[x] for x in node.input if x in owner}:
            if module and node.output:
                found[module] = [[node.output[0]]]
    return found
