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

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.ir.subgraphs import inputs_of
from onnx_attribution.graph_tools.operators import Rule
from onnx_attribution.graph_tools.operators.ends import quotient
from onnx_attribution.graph_tools.walk.differentiate import (
    Move,
    Rules,
    naming,
    require_all,
    view_of,
    walk_back,
)
from onnx_attribution.graph_tools.walk.halves import Parts
from onnx_attribution.graph_tools.walk.reveal_nodes import Where, move_of


def reveal(
    op: Emitter, seeds: Mapping[str, Value], layers: Sequence[str], parts: Parts, rules: Rules, where: Where
) -> dict[str, tuple[Value, Value]]:
    """For each layer what it contributes, and its multiplier: the contribution over the change.

    The network at x' is in the graph already; `parts` knows its tensors by name, and takes those of all changes.

    Raises:
        NotDifferentiable: as `differentiate`.
    """
    nodes = list(op.graph.nodes)
    moves = carry(op, parts, rules, where)
    passed = [node for node in nodes if id(node) in moves]
    pairs, active = {name: (value, value) for name, value in seeds.items()}, rules.reach(passed, layers)

    def step(node: gs.Node, rule: Rule) -> Move:
        move = moves[id(node)]
        assert move is not None  # there is a rule
        return move

    found = walk_back(op, passed, pairs, layers, active, rules, step)
    require_all(nodes, found, layers, seeds)
    tensors = op.graph.tensors()
    return {name: _contribution(op, parts, tensors[name], found[name]) for name in layers}


def carry(op: Emitter, parts: Parts, rules: Rules, where: Where) -> dict[int, Move | None]:
    """Notes the parts of every tensor that depends on the source. Returns what carries multipliers back through each
    node between these, by its id; None for an operator without a rule."""
    moving, origins = parts.moving, dict[str, str]()
    moves = dict[int, Move | None]()
    own = [node for node in op.graph.nodes if any(z.name in moving for z in node.outputs)]
    for node in [node for node in own if any(x.name in moving for x in inputs_of(node))]:
        view = view_of(op.graph, node, moving, rules.inside)
        with naming(node):
            moves[id(node)] = move_of(view.real(op), rules.table, parts, origins, rules.choose, where)
    return moves


def _contribution(op: Emitter, parts: Parts, value: Value, m: Sequence[Value]) -> tuple[Value, Value]:
    """m+ d+ + m- d-, and what one unit of d has of it."""
    if m[0] is m[1]:
        return op("Mul", m[0], parts.change(value)), m[0]
    positive, negative = parts.of(value)
    total = op("Add", op("Mul", m[0], positive), op("Mul", m[1], negative))
    mean = op("Mul", op("Add", *m), op.like(total, 0.5))
    d = parts.change(value)
    return total, quotient(op, total, d, op("Equal", d, op.like(d, 0)), mean)
