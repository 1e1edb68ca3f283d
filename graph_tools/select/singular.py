"""Normalisations of what is zero where the sources are: they turn within a small part of a path away from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Value
from onnx_attribution.graph_tools.ir.reach import ancestors
from onnx_attribution.graph_tools.ir.subgraphs import key_of
from onnx_attribution.graph_tools.select.homogeneous import Degrees

_NORMS: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("", "GroupNormalization"): (0,),
    ("", "InstanceNormalization"): (0,),
    ("", "LayerNormalization"): (0,),
    ("", "RMSNormalization"): (0,),
    ("", "SimplifiedLayerNormalization"): (0,),
    ("com.microsoft", "GroupNorm"): (0,),
    ("com.microsoft", "SkipLayerNormalization"): (0, 1),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): (0, 1),
}
"""Normalisations, and the inputs of which they take the sum."""
_SQUARES = frozenset({"Pow", "ReduceSumSquare"})
_SAME = frozenset(
    {"GlobalAveragePool", "Identity", "ReduceMean", "ReduceSum", "Reshape", "Squeeze", "Unsqueeze"}
)


def width_at_zero(graph: gs.Graph, sources: Sequence[str], target: str) -> float:
    """The least root of an epsilon among normalisations of what is in proportion to the sources; 0: there is none.

    Where the sources move away from zeros, such a one turns from zeros to what it is at x within this much of the way,
    divided by the deviation of what it takes.
    """
    found, degrees, squares, shifted = list[float](), Degrees(sources), set[str](), dict[str, float]()
    leading = ancestors(list(graph.nodes), [target])
    for node in graph.nodes:
        if any(z.name in leading for z in node.outputs) and not any(z.name in sources for z in node.outputs):
            found += _epsilon(node, degrees, shifted)
            _follow(node, degrees, squares, shifted)
        degrees.follow(node)
    return float(np.sqrt(min(found))) if found else 0.0


def _epsilon(node: gs.Node, degrees: Degrees, shifted: Mapping[str, float]) -> list[float]:
    """The epsilon of a normalisation, or of the root that one in several nodes takes."""
    taken = _NORMS.get(key_of(node))
    if taken is not None and degrees.all([node.inputs[k] for k in taken]):
        return [float(node.attrs.get("epsilon", 1e-5))]
    if key_of(node) in {("", "Sqrt"), ("", "Pow")} and node.inputs[0].name in shifted:
        return [shifted[node.inputs[0].name]]
    return []


def _follow(node: gs.Node, degrees: Degrees, squares: set[str], shifted: dict[str, float]) -> None:
    """Which tensors are squares of what is in proportion to the sources, and which have a number above 0 added."""
    if key_of(node)[0] or not node.outputs:
        return
    made = node.outputs[0].name
    is_square = degrees.all(node.inputs[:1] if node.op in _SQUARES else node.inputs)
    if (node.op in ("Mul", *_SQUARES) and is_square) or (node.op in _SAME and node.inputs[0].name in squares):
        squares.add(made)
    elif node.op == "Add":
        for one, other in (node.inputs, node.inputs[::-1]):
            if one.name in squares and (number := _number(other)) > 0:
                shifted[made] = number


def _number(value: Value) -> float:
    if isinstance(value, gs.Variable) and value.inputs and value.inputs[0].op == "Constant":
        value = value.inputs[0].attrs.get("value")
    return (
        float(np.asarray(value.values).reshape(-1)[0])
        if isinstance(value, gs.Constant) and np.prod(value.shape) == 1
        else 0.0
    )
