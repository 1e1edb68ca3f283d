"""Sums of squares: what is 0 only where everything that it is made of is 0, and has a minimum there."""

from __future__ import annotations

import numpy as np

from onnx_attribution.graph_tools.ir.emit import Value
from onnx_attribution.graph_tools.operators.transpose import known_inside

_MOVES = frozenset(
    {
        "Cast",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "ReduceMean",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Slice",
        "Split",
    }
    | {"Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
"""Operators whose output is a sum of squares where their first input is one."""
_ALL = frozenset({"Add", "Concat", "Max", "Sum"})
"""Those of which every input has to be one."""


def is_sum_of_squares(value: Value, depth: int = 32) -> bool:
    """Whether every way to the value goes through a square or an absolute value, and none of it is taken away again."""
    if (numbers := known_inside(value)) is not None:
        return bool(np.all(numbers.astype(np.float64) >= 0))
    if not value.inputs or not depth:
        return False
    node = value.inputs[0]
    inputs = [x for x in node.inputs if not x.is_empty()]
    if node.op in ("Abs", "ReduceSumSquare", "ReduceL1"):
        return True
    if node.op == "Pow":
        exponent = known_inside(inputs[1])
        return exponent is not None and bool(np.all(exponent % 2 == 0))
    if node.op == "Mul" and inputs[0] is inputs[1]:
        return True
    if node.op in ("Mul", "Div"):
        scales = [x for x in inputs[node.op == "Div" :] if known_inside(x) is not None]
        squares = [x for x in inputs if known_inside(x) is None]
        return len(scales) == len(squares) == 1 and all(is_sum_of_squares(x, depth - 1) for x in inputs)
    if node.op in _MOVES:
        return is_sum_of_squares(inputs[0], depth - 1)
    return node.op in _ALL and all(is_sum_of_squares(x, depth - 1) for x in inputs)
