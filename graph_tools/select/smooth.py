"""Networks without kinks, whose gradients are smooth along every path, and networks of straight pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import is_float
from onnx_attribution.graph_tools.ir.reach import SHAPE_ONLY, dependents
from onnx_attribution.graph_tools.ir.subgraphs import graphs_of, inputs_of, key_of
from onnx_attribution.graph_tools.operators.registry import OPERATORS, Rule

SMOOTH = frozenset(
    ("", operator)
    for operator in (
        "Add", "Cos", "Div", "Erf", "Exp", "Gelu", "GroupNormalization", "InstanceNormalization",
        "LayerNormalization", "Log", "LogSoftmax", "Mish", "Mul", "Pow", "RMSNormalization", "Reciprocal", "Sigmoid",
        "Sin", "Softmax", "Softplus", "Sqrt", "Sub", "Swish", "Tanh",
    )
) | frozenset(
    ("com.microsoft", operator)
    for operator in (
        "Attention", "BiasGelu", "BiasSplitGelu", "FastGelu", "FusedMatMul", "Gelu", "GemmFastGelu", "GroupNorm",
        "MultiHeadAttention", "QuickGelu", "SkipGroupNorm", "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    )
)  # fmt: skip
"""Operators with all derivatives wherever they are defined, beside those that are linear."""
KINKED = frozenset(
    {
        "Abs",
        "Clip",
        "GlobalMaxPool",
        "HardSigmoid",
        "LeakyRelu",
        "Max",
        "MaxPool",
        "Min",
        "PRelu",
        "ReduceMax",
    }
    | {"ReduceMin", "Relu", "Shrink", "ThresholdedRelu"}
)
"""Operators that are linear on each side of a kink, or of a jump."""
_OTHERS = frozenset({"CastLike", "DequantizeLinear", "QuantizeLinear", "RoiAlign"})
"""Operators of which the rules of linear ones say too little."""


def is_smooth(nodes: Sequence[gs.Node], sources: Sequence[str], target: str) -> bool:
    """Whether all that leads from the sources to the target is known to have no kink and no jump.

    False means that this is not known.
    """
    return _every(nodes, sources, target, _is_smooth)


def is_piecewise_linear(nodes: Sequence[gs.Node], sources: Sequence[str], target: str) -> bool:
    """Whether all that leads from the sources to the target is known to be linear but for kinks and jumps.

    False means that this is not known.
    """
    return _every(nodes, sources, target, _is_piecewise_linear)


def _every(
    nodes: Sequence[gs.Node],
    sources: Sequence[str],
    target: str,
    holds: Callable[[gs.Node, Sequence[int]], bool],
) -> bool:
    """Whether something holds of each node from the sources to the target and those of its inputs that move."""
    moving = dependents(nodes, sources)
    wanted = {target}
    for node in reversed(nodes):
        if not any(z.name in wanted for z in node.outputs):
            continue
        wanted.update(x.name for x in inputs_of(node) if x.name not in sources)
        moved = [k for k, x in enumerate(node.inputs) if x.name in moving]
        if moved and node.op not in SHAPE_ONLY and not holds(node, moved):
            return False
        if graphs_of(node) and any(x.name in moving for x in inputs_of(node)):
            return False
    return True


def _is_piecewise_linear(node: gs.Node, moved: Sequence[int]) -> bool:
    if not is_float(node.outputs[0]):
        return False
    if node.op in KINKED and key_of(node)[0] == "":
        return node.op != "PRelu" or list(moved) == [0]
    return _is_linear(node, moved)


def _is_smooth(node: gs.Node, moved: Sequence[int]) -> bool:
    if not is_float(node.outputs[0]):
        return False
    if key_of(node) in SMOOTH or _is_fixed_norm(node) or _is_linear(node, moved):
        return True
    rule = _plain_rule(node)
    return rule is not None and rule.bilinear


def _is_linear(node: gs.Node, moved: Sequence[int]) -> bool:
    """Whether the node is known to be linear, or affine, in what moves."""
    if _is_fixed_norm(node):
        return set(moved) <= {0, 2}
    rule = _plain_rule(node)
    return rule is not None and any(set(moved) <= group for group in rule.linear)


def _is_fixed_norm(node: gs.Node) -> bool:
    return key_of(node) == ("", "BatchNormalization") and not node.attrs.get("training_mode", 0)


def _plain_rule(node: gs.Node) -> Rule | None:
    """The rule of an operator without kinks; None where it says too little of it."""
    rule = OPERATORS.get(key_of(node))
    if rule is None or node.op in _OTHERS or rule.straight_through or rule.linear_if is not None:
        return None
    return None if "piecewise_linear" in rule.kinds else rule
