"""DeepLIFT's RevealCancel: the walk back with a multiplier for the positive and one for the negative part of a change.

Every tensor's change between x' and x has two parts (arXiv 1704.02685, section 3.5; the authors' code where the paper
leaves it open). A product with weights makes new ones: w dx goes to the positive part where it is positive. What only
moves, adds or averages carries parts along; a factor below 0 swaps them. A nonlinearity that is fed by something linear
takes the two-player Shapley value of the two parts; any other, and every operator not named here, follows its secant
(Rescale) with the parts of its own change, so that everything sums.

A change of 0, or too small to have a sign beside the rounding of x and x', is split evenly: half of w dx belongs to
either part. That defines the case that the authors' code leaves to the noise: a unit whose parts cancel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_half
from onnx_attribution.graph_tools.ir.subgraphs import inputs_of
from onnx_attribution.graph_tools.operators import ZERO_DERIVATIVE, RuleTable
from onnx_attribution.graph_tools.operators.quotients import quotient
from onnx_attribution.graph_tools.walk.differentiate import Choose, Reach, naming, no_rule, view_of, walk_of
from onnx_attribution.graph_tools.walk.halves import Pair, Parts
from onnx_attribution.graph_tools.walk.reveal_nodes import Move, Where, move_of


def reveal(
    op: Emitter,
    seeds: Mapping[str, Value],
    layers: Sequence[str],
    references: dict[str, Value],
    moving: set[str],
    rules: RuleTable,
    choose: Choose,
    reach: Reach,
    where: Where,
) -> dict[str, tuple[Value, Value]]:
    """For each layer what it contributes, and its multiplier: the contribution over the change.

    The network at x' is in the graph already, `references` says under which names.
    """
    graph = op.graph
    steps, parts = _forward(op, references, moving, rules, choose, reach, where)
    active = reach([step.node for step in steps], list(layers))
    arrived: dict[str, list[Pair]] = {}
    for name, value in seeds.items():
        wide = op.cast(value, np.float32) if is_half(value) else value
        arrived[name] = [(wide, wide)]
    for step in reversed(steps):
        pairs = [_total(op, arrived, z) for z in step.node.outputs]
        if all(pair is None for pair in pairs) or not any(x.name in active for x in step.inputs):
            continue
        if step.move is None:
            if step.key in ZERO_DERIVATIVE:
                continue
            raise no_rule(step.node, rules)
        with naming(step.node):
            moves = step.move(pairs)
        for x, made in zip(step.inputs, moves, strict=False):
            if made is not None and x.name in active:
                arrived.setdefault(x.name, []).append(made)
    tensors = graph.tensors()
    found = {}
    for name in layers:
        pair = _total(op, arrived, tensors[name])
        if pair is not None:
            found[name] = _contribution(op, parts, tensors[name], pair)
    return found


@dataclass(frozen=True)
class _Step:
    """A node on the way forward, its inputs as the graph has them, and how multipliers go back through it."""

    node: gs.Node
    inputs: Sequence[Value]
    key: tuple[str, str]
    move: Move | None


def carried_parts(
    op: Emitter,
    references: dict[str, Value],
    moving: set[str],
    rules: RuleTable,
    choose: Choose,
    reach: Reach,
    where: Where,
) -> Parts:
    """The parts of every tensor that depends on the source; the network at x' is in the graph already."""
    return _forward(op, references, moving, rules, choose, reach, where)[1]


def _forward(
    op: Emitter,
    references: dict[str, Value],
    moving: set[str],
    rules: RuleTable,
    choose: Choose,
    reach: Reach,
    where: Where,
) -> tuple[list[_Step], Parts]:
    walk = walk_of(rules, choose, reach)
    parts, origins = Parts(op, references, moving, {}), dict[str, str]()
    steps = []
    own = [node for node in op.graph.nodes if any(z.name in moving for z in node.outputs)]
    for node in [node for node in own if any(x.name in moving for x in inputs_of(node))]:
        view = view_of(op.graph, node, moving, walk)
        with naming(node):
            move = move_of(view.real(op), rules, parts, origins, choose, where)
        steps.append(_Step(node, inputs_of(node), (view.domain, view.operator), move))
    return steps, parts


def _contribution(op: Emitter, parts: Parts, value: Value, m: Pair) -> tuple[Value, Value]:
    """m+ d+ + m- d-, and what one unit of d has of it."""
    if m[0] is m[1]:
        return op("Mul", m[0], parts.change(value)), m[0]
    positive, negative = parts.of(value)
    total = op("Add", op("Mul", m[0], positive), op("Mul", m[1], negative))
    mean = op("Mul", op("Add", *m), op.like(total, 0.5))
    d = parts.change(value)
    return total, quotient(op, total, d, op("Equal", d, op.like(d, 0)), mean)


def _total(op: Emitter, arrived: dict[str, list[Pair]], tensor: Value) -> Pair | None:
    pairs = arrived.get(tensor.name)
    if not pairs or tensor.is_empty():
        return None
    if len(pairs) > 1:
        same = all(p is n for p, n in pairs)
        positive = op("Sum", *(p for p, _ in pairs))
        arrived[tensor.name] = pairs = [(positive, positive if same else op("Sum", *(n for _, n in pairs)))]
    for value in pairs[0]:
        if isinstance(value, gs.Variable) and value.shape is None:
            value.shape = tensor.shape
    return pairs[0]
