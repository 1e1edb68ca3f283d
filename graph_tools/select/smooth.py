"""Networks without kinks: whose gradients are smooth along every path."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import is_float
from onnx_attribution.graph_tools.ir.reach import SHAPE_ONLY, dependents
from onnx_attribution.graph_tools.ir.subgraphs import graphs_of, inputs_of, key_of
from onnx_attribution.graph_tools.operators.registry import OPERATORS

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
_OTHERS = frozenset({"CastLike", "DequantizeLinear", "QuantizeLinear", "RoiAlign"})
"""Operators of which the rules of linear ones say too little."""


def is_smooth(nodes: Sequence[gs.Node], sources: Sequence[str], target: str) -> bool:
    """Whether all that leads from the sources to the target is known to have no kink and no jump.

    False means that this is not known.
    """
    moving = dependents(nodes, sources)
    wanted = {target}
    for node in reversed(nodes):
        if not any(z.name in wanted for z in node.outputs):
            continue
        wanted.update(x.name for x in inputs_of(node) if x.name not in sources)
        moved = [k for k, x in enumerate(node.inputs) if x.name in moving]
        if moved and node.op not in SHAPE_ONLY and not _is_smooth(node, moved):
            return False
        if graphs_of(node) and any(x.name in moving for x in inputs_of(node)):
            return False
    return True


def _is_smooth(node: gs.Node, moved: Sequence[int]) -> bool:
    if not is_float(node.outputs[0]):
        return False
    key = key_of(node)
    rule = OPERATORS.get(key)
    if key in SMOOTH:
        return True
    if rule is None or node.op in _OTHERS or rule.straight_through or rule.linear_if is not None:
        return key == ("", "BatchNormalization") and not node.attrs.get("training_mode", 0)
    if "piecewise_linear" in rule.kinds:
        return False
    return rule.bilinear or any(set(moved) <= group for group in rule.linear)
