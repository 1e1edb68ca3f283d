"""Secants of determinants and inverses."""

from __future__ import annotations

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView
from onnx_attribution.graph_tools.operators.secant import parts, secant
from onnx_attribution.graph_tools.operators.tricks import declare, dimensions, rank_of

EXPANDED = 5  # the expansion of a larger determinant has too many products


@secant("Inverse")
def inverse(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """Y - Y' = -(Y' D Y + Y D Y') / 2 with D = X - X', exactly."""
    last = rank_of(node.z)
    swap = [*range(last - 2), last - 1, last - 2]
    here, there = (op("Transpose", view.z, perm=swap) for view in (node, reference))
    both = [op("MatMul", op("MatMul", left, g), right) for left, right in ((there, here), (here, there))]
    made = op("Mul", op("Add", *both), op.like(g, -0.5))
    return (declare(made, dimensions(node.input(0))),)


@parts("Det")
def det(op: Emitter, node: NodeView) -> Value:
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
