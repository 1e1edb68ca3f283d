"""Small parts of a graph: what makes a value, past operators that keep its numbers, and whether two values are one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Shape

SAME = frozenset({"Cast", "Dropout", "Identity"})
SPREADING = SAME | {"Expand", "Reshape", "Squeeze", "Tile", "Unsqueeze"}
DEPTH = 8


def maker_of(value: gs.Tensor) -> gs.Node | None:
    return value.inputs[0] if value.inputs else None


def made_by(value: gs.Tensor, operator: str) -> gs.Node | None:
    """The node that makes a value, if it has this operator; what keeps the numbers is passed over."""
    node = maker_of(past(value, SAME))
    return node if node is not None and node.op == operator else None


def past(value: gs.Tensor, through: frozenset[str]) -> gs.Tensor:
    """The value before the nodes of these operators."""
    while value.inputs and value.inputs[0].op in through:
        value = value.inputs[0].inputs[0]
    return value


def number_of(value: gs.Tensor) -> float | None:
    """The number that a constant of one element holds, or of many equal ones."""
    value = past(value, SPREADING)
    if not isinstance(value, gs.Constant) or not 1 <= np.prod(value.shape) <= 1 << 16:
        return None
    array: Any = np.asarray(value.values).astype(np.float64).reshape(-1)
    return float(array[0]) if (array == array[0]).all() else None


def added_to_one(value: gs.Tensor) -> gs.Tensor | None:
    """What is added to one."""
    node = made_by(value, "Add")
    if node is None:
        return None
    for one, other in (node.inputs[:2], node.inputs[1::-1]):
        if number_of(one) == 1:
            return past(other, SAME)
    return None


def negated(value: gs.Tensor) -> gs.Tensor | None:
    """What a value is the negative of."""
    node = maker_of(past(value, SAME))
    if node is None:
        return None
    if node.op == "Neg":
        return node.inputs[0]
    if node.op == "Sub" and number_of(node.inputs[0]) == 0:
        return node.inputs[1]
    if node.op == "Mul":
        for one, other in (node.inputs[:2], node.inputs[1::-1]):
            if number_of(one) == -1:
                return other
    if node.op == "Div" and number_of(node.inputs[1]) == -1:
        return node.inputs[0]
    return None


def is_made_of(value: gs.Tensor, source: gs.Tensor) -> bool:
    """Whether a value is made of another one, a few nodes before it."""
    source, frontier = past(source, SAME), [value]
    for _ in range(DEPTH):
        if any(past(x, SAME) is source for x in frontier):
            return True
        frontier = [y for x in frontier for node in x.inputs for y in node.inputs]
    return False


def reduced_axis(node: gs.Node) -> int | None:
    """The one axis that a reduction takes."""
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
        axes = np.asarray(node.inputs[1].values).reshape(-1).tolist()
    return int(axes[0]) if axes is not None and len(axes) == 1 else None


def is_same(left: gs.Tensor, right: gs.Tensor, depth: int = 0) -> bool:
    """Whether two values are one, or are made alike of the same ones."""
    left, right = past(left, SAME), past(right, SAME)
    if left is right:
        return True
    one, other = maker_of(left), maker_of(right)
    if one is None or other is None or depth > DEPTH:
        return False
    alike = one.op == other.op and one.domain == other.domain and len(one.inputs) == len(other.inputs)
    place = [z is left for z in one.outputs] == [z is right for z in other.outputs]
    return (
        alike
        and place
        and repr(sorted(one.attrs.items())) == repr(sorted(other.attrs.items()))
        and all(_same_input(a, b, depth) for a, b in zip(one.inputs, other.inputs, strict=True))
    )


def _same_input(left: gs.Tensor, right: gs.Tensor, depth: int) -> bool:
    if isinstance(left, gs.Constant) and isinstance(right, gs.Constant):
        return left.shape == right.shape and np.array_equal(np.asarray(left.values), np.asarray(right.values))
    return is_same(left, right, depth + 1)


def are_alike(left: Shape | None, right: Shape | None) -> bool:
    """Whether two shapes are the same as far as they are known."""
    if left is None or right is None or len(left) != len(right):
        return False
    pairs = zip(left, right, strict=True)
    return all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))
