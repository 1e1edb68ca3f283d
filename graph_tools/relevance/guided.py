"""Guided backpropagation and the deconvolutional network: what a rectifier lets through of what arrives.

With a the output of a rectifier and R what arrives at it, the gradient is (a > 0) R, guided backpropagation (a > 0)
max(R, 0) and the deconvolutional network max(R, 0). Rectifiers are 0 below: Relu, Clip from 0 (ReLU6 is one),
ThresholdedRelu, and Max of one tensor and 0; also those inside of operators that stand for several, such as FusedConv.
Every other function keeps its gradient, as in Captum: LeakyRelu, PRelu, Elu, Gelu, Sigmoid; functions that a file
writes as several nodes, which may have a Clip inside (HardSwish); and the activations inside of recurrent operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.ir.subgraphs import graphs_of
from onnx_attribution.graph_tools.operators import VJP, NodeView, RuleTable
from onnx_attribution.graph_tools.operators.registry import Gradients, Key, RuleFunction
from onnx_attribution.graph_tools.operators.transpose import number_of

RECTIFIERS: tuple[Key, ...] = (("", "Relu"), ("", "Clip"), ("", "ThresholdedRelu"), ("", "Max"))
"""The operators that may be one, as `rectified` says."""
Rectify = Callable[[Emitter, NodeView, Value, int], Value]
"""`(op, node, R, which input moves) -> R there`."""


def rectified(node: NodeView) -> int | None:
    """The input of which a node lets pass what is above 0 (or above a bound further up); None: it is no rectifier."""
    if node.operator == "Clip":
        low = node.optional(1)
        return 0 if low is not None and number_of(low) == 0 else None
    if node.operator == "ThresholdedRelu":
        return 0 if node.attribute("alpha", 1.0) >= 0 else None
    if node.operator != "Max":
        return 0
    moving = [k for k, x in enumerate(node.inputs) if x is not None and number_of(x) != 0]
    return moving[0] if len(moving) == 1 and len(node.inputs) > 1 else None


def rectifiers(nodes: Iterable[gs.Node]) -> bool:
    """Whether one of the nodes, or of those inside of them, is a rectifier or may have one inside."""
    for node in nodes:
        words = [str(value) for name, value in node.attrs.items() if name.startswith("activation")]
        if node.op in ("Relu", "ThresholdedRelu") or any("Relu" in word for word in words):
            return True
        if node.op in ("Clip", "Max") and any(number_of(x) == 0 for x in node.inputs if not x.is_empty()):
            return True
        if rectifiers(one for graph in graphs_of(node) for one in graph.nodes):
            return True
    return False


def table_of(rectify: Rectify) -> RuleTable:
    """The gradient's rules with another one for rectifiers."""
    return {**VJP, **{key: replace(VJP[key], vjp=_rule(key, rectify), alone=True) for key in RECTIFIERS}}


def _rule(key: Key, rectify: Rectify) -> RuleFunction:
    def rule(op: Emitter, node: NodeView, g: Value) -> Gradients:
        moving = rectified(node)
        if moving is None:
            return VJP[key].vjp(op, node, g)
        return [rectify(op, node, g, k) if k == moving else None for k in range(len(node.inputs))]

    return rule


def gradient(op: Emitter, node: NodeView, g: Value, moving: int) -> Value:
    """What the gradient lets pass."""
    if node.operator == "Max":  # what is at the bound does not pass, as at Relu
        return op(
            "Where", op("Greater", node.input(moving), op.like(node.input(moving), 0)), g, op.like(g, 0)
        )
    found = VJP["", node.operator].vjp(op, node, g)[moving]
    assert found is not None
    return found


def _guided(op: Emitter, node: NodeView, g: Value, moving: int) -> Value:
    return gradient(op, node, op("Relu", g), moving)


def _deconvolved(op: Emitter, node: NodeView, g: Value, moving: int) -> Value:
    return op("Relu", g)


GUIDED_BACKPROP = table_of(_guided)
DECONVNET = table_of(_deconvolved)
