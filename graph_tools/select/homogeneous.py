"""Networks without biases: where what is multiplied by a positive number at the sources is multiplied by it everywhere.

From a baseline of zeros such a network's path is a ray along which every gradient is the same. So it is where only the
target, or what leads on from the layers to it without a bend, has a constant added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Value, is_float
from onnx_attribution.graph_tools.ir.reach import SHAPE_ONLY
from onnx_attribution.graph_tools.ir.subgraphs import graphs_of, inputs_of, key_of
from onnx_attribution.graph_tools.ir.weights import LARGE
from onnx_attribution.graph_tools.operators.registry import OPERATORS

_SCALED = frozenset(
    {"Abs", "Clip", "GlobalLpPool", "GlobalMaxPool", "LeakyRelu", "LpPool", "Max", "MaxPool", "MaxRoiPool"}
    | {"Min", "Neg", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin", "Relu", "TopK"}
)
"""Operators whose outputs are multiplied as their float inputs are, if all of these are."""
_SIGNS = frozenset({"ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Sign"})
"""Operators whose outputs stay as they are when their inputs are multiplied."""
_FIRST_ONLY = frozenset({"MaxPool", "TopK"})
"""Operators whose second output is places."""
_SHIFTED = frozenset(
    {"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"}
    | {"CastLike", "DequantizeLinear", "OneHot", "QuantizeLinear", "TensorScatter"}
)
"""Operators that are linear in some inputs and add what others are made of."""
_SPREADING = frozenset({"Cast", "Constant", "Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators that make zeros of zeros."""
_ACTIVATIONS = frozenset({"", "LeakyRelu", "Relu"})


def is_homogeneous(
    graph: gs.Graph, sources: Sequence[str], target: str, layers: Sequence[str] = (), shifted: bool = False
) -> bool:
    """Whether the target and the layers are positively homogeneous of degree 1 in the sources; `shifted`: the target
    may be so but for a constant that is added.

    A True is a proof by operators, attributes and constants; False means that there is none.
    """
    scaled = Degrees(sources)
    for node in graph.nodes:
        scaled.follow(node)
    known = scaled.ones | scaled.shifted if shifted else scaled.ones
    return target in known and all(name in scaled.ones for name in layers)


class Degrees:
    """The tensors that are multiplied as the sources are, those that are but for a constant, those that stay as they
    are, and all others."""

    def __init__(self, sources: Sequence[str]) -> None:
        self.ones = set(sources)
        self.shifted: set[str] = set()
        self._sources = frozenset(sources)
        self._unknown: set[str] = set()

    def follow(self, node: gs.Node) -> None:
        made = [z for z in node.outputs if not z.is_empty() and z.name not in self._sources]
        if node.op in SHAPE_ONLY:
            return
        values = [x for x in inputs_of(node) if not x.is_empty()]
        if any(x.name in self._unknown for x in values):
            self._unknown.update(z.name for z in made)
        elif any(self._moves(x) for x in values) and not self._stays(node):
            places = {z.name for z in node.outputs[1:]} if node.op in _FIRST_ONLY else set()
            found = [z.name for z in made if z.name not in places]
            if not all(map(is_float, made[:1])):
                self._unknown.update(found)
            elif self._scales(node):
                self.ones.update(found)
            else:
                (self.shifted if self._adds(node) else self._unknown).update(found)

    def _moves(self, value: Value) -> bool:
        return value.name in self.ones or value.name in self.shifted

    def _stays(self, node: gs.Node) -> bool:
        return key_of(node) in {("", op) for op in _SIGNS} and self.all(node.inputs)

    def _scales(self, node: gs.Node) -> bool:
        domain, operator = key_of(node)
        if graphs_of(node) or any(x.name in self.shifted for x in node.inputs):
            return False
        if (domain, operator) == ("com.microsoft", "FusedConv"):
            return node.attrs.get("activation", "") in _ACTIVATIONS and self._linear(
                node, [{0, 2, 3}, {1, 2, 3}]
            )
        if domain:
            return False
        if operator == "BatchNormalization":
            shifts = [x for k, x in enumerate(node.inputs) if k in (2, 3)]
            moving = [x.name in self.ones for x in node.inputs]
            return moving == [True, *[False] * (len(moving) - 1)] and all(map(_is_zero, shifts))
        if operator == "PRelu":
            return node.inputs[0].name in self.ones and node.inputs[1].name not in self.ones
        if operator in _SCALED:
            bounds = operator == "Clip" and any(float(node.attrs.get(name, 0)) for name in ("min", "max"))
            count = len(node.inputs) if operator in ("Clip", "Max", "Min") else 1
            return not bounds and self.all(node.inputs[:count])
        rule = OPERATORS.get((domain, operator))
        if rule is None or operator in _SHIFTED:
            return False
        if operator in ("Pad", "Resize") and any(
            float(np.asarray(node.attrs.get(name, 0))) for name in ("value", "extrapolation_value")
        ):
            return False
        return self._linear(node, rule.linear)

    def _adds(self, node: gs.Node) -> bool:
        """Whether the node is linear in what moves, whatever it adds to it."""
        domain, operator = key_of(node)
        rule = OPERATORS.get((domain, operator))
        moving = {k for k, x in enumerate(node.inputs) if self._moves(x)}
        if domain or rule is None or graphs_of(node):
            return False
        if operator == "BatchNormalization":
            return moving == {0} and not node.attrs.get("training_mode", 0)
        plain = operator not in _SHIFTED and rule.linear_if is None
        return plain and any(moving <= group for group in rule.linear)

    def _linear(self, node: gs.Node, groups: Iterable[Iterable[int]]) -> bool:
        """Whether the node is linear in what moves and adds nothing else."""
        moving = {k for k, x in enumerate(node.inputs) if x.name in self.ones}
        for group in (set(group) for group in groups):
            if moving <= group:
                others = [x for k, x in enumerate(node.inputs) if k in group - moving]
                if all(x.is_empty() or _is_zero(x) for x in others):
                    return True
        return False

    def all(self, values: Iterable[Value]) -> bool:
        """Whether these are multiplied as the sources are, or zero."""
        return all(x.is_empty() or x.name in self.ones or _is_zero(x) for x in values)


def _is_zero(value: Any) -> bool:
    """Whether a value is known to be a constant of zeros."""
    while isinstance(value, gs.Variable) and value.inputs and value.inputs[0].op in _SPREADING:
        node = value.inputs[0]
        value = node.attrs.get("value") if node.op == "Constant" else node.inputs[0]
    if not isinstance(value, gs.Constant) or np.prod(value.shape, dtype=np.int64) * 2 >= LARGE:
        return False
    return not np.any(np.asarray(value.values))
