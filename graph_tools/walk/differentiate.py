"""The reverse walk: what each tensor of a graph contributes to a cotangent, under a table of rules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.broadcast import unbroadcast
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type, is_float, is_half, shape_of
from onnx_attribution.graph_tools.ir.reach import reachable as reachable
from onnx_attribution.graph_tools.ir.subgraphs import graphs_of, inputs_of, key_of, type_graphs
from onnx_attribution.graph_tools.operators import VJP, ZERO_DERIVATIVE, NodeView, Rule, RuleTable
from onnx_attribution.graph_tools.operators.gates import unsteady
from onnx_attribution.graph_tools.operators.registry import Walk
from onnx_attribution.graph_tools.walk.composites import composites
from onnx_attribution.graph_tools.walk.forms import Composite

Choose = Callable[[NodeView, Rule], Callable[..., Sequence[Value | None]]]


def of_gradient(node: NodeView, rule: Rule) -> Callable[..., Sequence[Value | None]]:
    """The choice of the gradient."""
    return rule.vjp


Reach = Callable[[Sequence[gs.Node], Sequence[str]], set[str]]
Carried = tuple[Value, ...]
"""What a walk brings back to a tensor: one gradient or multiplier, or one for each part of a change."""
Move = Callable[[Sequence[Carried | None]], Sequence[Carried | None]]
"""From what arrives at the outputs of a node to what its inputs have of it."""


@dataclass(frozen=True)
class Rules:
    """What a walk follows: a table of rules, and `choose`, which picks what a node does with what arrives, the gradient
    or a secant multiplier; `reach` says to which tensors, of those that depend on others, something may arrive.
    `relevance`: what is carried begins with the target's value, of which the weight says how much. `partial`: a rule
    may leave a tensor nothing though the target depends on it, as those of relevance may too; it has 0 then."""

    table: RuleTable = field(default_factory=lambda: VJP)
    choose: Choose = of_gradient
    reach: Reach = reachable
    relevance: bool = False
    partial: bool = False

    def inside(self, inner: Emitter, seeds: Mapping[str, Value], wrt: Sequence[str]) -> dict[str, Value]:
        """The walk over a graph inside of a node."""
        found, declared = gradients_of(inner, seeds, wrt, self), inner.graph.tensors()
        return {name: _as_declared(inner, g, declared[name]) for name, g in found.items()}


def differentiate(
    op: Emitter, seeds: Mapping[str, Value], wrt: Sequence[str], rules: Rules = Rules()
) -> dict[str, Value]:
    """Appends the backward pass and returns, for each tensor in `wrt`, its cotangent, of half types as float32.

    `seeds` maps tensors to the cotangents that arrive there from outside, of the same shapes.

    Raises:
        NotDifferentiable: an operator on the way has no rule, or no way leads from a tensor to a seed, or every way
            goes through operators whose derivative is zero.
    """
    nodes = list(op.graph.nodes)
    found = gradients_of(op, seeds, wrt, rules, unsteady(nodes, seeds))
    require_all(nodes, found, wrt, seeds)
    return found


def gradients_of(
    op: Emitter, seeds: Mapping[str, Value], wrt: Sequence[str], rules: Rules, steep: set[str] | None = None
) -> dict[str, Value]:
    """The cotangents of the tensors in `wrt` to which a way leads; those of `steep` (default: all) may be infinite."""
    nodes = list(op.graph.nodes)
    active = rules.reach(nodes, wrt)

    def step(node: gs.Node, rule: Rule) -> Move:
        view = view_of(op.graph, node, active, rules.inside)
        view = replace(view, steady=steep is not None and not any(z.name in steep for z in node.outputs))

        def move(came: Sequence[Carried | None]) -> Sequence[Carried | None]:
            results = rules.choose(view, rule)(op, view.real(op), *(c and c[0] for c in came))
            return [r and (r,) for r in unstretched(op, view, rule, results)]

        return move

    whole = composites(nodes, wrt, rules.table) if rules.choose is of_gradient else {}
    carried = {name: (value,) for name, value in seeds.items()}
    found = walk_back(op, nodes, carried, wrt, active, rules, step, whole)
    return {name: c[0] for name, c in found.items()}


def walk_back(
    op: Emitter,
    nodes: Sequence[gs.Node],
    seeds: Mapping[str, Carried],
    wrt: Sequence[str],
    active: set[str],
    rules: Rules,
    step: Callable[[gs.Node, Rule], Move],
    whole: Mapping[int, Composite] = MappingProxyType({}),
) -> dict[str, Carried]:
    """Carries `seeds` back through the nodes to those of the tensors in `wrt` to which a way leads.

    `step` says how it goes through a node at which something arrives and that reads a tensor of `active`; at the end
    of a function of `whole` it goes through all of it.
    """
    arrived = {name: [_wide(op, value)] for name, value in seeds.items()}
    for node in reversed(nodes):
        came = [_total(op, arrived, z) for z in node.outputs]
        inputs = inputs_of(node)
        leads = [not x.is_empty() and x.name in active for x in inputs]
        if not any(leads) or all(carried is None for carried in came):
            continue
        function = whole.get(id(node))
        if (meant := function and function.where(active)) is not None:
            parts = [meant.back(op, g) for g in came[0] or ()]
            for x, *made_whole in zip(meant.inputs, *parts, strict=True):
                if x.name in active:
                    arrived.setdefault(x.name, []).append(_wide(op, tuple(made_whole)))
            continue
        rule = rules.table.get(key_of(node))
        if rule is None and _is_zero(node):
            continue
        if rule is None:
            raise _no_rule(node, rules.table)
        move = step(node, rule)
        if graphs_of(node):
            ends = zip(came, node.outputs, strict=True)
            came = [c and tuple(_as_declared(op, g, z) for g in c) for c, z in ends]
        with naming(node):
            made = move(came)
        for index, x in enumerate(inputs):
            result = made[index] if index < len(made) else None
            if leads[index] and result is not None:
                arrived.setdefault(x.name, []).append(_wide(op, result))
            elif leads[index] and not rule.sparse:
                raise NotDifferentiable(
                    f"no gradient rule for input {index} ({x.name!r}) of {node.op} (node {node.name!r})",
                    reason=Reason.INPUT_WITHOUT_RULE, node=node.name, operator=node.op, tensor=x.name,
                )  # fmt: skip
    tensors = op.graph.tensors()
    totals = {name: _total(op, arrived, tensors[name]) for name in wrt}
    return {name: total for name, total in totals.items() if total is not None}


def unstretched(
    op: Emitter, view: NodeView, rule: Rule, results: Sequence[Value | None]
) -> Sequence[Value | None]:
    """What a rule says of the active inputs of a node, broadcasting undone."""
    if not rule.elementwise or len(view.inputs) == 1:
        return results
    return [
        r and unbroadcast(op, r, x, view.z) if x is not None and is_active else None
        for r, x, is_active in zip(results, view.inputs, view.active, strict=False)
    ]


@contextlib.contextmanager
def naming(node: gs.Node) -> Iterator[None]:
    """Says at which node a rule refuses, where its refusal does not: values that rules make have names of their own."""
    try:
        yield
    except NotDifferentiable as error:
        if "node" in error.metadata:
            raise
        error.message = f"{error.message} at {node.op} (node {node.name!r})"
        error.args = (error.message,)
        error.metadata = {
            **error.metadata, "node": node.name, "operator": ".".join(filter(None, key_of(node)))
        }  # fmt: skip
        raise


def _wide(op: Emitter, carried: Carried) -> Carried:
    """Half types as float32: their products underflow and their sums lose digits."""
    return tuple(op.cast(g, np.float32) if is_half(g) else g for g in carried)


def _as_declared(op: Emitter, gradient: Value, tensor: Value) -> Value:
    """A gradient in the type of its tensor, where that is a half type: graphs inside nodes declare it."""
    return op.cast(gradient, element_type(tensor)) if is_half(tensor) else gradient


def view_of(graph: gs.Graph, node: gs.Node, active: set[str], walk: Walk | None = None) -> NodeView:
    """The node as rules see it."""
    type_graphs(node)
    inputs = tuple(None if x.is_empty() else x for x in inputs_of(node))
    outputs = tuple(None if z.is_empty() else z for z in node.outputs)
    domain, _ = key_of(node)
    for value in (*inputs, *outputs):
        if value is not None and shape_of(value) is None and getattr(value, "type", "") != "sequence_type":
            raise NotDifferentiable(
                f"the rank of {value.name!r} at {node.op} (node {node.name!r}) is unknown",
                reason=Reason.UNKNOWN_RANK, node=node.name, operator=node.op, tensor=value.name,
            )  # fmt: skip
    return NodeView(
        node.op,
        node.name,
        inputs,
        outputs,
        node.attrs,
        tuple(x is not None and x.name in active for x in inputs),
        graph.opset,
        domain,
        walk,
    )


def _no_rule(node: gs.Node, rules: RuleTable) -> NotDifferentiable:
    """The refusal of a node whose operator has no rule."""
    domain = "" if node.domain in (None, "", "ai.onnx") else f"{node.domain}."
    near = ", ".join(sorted(name for space, name in rules if space == ""))
    return NotDifferentiable(
        f"no gradient rule for {domain}{node.op} (node {node.name!r}, output {node.outputs[0].name!r}); "
        f"rules exist for: {near}",
        reason=Reason.NO_RULE, node=node.name, operator=f"{domain}{node.op}", tensor=node.outputs[0].name,
    )  # fmt: skip


def _total(op: Emitter, arrived: dict[str, list[Carried]], tensor: Value) -> Carried | None:
    """The sum of what arrived at a tensor; one n-ary Sum, made once."""
    terms = arrived.get(tensor.name)
    if not terms or tensor.is_empty():
        return None
    if len(terms) > 1:
        arrived[tensor.name] = terms = [tuple(op("Sum", *parts) for parts in zip(*terms, strict=True))]
    for value in terms[0]:
        if isinstance(value, gs.Variable) and value.shape is None:
            value.shape = tensor.shape
    return terms[0]


def require_all(
    nodes: Sequence[gs.Node], found: Collection[str], wrt: Sequence[str], seeds: Mapping[str, Value]
) -> None:
    """Refuses the first tensor of `wrt` at which nothing arrived."""
    for name in wrt:
        if name not in found:
            raise _no_way(nodes, name, seeds)


def _no_way(nodes: Sequence[gs.Node], name: str, seeds: Mapping[str, Value]) -> NotDifferentiable:
    """The refusal of a tensor at which nothing arrived: no way at all, or one that derivatives do not pass."""
    target = ", ".join(repr(s) for s in seeds)
    ahead = {name}
    for node in nodes:
        if any(x.name in ahead for x in inputs_of(node)):
            ahead.update(z.name for z in node.outputs)
    behind = set(seeds)
    for node in reversed(nodes):
        if any(z.name in behind for z in node.outputs):
            behind.update(x.name for x in inputs_of(node))
    active = reachable(nodes, [name])
    stops = [
        node
        for node in nodes
        if any(x.name in active for x in inputs_of(node))
        and any(
            z.name in ahead & behind and (_is_zero(node) or z.name not in active or _zeros_inside(node))
            for z in node.outputs
        )
    ]
    blocks = [
        " and ".join(f"{one.op} (node {one.name!r})" for one in _zeros_inside(node)) + f" in {words}"
        if _zeros_inside(node)
        else words
        for node in stops
        for words in [f"{node.op} (node {node.name!r})"]
    ]
    if not blocks:
        return NotDifferentiable(
            f"no way leads from {name!r} to {target}", reason=Reason.NO_PATH, tensor=name
        )
    return NotDifferentiable(
        f"the derivative of {target} with respect to {name!r} is zero: every way goes through " + ", ".join(blocks),
        reason=Reason.ZERO_DERIVATIVE,
        tensor=name, operators=", ".join(blocks), node=stops[0].name, operator=".".join(filter(None, key_of(stops[0]))),
    )  # fmt: skip


def _zeros_inside(node: gs.Node) -> list[gs.Node]:
    """The nodes of the graphs of a node that derivatives do not pass."""
    return [
        one
        for graph in graphs_of(node)
        for inner in graph.nodes
        for one in ([inner] if _is_zero(inner) else _zeros_inside(inner))
    ]


def _is_zero(node: gs.Node) -> bool:
    return key_of(node) in ZERO_DERIVATIVE


def missing_rules(
    nodes: Sequence[gs.Node], sources: Sequence[str], target: str, rules: RuleTable = VJP
) -> list[gs.Node]:
    """The nodes without a rule between the sources and the target; all of them, where the walk stops at the first.

    Those of inner graphs are listed too, whether or not what they make leaves the graph.
    """
    found: list[gs.Node] = []
    for node, moved in _between(nodes, sources, target):
        found += _without_rule(node, moved, rules)[::-1]
    return found[::-1]


def straight_through(nodes: Sequence[gs.Node], sources: Sequence[str], target: str) -> list[gs.Node]:
    """The nodes between the sources and the target that round, where the gradient is that without the rounding."""
    found = []
    for node, _ in _between(nodes, sources, target):
        rule = VJP.get(key_of(node))
        if rule is not None and rule.straight_through:
            found.append(node)
    return found[::-1]


def _between(
    nodes: Sequence[gs.Node], sources: Sequence[str], target: str
) -> Iterator[tuple[gs.Node, set[str]]]:
    """The nodes on the ways from the sources to the target, the last first, each with its inputs that move."""
    active = reachable(nodes, sources)
    behind = {target}
    for node in reversed(nodes):
        if not any(z.name in behind for z in node.outputs):
            continue
        moved = {x.name for x in inputs_of(node) if x.name in active}
        if moved:
            yield node, moved
            behind |= moved


def _without_rule(node: gs.Node, moved: set[str], rules: RuleTable) -> list[gs.Node]:
    """The node, if it has no rule, and the nodes of its graphs that have none and depend on what moves."""
    key = key_of(node)
    if key in ZERO_DERIVATIVE:
        return []
    found = [] if key in rules else [node]
    for graph in graphs_of(node):
        active = moved | {x.name for x in graph.inputs if x.dtype is None or is_float(x)}
        for inner in graph.nodes:
            touched = {x.name for x in inputs_of(inner) if x.name in active}
            if touched:
                found += _without_rule(inner, touched, rules)
                active.update(z.name for z in inner.outputs if z.dtype is None or is_float(z))
    return found
