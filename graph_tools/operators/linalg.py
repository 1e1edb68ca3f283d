"""Determinants."""

from __future__ import annotations

import numpy as np

from onnx_attribution.graph_tools.ir.control_flow_emit import loop
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, vjp
from onnx_attribution.graph_tools.operators.tricks import convert, dimensions, rank_of

UNROLLED = 6  # larger matrices, and those of unknown size, take a loop


@vjp("Det")
def det(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """g times the cofactors, which exist where no inverse does, by Faddeev and LeVerrier.

    M_1 = I, M_(k+1) = A M_k - tr(A M_k) / k I; then (-1)^(n-1) M_n is the adjugate. Computed in float64, as its terms
    cancel.
    """
    x = node.input(0)
    rank, size = rank_of(x), dimensions(x)[-1]
    wide = op.cast(x, np.float64)
    count = op("Reshape", op.dims(x, -1) if op.graph.opset >= 15 else op.dims(x, rank - 1), op.ints([]))
    square = op("Concat", *(op.dims(x, rank - 1, rank),) * 2, axis=0)
    one = op("EyeLike", op("Expand", op.constant(np.float64(0)), square))
    first = op("Add", op("Mul", wide, op.like(wide, 0)), one)  # in the shape of x

    def step(op: Emitter, m: Value, k: Value) -> Value:
        product = op("MatMul", wide, m)
        trace = op("ReduceSum", op("Mul", product, one), op.ints([-2, -1]), keepdims=1)
        return op("Sub", product, op("Mul", op("Div", trace, k), one))

    if isinstance(size, int) and size <= UNROLLED:
        last: Value = first
        for k in range(1, size):
            last = step(op, last, op.like(wide, k))
    else:
        trips = op("Sub", count, op.constant(np.int64(1)))
        first.shape = [None] * rank

        def body(
            op: Emitter, k: Value, going: Value, states: list[Value]
        ) -> tuple[Value, list[Value], list[Value]]:
            number = op.cast(op("Add", k, op.constant(np.int64(1))), np.float64)
            return op("Identity", going), [step(op, states[0], number)], []

        finals, _ = loop(op, body, trips, op.constant(np.asarray(True)), [first], [[], [], [None] * rank])
        last = finals[0]
    even = op("Equal", op("Mod", count, op.constant(np.int64(2))), op.constant(np.int64(0)))
    signed = op("Where", even, op("Neg", last), last)
    cofactors = op("Transpose", signed, perm=[*range(rank - 2), rank - 1, rank - 2])
    return (convert(op, op("Mul", op("Unsqueeze", op.cast(g, np.float64), op.ints([-2, -1])), cofactors), x),)
