"""Determinants."""

from __future__ import annotations

import numpy as np

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.control_flow_emit import loop
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, decomposed, secant, vjp
from onnx_attribution.graph_tools.operators.transpose import convert, declare, dimensions, rank_of

UNROLLED = 6  # larger matrices, and those of unknown size, take a loop


EXPANDED = 5  # the expansion of a larger determinant has too many products


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


@decomposed("Det")
def det_decomposed(op: Emitter, node: NodeView) -> Value:
    """Laplace's expansion row by row, each product at its midpoint; minors of the same columns are shared."""
    x = node.input(0)
    rank, size = rank_of(x), dimensions(x)[-1]
    if not isinstance(size, int) or size > EXPANDED:
        raise NotDifferentiable(
            f"DeepLIFT has no rule for Det (node {node.name!r}) of more than {EXPANDED} rows or of an unknown number",
            reason=Reason.NO_SECANT, node=node.name, operator="Det", tensor=node.z.name,
        )  # fmt: skip
    one = [*dimensions(x)[:-2], 1, 1]
    axes = op.ints([rank - 2, rank - 1])

    def element(row: int, column: int) -> Value:
        made = op("Slice", x, op.ints([row, column]), op.ints([row + 1, column + 1]), axes)
        return declare(made, one)

    minors: dict[tuple[int, ...], Value] = {(c,): element(size - 1, c) for c in range(size)}

    def minor(columns: tuple[int, ...]) -> Value:
        """The determinant of the last rows, as many as there are columns."""
        if columns not in minors:
            terms = []
            for k, column in enumerate(columns):
                rest = minor(columns[:k] + columns[k + 1 :])
                term = declare(op("Mul", element(size - len(columns), column), rest), one)
                terms.append(term if k % 2 == 0 else declare(op("Neg", term), one))
            minors[columns] = declare(op("Sum", *terms), one)
        return minors[columns]

    return declare(op("Squeeze", minor(tuple(range(size))), axes), dimensions(node.z))


@vjp("Inverse", domain="com.microsoft")
def inverse(op: Emitter, node: NodeView, g: Value) -> Gradients:
    rank = rank_of(node.z)
    turned = op("Transpose", node.z, perm=[*range(rank - 2), rank - 1, rank - 2])
    return (op("Neg", op("MatMul", turned, op("MatMul", g, turned))),)


@secant("Inverse", domain="com.microsoft")
def inverse_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """Y - Y' = -(Y' D Y + Y D Y') / 2 with D = X - X', exactly."""
    last = rank_of(node.z)
    swap = [*range(last - 2), last - 1, last - 2]
    here, there = (op("Transpose", view.z, perm=swap) for view in (node, reference))
    both = [op("MatMul", op("MatMul", left, g), right) for left, right in ((there, here), (here, there))]
    made = op("Mul", op("Add", *both), op.like(g, -0.5))
    return (declare(made, dimensions(node.input(0))),)
