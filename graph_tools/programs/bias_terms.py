"""A target as a sum of terms (FullGrad, arXiv 1905.00780): sources, and biases, times their gradients.

F(x) = Σ x · dF/dx + Σ b · dF/dz, where z = (what is proportional to what moves) + b. A bias is what a Conv, a
Gemm, a BatchNormalization or an addition adds that does not move; of an elementwise function f it is what f(x) has
beside x f'(x), which is 0 for a Relu and what a Clip clips to. So the terms sum to F where all other operators are
proportional to what moves: pools, products with what stands still, and the like.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type, is_float, shape_of
from onnx_attribution.graph_tools.ir.reach import ancestors, reachable
from onnx_attribution.graph_tools.ir.subgraphs import graphs_of, inputs_of, key_of
from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.operators.gates import unsteady
from onnx_attribution.graph_tools.programs.build import Draft
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.graph_tools.walk.differentiate import Rules, gradients_of, require_all, view_of

CONVOLUTIONS = frozenset({("", "Conv"), ("", "ConvTranspose")})
NORM, GEMM = ("", "BatchNormalization"), ("", "Gemm")
ADDITIONS = frozenset({("", "Add"), ("", "Sub"), ("", "Sum")})
PROPORTIONAL = frozenset(("", operator) for operator in ("Abs", "LeakyRelu", "PRelu", "Relu"))
"""Elementwise functions that are proportional to their input on each side of 0."""


def biased(nodes: Sequence[gs.Node], sources: Sequence[str], targets: Sequence[str]) -> tuple[str, ...]:
    """The tensors between the sources and all of the targets to which a bias is added, in order."""
    moving = reachable(nodes, sources)
    between = set(moving).intersection(*(ancestors(nodes, [t], frozenset(sources)) for t in targets))
    found = [
        node.outputs[0].name for node in nodes if _is_constant(node, moving) or _is_implicit(node, moving)
    ]
    return tuple(name for name in found if name in between and name not in sources)


def bias_terms_program(
    network: Network, choice: Choice, names: Sequence[str], *, rules: RuleTable = VJP, plain: bool = False
) -> Program:
    """The terms of the target: `term/<name>` of the sources and of the tensors `names`, of their shapes, and
    `target/value` as in `rows_program`. `plain`: of tensors to which a constant is added the gradient alone.

    Raises:
        NotDifferentiable: as `rows_program`.
    """
    draft = Draft(network, choice.sources)
    op, weight = draft.op, draft.weight(choice.target)
    nodes = list(draft.graph.nodes)
    moving = reachable(nodes, choice.sources)
    makers = {node.outputs[0].name: node for node in nodes if node.outputs}
    wanted, seeds, own = [*choice.sources, *names], {choice.target: weight}, Rules(rules)
    found = gradients_of(op, seeds, wanted, own, unsteady(nodes, seeds))
    require_all(nodes, found, choice.sources, seeds)
    for name in wanted:
        gradient = found.get(name)
        if gradient is None:  # nothing of the target depends on it
            draft.put(op.zeros_like(draft.tensor(name)), f"term/{name}")
            continue
        if name in choice.sources:
            term = _times(op, gradient, draft.tensor(name))
        elif _is_constant(makers[name], moving):
            term = gradient if plain else _times(op, gradient, _bias(op, makers[name], moving))
        else:
            term = _implicit(op, draft.graph, makers[name], moving, gradient, own)
        draft.put(term, f"term/{name}")
    draft.put_target(choice.target, weight, "target/value")
    return draft.finish()


def _times(op: Emitter, gradient: Value, value: Value) -> Value:
    return op("Mul", gradient, op.cast(value, gradient.dtype))


def _still(node: gs.Node, moving: Collection[str], first: int) -> list[Value]:
    """The inputs from `first` on that are there and do not move."""
    return [x for x in inputs_of(node)[first:] if not x.is_empty() and x.name not in moving]


def _is_constant(node: gs.Node, moving: Collection[str]) -> bool:
    """Whether a node adds something that does not move."""
    key, inputs = key_of(node), inputs_of(node)
    moves = [not x.is_empty() and x.name in moving for x in inputs]
    if key in CONVOLUTIONS | {GEMM}:
        return sum(moves[:2]) == 1 and len(_still(node, moving, 2)) == 1
    if key == NORM:
        return moves[0] and len(_still(node, moving, 1)) == 4
    return key in ADDITIONS and any(moves) and not all(moves)


def _bias(op: Emitter, node: gs.Node, moving: Collection[str]) -> Value:
    """What a node adds, in a shape that broadcasts to its output."""
    key, inputs = key_of(node), inputs_of(node)
    if key in CONVOLUTIONS:
        return _by_channel(op, inputs[2], node)
    if key == GEMM:
        beta = float(node.attrs.get("beta", 1.0))
        return inputs[2] if beta == 1 else op("Mul", inputs[2], op.like(inputs[2], beta))
    if key == NORM:
        scale, bias, mean, variance = (_wide(op, value) for value in inputs[1:5])
        spread = op("Sqrt", op("Add", variance, op.like(variance, float(node.attrs.get("epsilon", 1e-5)))))
        return _by_channel(op, op("Sub", bias, op("Div", op("Mul", mean, scale), spread)), node)
    still = _still(node, moving, 0)
    if node.op == "Sub" and inputs[1].name not in moving:
        return op("Neg", still[0])
    return still[0] if len(still) == 1 else op("Sum", *still)


def _wide(op: Emitter, value: Value) -> Value:
    """A value in float32 at least: of one BatchNormalization they may be of several types."""
    return value if element_type(value) == np.float64 else op.cast(value, np.float32)


def _by_channel(op: Emitter, vector: Value, node: gs.Node) -> Value:
    """One number a channel, along the second axis of a node's output."""
    shape = shape_of(node.outputs[0]) or shape_of(inputs_of(node)[0]) or ()
    return op("Reshape", vector, op.ints([-1, *[1] * (len(shape) - 2)]))


def _is_implicit(node: gs.Node, moving: Collection[str]) -> bool:
    """Whether a node is an elementwise function of one tensor that moves, and not proportional to it."""
    key, inputs = key_of(node), inputs_of(node)
    rule = VJP.get(key)
    if rule is None or not rule.elementwise or key in PROPORTIONAL | ADDITIONS or graphs_of(node):
        return False
    moved = [k for k, x in enumerate(inputs) if not x.is_empty() and x.name in moving]
    if len(moved) != 1 or len(node.outputs) != 1 or not is_float(node.outputs[0]):
        return False
    linear = any(set(moved) <= group for group in rule.linear) or rule.linear_if is not None
    return not linear or key == ("", "Where")


def _implicit(
    op: Emitter, graph: gs.Graph, node: gs.Node, moving: Collection[str], gradient: Value, own: Rules
) -> Value:
    """What the output has beside the input times its derivative, times the gradient of the output."""
    view = view_of(graph, node, set(moving), own.inside)
    (moved,) = [k for k, is_active in enumerate(view.active) if is_active]
    local = own.table[key_of(node)].vjp(op, view.real(op), gradient)[moved]
    assert local is not None
    whole = _times(op, gradient, view.z)
    return op("Sub", whole, _times(op, op.cast(local, gradient.dtype), view.input(moved)))
